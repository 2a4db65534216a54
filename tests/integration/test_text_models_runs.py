"""Language models in whole runs: their outputs are trained on, cached, and reused; what cannot end well leaves
nothing."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
from helpers.checkpoints import load_tokenizer
from helpers.language_models import drawing_translator, masked_model, translator
from helpers.small_runs import small_recipe, stop_after, text_rows
from helpers.tiny import tiny_text_checkpoint

from hf_finetune import Launch, Recipe
from hf_finetune.augmentation.augmenter import Augmenter, population_of
from hf_finetune.augmentation.compose import Sometimes
from hf_finetune.augmentation.generative import paraphraser as cached
from hf_finetune.augmentation.generative.back_translation import BackTranslate
from hf_finetune.augmentation.generative.masked_lm import SubstituteByModel
from hf_finetune.augmentation.generative.paraphraser import Paraphraser
from hf_finetune.augmentation.offline import with_copies
from hf_finetune.augmentation.operations import Operation
from hf_finetune.augmentation.text.words import SwapWords
from hf_finetune.data.inputs import TextInputs
from hf_finetune.errors import InputError, StoppedBySignal
from hf_finetune.pipeline import augment, run

ROWS = 12
CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "texts"


@pytest.fixture(scope="module")
def says_good(tmp_path_factory: pytest.TempPathFactory) -> str:
    return masked_model(tmp_path_factory.mktemp("mlm"), good=20.0, film=10.0)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return small_recipe(tmp_path_factory.mktemp("input"))


def augmented(recipe: Recipe, *operations: Operation, copies: int = 1, **train) -> Recipe:
    data = replace(recipe.data, augment=operations, augment_copies=copies)
    return replace(recipe, data=data, train=replace(recipe.train, **train))


def without_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on no weights are read."""
    load = cached.load

    def looked_at(source, device, *limits, **named):
        assert device.type == "meta", f"{source.checkpoint} is loaded"
        return load(source, device, *limits, **named)

    monkeypatch.setattr(cached, "load", looked_at)


def copies_of(rows: datasets.Dataset, *operations: Operation, folder: Path, seed: int = 0) -> list[str]:
    inputs = TextInputs(load_tokenizer(tiny_text_checkpoint(folder / "bert"), max_length=32, sample=["good"]), 32)
    paraphrase = Paraphraser(CPU, 1.0)
    augmentation = Augmenter(operations, seed, population_of(rows, ("bad", "good")), paraphrase)
    copied = with_copies(rows, inputs, augmentation, 1)
    assert copied["text"][: len(rows)] == rows["text"][:] and copied["label"][:] == rows["label"][:] * 2
    return copied["text"][len(rows) :]


