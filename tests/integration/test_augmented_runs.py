"""Whole runs on changed texts: which rows change, that the saved recipe makes the same run again, and what the card
says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.small_runs import image_folder, small_recipe, stop_after
from helpers.tiny import tiny_image_checkpoint
from safetensors.torch import load_file

from hf_finetune import Launch, Model, Recipe, TextData, Train
from hf_finetune.augmentation.augmenter import Augmenter
from hf_finetune.augmentation.compose import Compose, Phases, Sometimes
from hf_finetune.augmentation.offline import with_copies
from hf_finetune.augmentation.operations import TextBatch
from hf_finetune.augmentation.text.characters import ChangeCase, KeyboardTypos
from hf_finetune.augmentation.text.operations import TextOperation
from hf_finetune.augmentation.text.presets import Eda
from hf_finetune.augmentation.text.sentences import MixHalves
from hf_finetune.augmentation.text.words import SwapWords
from hf_finetune.cli.main import main_command
from hf_finetune.errors import StoppedBySignal
from hf_finetune.pipeline import run
from hf_finetune.pipeline.augment import run_augmenter
from hf_finetune.pipeline.load_data import load_splits
from hf_finetune.pipeline.run import prepare
from hf_finetune.utils.plain import merge

pytestmark = pytest.mark.usefixtures("gate_here")

OPERATIONS = (Eda(0.3), KeyboardTypos(0.2), Sometimes(MixHalves(1.0), 0.5))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return small_recipe(tmp_path_factory.mktemp("input"))


def augmented(recipe: Recipe, *operations: TextOperation, copies: int = 0) -> Recipe:
    return replace(recipe, data=replace(recipe.data, augment=operations, augment_copies=copies))


def trained(recipe: Recipe, folder: Path) -> dict[str, torch.Tensor]:
    run.run(recipe, Launch(str(folder)))
    return load_file(folder / "model" / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("copies", [0, 2])
def test_the_saved_recipe_makes_the_same_run_again(recipe: Recipe, tmp_path: Path, copies: int) -> None:
    first = trained(augmented(recipe, *OPERATIONS, copies=copies), tmp_path / "first")
    saved = json.loads((tmp_path / "first" / "recipe.json").read_text())["recipe"]
    again = merge(Recipe(name="", data=TextData(path=""), model=Model("")), saved)
    assert again.data.augment == OPERATIONS and again.data.augment_copies == copies
    assert same(first, trained(again, tmp_path / "again"))
    assert not same(first, trained(recipe, tmp_path / "plain"))
    card = (tmp_path / "first" / "README.md").read_text()
    assert "| data.augment | `Eda(alpha=0.3), KeyboardTypos(p=0.2), Sometimes(operation=MixHalves(p=1.0))` |" in card
    assert ("| data.augment_copies | 2 |" in card) == (copies == 2)
    result = json.loads((tmp_path / "first" / "result.json").read_text())
    assert result["augmentation"] == {
        "operations": ["Eda(alpha=0.3)", "KeyboardTypos(p=0.2)", "Sometimes(operation=MixHalves(p=1.0))"],
        "mix": [],
        "copies": copies,
        "training_rows": result["rows"]["train"] * (1 + copies),
        "left_out": 0,
    }


def test_copies_that_equal_a_row_that_is_scored(recipe: Recipe, tmp_path: Path) -> None:
    """Of 60 copies two are made validation rows: they are not trained on."""
    scored = tmp_path / "validation.csv"
    scored.write_text("text,label\nneither,good\nnor,bad\n")
    recipe = augmented(recipe, SwapWords(0.5), copies=1)
    recipe = replace(recipe, data=replace(recipe.data, validation=str(scored)))
    prepared = prepare(recipe)
    copied = with_copies(
        prepared.data.splits.train,
        prepared.data.inputs,
        run_augmenter(prepared),
        1,
    )["text"][:]
    some = [text for text, before in zip(copied[60:], copied, strict=False) if text != before][:2]
    scored.write_text(f"text,label\n{some[0]},good\n{some[1]},bad\n")
    trained(recipe, tmp_path / "run")
    found = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (found["augmentation"]["training_rows"], found["augmentation"]["left_out"]) == (118, 2)
    assert found["steps"] == 15


@pytest.mark.parametrize("copies", [0, 2])
def test_rows_that_are_scored_stay_as_they_are(
    recipe: Recipe, tmp_path: Path, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever reaches the operations is a training row, each once an epoch or a copy."""
    shown: list[str] = []
    change = Augmenter.texts

    def watched(self: Augmenter, raw: dict[str, list], *where, **more):
        shown.extend(raw["text"])
        return change(self, raw, *where, **more)

    monkeypatch.setattr(Augmenter, "texts", watched)
    splits = load_splits(recipe.data)
    trained(augmented(recipe, *OPERATIONS, copies=copies), tmp_path / "run")
    assert sorted(shown) == sorted(splits.train["text"][:] * max(1, copies))
    assert set(splits.validation["text"]) - set(splits.train["text"])


