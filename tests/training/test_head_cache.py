import os
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from helpers.small_runs import small_trainer
from transformers import PreTrainedModel

from hf_finetune.training import head_cache
from hf_finetune.training.warm_start import FittedHead

HEAD = FittedHead(
    torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, -0.2, 1e-30]), 1 / 3
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_was_written_is_read_to_the_bit() -> None:
    assert head_cache.read("a") is None
    head_cache.write("a", HEAD)
    found = head_cache.read("a")
    assert found is not None and found.explained == HEAD.explained
    assert torch.equal(found.weight_CD, HEAD.weight_CD) and torch.equal(found.bias_C, HEAD.bias_C)
    assert head_cache.read("b") is None


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b"", lambda b: b[:40]]
)
def test_a_damaged_head_is_said_and_replaced(cache: Path, caplog: pytest.LogCaptureFixture, damage) -> None:
    head_cache.write("a", HEAD)
    [file] = (cache / "heads").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert head_cache.read("a") is None
    assert "a.head: cannot be used" in caplog.text and "fitted anew" in caplog.text
    head_cache.write("a", HEAD)
    assert torch.equal(head_cache.read("a").weight_CD, HEAD.weight_CD)


def test_a_store_that_cannot_be_written_is_said(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.write_text("a file where the folder should be")
    head_cache.write("a", HEAD)
    assert "cannot be kept for later runs" in caplog.text
    assert head_cache.read("a") is None


def test_heads_used_least_recently_make_room(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_cache, "KEPT", 2)
    for age, key in ((300, "old"), (200, "older"), (100, "used")):
        head_cache.write(key, HEAD)
        when = (cache / "heads" / f"{key}.head").stat().st_mtime - age
        os.utime(cache / "heads" / f"{key}.head", (when, when))
        if key == "older":
            head_cache.read("old")
    head_cache.write("new", HEAD)
    assert {p.stem for p in (cache / "heads").iterdir()} <= {"old", "used", "new"}
    assert head_cache.read("new") is not None and head_cache.read("older") is None


def test_the_key_holds_what_the_bits_depend_on(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, "bert")
    rows = trainer.train_dataset.select_columns(["input_ids", "token_type_ids", "label"])

    def key_of(model: PreTrainedModel, rows: Dataset, batch_size: int = 64) -> str:
        return head_cache.key_of(model, [model.classifier], rows, {"batch_size": batch_size})

    key = key_of(trainer.model, rows)
    again = small_trainer(tmp_path, "bert").model
    assert key_of(again, Dataset.from_dict(rows.to_dict(), features=rows.features)) == key
    # Another random head, as another seed has it: it reaches none of its own inputs.
    torch.nn.init.ones_(again.classifier.weight)
    assert key_of(again, rows) == key

    changed = {"settings": key_of(again, rows, batch_size=32)}
    flipped = [1 - rows["label"][0], *rows["label"][1:]]
    changed["label"] = key_of(again, rows.remove_columns("label").add_column("label", flipped))
    changed["order"] = key_of(again, rows.select([1, 0, *range(2, len(rows))]))
    changed["rows"] = key_of(again, rows.select(range(len(rows) - 1)))
    changed["layers"] = head_cache.key_of(again, [], rows, {"batch_size": 64})
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        changed["threads"] = key_of(again, rows)
    finally:
        torch.set_num_threads(threads)
    with torch.no_grad():
        again.bert.embeddings.word_embeddings.weight[0, 0] += 1e-6
    changed["weight"] = key_of(again, rows)
    assert len({key, *changed.values()}) == 8, changed