def test_copies_are_found_again_without_a_model(
    cache: Path, says_good: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, operations = text_rows(ROWS), (SubstituteByModel(says_good, p=0.5, top_k=2), SwapWords(0.5))
    made = copies_of(rows, *operations, folder=tmp_path)
    assert made != rows["text"][:] and len(list(cache.glob("*/manifest.json"))) == 1
    without_models(monkeypatch)
    assert copies_of(rows, *operations, folder=tmp_path) == made, "what is drawn after the model, too"
    for changed in ("seed", "p", "text"):
        other = rows.map(lambda row: {"text": row["text"] + " so"}) if changed == "text" else rows
        first = replace(operations[0], p=0.6) if changed == "p" else operations[0]
        with pytest.raises(AssertionError, match="is loaded"):
            copies_of(other, first, folder=tmp_path, seed=int(changed == "seed"))


@pytest.mark.usefixtures("cache")
def test_other_weights_in_the_same_folder_generate_anew(tmp_path: Path) -> None:
    operation = SubstituteByModel(str(tmp_path / "mlm"), p=1.0, top_k=1)
    for word in ("good", "film"):
        masked_model(tmp_path / "mlm", **{word: 20.0})
        assert Paraphraser(CPU, 1.0)(operation, ["so it is"], [0]) == [f"{word} {word} {word}"]


def test_drawn_translations_differ_between_rows_and_sentences_and_nothing_else(tmp_path: Path) -> None:
    dice = drawing_translator(tmp_path, good=0.4, film=0.4, end=0.2)
    operation, text = BackTranslate(dice, dice, temperature=1.0, max_length=60), " ".join(["It is."] * 12)
    one, other = Paraphraser(CPU, 0.0)(operation, [text, text], [1, 2])
    assert one != other and Paraphraser(CPU, 0.0)(operation, [text], [2]) == [other]
    words = one.split()
    assert " ".join(words[: len(words) // 12] * 12) != one


def test_damaged_copies_are_made_anew(cache: Path, says_good: str, tmp_path: Path, caplog) -> None:
    rows, operation = text_rows(ROWS), SubstituteByModel(says_good, p=0.5)
    made = copies_of(rows, operation, folder=tmp_path)
    (kept,) = cache.glob("*/texts.json")
    kept.write_text(kept.read_text()[:-1])
    with caplog.at_level(logging.WARNING):
        assert copies_of(rows, operation, folder=tmp_path) == made
    assert "damaged" in caplog.text and json.loads(kept.read_text()) == made


def test_no_room_to_keep_them_is_said_and_stops_nothing(
    cache: Path, says_good: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts, operation = ["so it is", "it was so"], SubstituteByModel(says_good, p=1.0, top_k=1)
    with caplog.at_level(logging.WARNING):
        changed = Paraphraser(CPU, 1e-9)(operation, texts, [0, 1])
    assert changed == ["good good good"] * 2 and not list(cache.glob("*"))
    assert "texts are not cached for later runs: 0.000000036 GB are needed" in caplog.text


@pytest.mark.usefixtures("gate_here")
def test_a_run_trains_on_them_and_the_next_one_finds_them(
    cache: Path, says_good: str, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = translator(tmp_path / "translator", ["good", "film"])
    operations = (Sometimes(SubstituteByModel(says_good, p=0.5)), BackTranslate(back, back, max_length=30))
    seen: list[list[str]] = []

    def recorded(*arguments):
        copied = with_copies(*arguments)
        seen.append(copied["text"][:])
        return copied

    monkeypatch.setattr(augment, "with_copies", recorded)
    rewritten = augmented(recipe, *operations, max_steps=2)
    run.run(rewritten, Launch(output=str(tmp_path / "first")))
    half = len(seen[0]) // 2
    assert set(seen[0][half:]) == {"good film"} and "good film" not in seen[0][:half]
    without_models(monkeypatch)
    run.run(rewritten, Launch(output=str(tmp_path / "second")))
    assert seen[0] == seen[1]
    first, second = (json.loads((tmp_path / n / "result.json").read_text()) for n in ("first", "second"))
    assert first["metrics"] == second["metrics"] and first["time"]["augment_s"] > 0
    card = (tmp_path / "first" / "README.md").read_text()
    assert "BackTranslate(" in card and str(tmp_path) not in card


@pytest.mark.usefixtures("gate_here", "cache")
def test_a_run_does_not_go_on_with_another_model(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a run held to it that uses none."""
    model, folder = masked_model(tmp_path / "mlm", good=20.0), tmp_path / "run"
    augment = augmented(recipe, SubstituteByModel(model, p=0.5), max_steps=2)
    stop_after(monkeypatch, 1)
    with pytest.raises(StoppedBySignal):
        run.run(augment, Launch(output=str(folder)))
    assert len(json.loads((folder / "recipe.json").read_text())["augment_checkpoints"]) == 1
    masked_model(tmp_path / "mlm", film=20.0)
    with pytest.raises(InputError, match=r"^checkpoints of data\.augment: the run in .* has \['.*'\], now it is \['"):
        run.run(augment, Launch(output=str(folder), resume=True))
    masked_model(tmp_path / "mlm", good=20.0)
    tokenizer = tmp_path / "mlm" / "tokenizer_config.json"
    settings = tokenizer.read_text()
    tokenizer.write_text(settings + " ")
    with pytest.raises(InputError, match=r"^tokenizer_config.json of checkpoint 1 of data.augment has changed since"):
        run.run(augment, Launch(output=str(folder), resume=True))
    tokenizer.write_text(settings)
    assert run.run(augment, Launch(output=str(folder), resume=True)) is not None


def test_a_checkpoint_that_will_not_do_is_refused_before_there_is_a_folder(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="weights for masked words are missing"):
        run.run(augmented(recipe, SubstituteByModel(recipe.model.checkpoint)), Launch(output=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()