def test_phases_hold_for_their_steps_and_a_run_that_was_stopped_goes_on_in_its_own(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """14 steps: 6 in capitals, then 3 with typing errors, across the end of the epoch, then 5 as they are."""
    shown: list[TextBatch] = []
    change = Augmenter.texts

    def watched(self: Augmenter, raw: dict[str, list], *where: int) -> TextBatch:
        shown.append(change(self, raw, *where))
        return shown[-1]

    monkeypatch.setattr(Augmenter, "texts", watched)
    phases = Phases((ChangeCase(1.0, to="upper"), KeyboardTypos(1.0), Compose(())), (6 / 14, 9 / 14))
    twice = Train(num_train_epochs=2.0, per_device_train_batch_size=8, learning_rate=1e-3)
    chosen = replace(augmented(recipe, phases), train=twice)
    straight = trained(chosen, tmp_path / "straight")
    plain = set(load_splits(recipe.data).train["text"])
    assert [
        "capitals" if all(text.isupper() for text in batch.texts) else "none" if set(batch.texts) <= plain else "typos"
        for batch in shown
    ] == ["capitals"] * 6 + ["typos"] * 3 + ["none"] * 5
    stop_after(monkeypatch, 4)
    with pytest.raises(StoppedBySignal):
        run.run(chosen, Launch(str(tmp_path / "stopped"), resume=True))
    run.run(chosen, Launch(str(tmp_path / "stopped"), resume=True))
    assert same(straight, load_file(tmp_path / "stopped" / "model" / "model.safetensors"))


def test_copies_without_room_are_the_first_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before what is noted of the data and the images that there was room for."""
    flags = ["--model", str(tiny_image_checkpoint(tmp_path / "vit")), "--output", str(tmp_path / "run")]
    flags += ["--data.augment", "[Flip]", "--data.augment-copies", "1"]
    # 18 training images of 3 x 32 x 32 have 55,296 bytes: once, and not twice.
    for cache_gb, needed in (("0.00001", "0.000055 GB are needed, "), ("0.00006", "0.000055 GB are needed beside")):
        with pytest.raises(SystemExit) as left:
            main_command(["train", str(image_folder(tmp_path / "rows", 20)), *flags, "--batching.cache-gb", cache_gb])
        (line,) = capsys.readouterr().err.splitlines()
        assert left.value.code == 2 and not (tmp_path / "run").exists()
        assert line.startswith("data.augment_copies: expected 0, which") and needed in line


def test_nothing_at_strength_0(recipe: Recipe, tmp_path: Path) -> None:
    dense = replace(recipe, optim=replace(recipe.optim, word_embeddings="dense"))
    off = augmented(dense, Eda(0.0), KeyboardTypos(0.0))
    assert same(trained(off, tmp_path / "off"), trained(dense, tmp_path / "plain"))
