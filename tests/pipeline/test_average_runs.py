"""The mean of the weights of several runs: by hand, where it is worse, and of what it is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_runs import furthest, recipe_of_a_word, text_rows
from helpers.tiny import tiny_text_checkpoint
from safetensors.torch import load_file, save_file

from hf_finetune import Averaging, Classifier, GateError, InputError, Launch, Lora, Model, Recipe, run
from hf_finetune.tasks.single_label import SingleLabel
from hf_finetune.utils.files import read_json, write_json
from hf_finetune.utils.manifest import Manifest

pytestmark = pytest.mark.usefixtures("gate_here")
Weights = dict[str, torch.Tensor]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A small recipe whose last layer stays as it is trained."""
    small = recipe_of_a_word(tmp_path, rows=60)
    return replace(small, evaluate=replace(small.evaluate, fold_temperature=False))


def trained(recipe: Recipe, folder: Path, *runs: Path, seed: int = 0) -> Weights:
    averaged = replace(recipe, train=replace(recipe.train, seed=seed), averaging=Averaging(runs=tuple(map(str, runs))))
    run(averaged, Launch(str(folder)))
    return load_file(folder / "model" / "model.safetensors")


def mean(*weights: Weights) -> Weights:
    return {name: sum(each[name].double() for each in weights) / len(weights) for name in weights[0]}


def test_mean_of_the_weights_of_runs(recipe: Recipe, tmp_path: Path) -> None:
    """As if each was saved alone. The saved model predicts by it, and result.json says so."""
    alone = [trained(recipe, tmp_path / str(seed), seed=seed) for seed in range(3)]
    averaged = trained(recipe, tmp_path / "mean", tmp_path / "0", tmp_path / "1", seed=2)
    assert furthest(averaged, mean(*alone)) < 1e-6 < furthest(averaged, alone[2])
    best = read_json(tmp_path / "mean" / "result.json", "")["best"]
    assert best["weights"] == "runs" and [c["weights"] for c in best["candidates"]] == ["checkpoint", "runs"]
    card = (tmp_path / "mean" / "README.md").read_text()
    assert "of 2 more runs from the same start" in card and str(tmp_path) not in card
    texts = [row["text"] for row in text_rows(20, seed=1)]
    own, saved = (Classifier.load(str(tmp_path / name)).predict_proba(texts) for name in ("2", "mean"))
    assert abs(saved - own).max() > 1e-5


def test_a_run_has_its_share_whatever_temperature_its_last_layer_has(recipe: Recipe, tmp_path: Path) -> None:
    alone = [trained(recipe, tmp_path / str(seed), seed=seed) for seed in range(2)]
    folder = tmp_path / "0"
    divided = {name: value / 4 if name.startswith("classifier.") else value for name, value in alone[0].items()}
    save_file(divided, folder / "model" / "model.safetensors", {"format": "pt"})
    result = read_json(folder / "result.json", "")
    with pytest.raises(GateError, match="not the file that the run wrote"):
        trained(recipe, tmp_path / "mean", folder)
    scaling = {"temperature": 4.0, "folded": True}
    result |= {"temperature_scaling": scaling, "artifacts": Manifest.of(folder).hashes}
    write_json(folder / "result.json", result)
    assert furthest(trained(recipe, tmp_path / "mean", folder, seed=1), mean(*alone)) < 1e-6


def test_a_mean_that_is_worse_is_not_taken(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [trained(recipe, tmp_path / str(seed), seed=seed) for seed in range(2)]
    compare = SingleLabel.compare
    monkeypatch.setattr(SingleLabel, "compare", lambda *scores: {**compare(*scores), "verdict": "worse"})
    assert furthest(trained(recipe, tmp_path / "own", tmp_path / "0", seed=1), alone[1]) == 0
    best = read_json(tmp_path / "own" / "result.json", "")["best"]
    assert best["weights"] != "runs" and best["candidates"][-1]["weights"] == "runs"


def _of_another_start(recipe: Recipe, tmp_path: Path) -> Recipe:
    checkpoint = tiny_text_checkpoint(tmp_path / "other", hidden_size=16)
    return replace(recipe, model=Model(checkpoint=str(checkpoint)))


def _with_renamed_classes(recipe: Recipe, tmp_path: Path) -> Recipe:
    path = tmp_path / "renamed.csv"
    path.write_text(Path(str(recipe.data.path)).read_text().replace(",good", ",fine"))
    return replace(recipe, data=replace(recipe.data, path=str(path)))


@pytest.mark.parametrize(
    ("variant", "why"),
    [
        (_of_another_start, "expected a run that started from the same weights"),
        (_with_renamed_classes, r"expected the same classes in the same order, \['bad', 'fine'\]"),
        (lambda recipe, _: replace(recipe, method="lora", lora=Lora(r=2)), "averaging.runs: expected none with lora"),
    ],
)
def test_a_run_that_differs_is_refused_before_anything_is_written(
    recipe: Recipe, tmp_path: Path, variant: Callable[[Recipe, Path], Any], why: str
) -> None:
    trained(recipe, tmp_path / "run")
    with pytest.raises(InputError, match=why):
        trained(variant(recipe, tmp_path), tmp_path / "new", tmp_path / "run")
    assert not (tmp_path / "new").exists()


def test_a_folder_without_a_finished_run_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"averaging\.runs: .*none: expected the folder of a finished run"):
        trained(recipe, tmp_path / "new", tmp_path / "none")
    assert not (tmp_path / "new").exists()
