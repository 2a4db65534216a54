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


def write(folder: Path, head: FittedHead = HEAD) -> None:
    head_cache.write(folder, head, budget_gb=1.0)


def test_what_was_written_is_read_to_the_bit(cache: Path) -> None:
    folder = cache / "heads" / "a"
    assert head_cache.read(folder) is None
    write(folder)
    result = head_cache.read(folder)
    assert result is not None and result.explained == HEAD.explained
    assert torch.equal(result.weight_CD, HEAD.weight_CD) and torch.equal(result.bias_C, HEAD.bias_C)
    assert head_cache.read(cache / "heads" / "b") is None


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b"", lambda b: b[:40]]
)
def test_a_damaged_head_is_said_and_replaced(cache: Path, caplog: pytest.LogCaptureFixture, damage) -> None:
    folder = cache / "heads" / "a"
    write(folder)
    file = folder / head_cache.FILE
    file.write_bytes(damage(file.read_bytes()))
    assert head_cache.read(folder) is None
    assert f"{folder}: damaged" in caplog.text
    write(folder)
    assert torch.equal(head_cache.read(folder).weight_CD, HEAD.weight_CD)


def test_a_cache_that_cannot_be_written_is_said(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.write_text("a file where the folder should be")
    write(cache / "heads" / "a")
    assert "cannot be cached for later runs" in caplog.text
    assert head_cache.read(cache / "heads" / "a") is None


def test_the_key_holds_what_the_bits_depend_on(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, "bert")
    rows = trainer.train_dataset.select_columns(["input_ids", "token_type_ids", "label"])

    def key_of(model: PreTrainedModel, rows: Dataset, batch_size: int = 64) -> Path:
        return head_cache.entry(model, [model.classifier], rows, {"batch_size": batch_size})

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
    changed["layers"] = head_cache.entry(again, [], rows, {"batch_size": 64})
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
