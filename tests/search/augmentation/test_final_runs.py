"""The final runs of a search: they are those of `train`; their cost, the size of their images, and their schedule."""

import logging
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from datasets import Dataset, Features, Image, Value
from helpers.searches import PLENTY, fake_runs
from helpers.small_runs import image_rows, small_recipe
from helpers.tiny import tiny_image_checkpoint

from hf_finetune import Evaluate, ImageData, Launch, Model, Precision, Recipe, Train
from hf_finetune.augmentation.mixing import Mixup
from hf_finetune.augmentation.text.words import SwapWords
from hf_finetune.errors import InputError
from hf_finetune.models.surgery.patches import image_size_after
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.run import run
from hf_finetune.search import final_runs, planning
from hf_finetune.search.augmentation import measurement, policy_search
from hf_finetune.search.augmentation.policy_search import search_policy
from hf_finetune.search.augmentation.report import describe
from hf_finetune.search.config import SearchOptions
from hf_finetune.search.planning import RunCost
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.training.optim.schedule_config import Schedule


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return small_recipe(tmp_path_factory.mktemp("input"))


@pytest.mark.usefixtures("gate_here")
def test_final_runs_equal_train(recipe: Recipe, tmp_path: Path) -> None:
    """Without a choice of the epoch: one epoch has the same weights at its end."""
    changed = RecipeVariant(recipe).with_policy((SwapWords(0.3),), (Mixup(),))
    actual = final_runs.train_final(changed, seed=1, steps=7, recipe_steps=7, eval_rows=6)
    expected = replace(
        recipe,
        data=replace(recipe.data, augment=(SwapWords(0.3),)),
        objective=replace(recipe.objective, mix=(Mixup(),)),
        train=replace(recipe.train, seed=1, max_steps=7),
        evaluate=replace(recipe.evaluate, parity_rows=1),
    )
    result = run(expected, Launch(output=str(tmp_path / "run")))
    assert result is not None
    assert actual.judged == pytest.approx(result["metrics"]["validation"]["accuracy"]["value"])
    assert actual.log_loss == pytest.approx(result["metrics"]["validation"]["log_loss"]["value"], abs=1e-5)
    assert (
        final_runs.train_final(RecipeVariant(recipe), seed=1, steps=7, recipe_steps=7, eval_rows=6).log_loss
        != actual.log_loss
    )


def image_recipe(folder: Path, *, side: int = 32, rows: int = 16) -> Recipe:
    """A recipe of some images and a tiny ViT for this side; 40 validation rows."""
    features = Features({"image": Image(), "label": Value("int64")})
    for name, count in (("train", rows), ("validation", 40)):
        made = image_rows(count, seed=count).remove_columns("row").to_list()
        Dataset.from_list(made, features=features).to_parquet(folder / f"{name}.parquet")
    return Recipe(
        name="pictures",
        data=ImageData(path=str(folder)),
        model=Model(checkpoint=str(tiny_image_checkpoint(folder / "vit", image_size=side, patch_size=side // 4))),
        method="head",
        train=Train(per_device_train_batch_size=8, max_steps=2),
        precision=Precision(mixed_precision="no"),
        evaluate=Evaluate(resamples=100, baselines=False, parity_rows=1),
    )


@pytest.mark.usefixtures("gate_here")
def test_a_later_run_does_not_use_caches_of_fewer_rows(tmp_path: Path) -> None:
    """Images are distinguished by the data's fingerprint: the activations of 32 validation rows are not those of all
    40."""
    images = image_recipe(tmp_path)
    assert (
        len(final_runs.train_final(RecipeVariant(images), seed=0, steps=2, recipe_steps=2, eval_rows=40).predicted)
        == 40
    )
    result = run(images, Launch(output=str(tmp_path / "run")))
    assert result is not None and result["rows"]["validation"] == 40


@pytest.mark.usefixtures("gate_here")
def test_final_runs_use_half_size_if_full_size_is_too_expensive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = image_recipe(tmp_path, side=128, rows=40)
    sides: list[tuple[str, int | None]] = []

    def noted(module: ModuleType, name: str) -> None:
        real = getattr(module, name)

        def call(searched: RecipeVariant, *arguments: Any, **named: Any) -> Any:
            sides.append((name, image_size_after(searched.recipe.model.surgery)))
            return real(searched, *arguments, **named)

        monkeypatch.setattr(module, name, call)

    noted(measurement, "measure")
    noted(policy_search, "train_final")
    monkeypatch.setattr(planning, "too_expensive", lambda cost, **_: True)
    with caplog.at_level(logging.INFO):
        state = search_policy(
            RecipeVariant(recipe), SearchOptions("sweep", PLENTY, trials=3, seeds=3), output=str(tmp_path / "out")
        )
    # Whole ones are not even measured.
    assert sides == [("measure", 64)] + [("train_final", 64)] * 6
    assert state["plan"]["image_size"] == 64 and state["plan"]["steps"] == 2
    assert "final runs will have images of 64 pixels a side; --budget" in caplog.text
    assert "would do for the recipe as it is, estimated by the pixels" in caplog.text
    assert "2 of 2 steps, images of 64 pixels a side; accuracy" in describe(state)
    fragment = (tmp_path / "out" / "policy.yaml").read_text()
    assert "images of 64 pixels a side" in fragment and "surgery" not in fragment


@pytest.mark.parametrize(
    ("dear", "measured", "taken"),
    [
        ([False, False], [64, None], None),
        ([False, True], [64, None], 64),
        ([True], [64], 64),
    ],
)
def test_final_runs_use_full_size_if_there_is_time(
    dear: list[bool], measured: list[int | None], taken: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, sides, requests = image_recipe(tmp_path, side=128, rows=40), [], iter(dear)
    cost = RunCost(cache_s=0.0, head_s=8.0, fixed_s=1.0, row_s=0.1, eval_row_s=0.01, rows_per_step=8, eval_rows=40)

    def measure(searched: RecipeVariant, *_: Any, **__: Any) -> RunCost:
        sides.append(side := image_size_after(searched.recipe.model.surgery))
        return cost if side else cost.scaled(5)

    observed: list[RunCost] = []

    def too_expensive(cost: RunCost, **_: Any) -> bool:
        observed.append(cost)
        return next(requests)

    monkeypatch.setattr(measurement, "measure", measure)
    monkeypatch.setattr(planning, "too_expensive", too_expensive)
    fake_runs(monkeypatch, right_with=190, right_without=150)
    state = search_policy(
        RecipeVariant(recipe), SearchOptions("sweep", PLENTY, trials=3, seeds=3), output=str(tmp_path / "out")
    )
    assert sides == measured and state["plan"]["image_size"] == taken
    # A head is fitted to the same features with every seed.
    assert state["plan"]["costs"]["run"] == asdict(replace(cost if taken else cost.scaled(5), head_s=0.0))
    # Half of four times the pixels, then as measured.
    assert [round(cost.row_s, 6) for cost in observed] == [0.2, 0.5][: len(dear)]
    assert state["evidence"]["image_size"] == taken


def test_low_resolution_is_measured_at_full_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels tell nothing of it: whole images are measured in any case; and images that no smaller ones can stand
    for."""
    recipe, measured = image_recipe(tmp_path, side=128, rows=40), []
    cost = RunCost(cache_s=0.0, head_s=8.0, fixed_s=1.0, row_s=0.1, eval_row_s=0.01, rows_per_step=8, eval_rows=40)

    def measure(searched: RecipeVariant, *_: Any, **__: Any) -> RunCost:
        measured.append(side := image_size_after(searched.recipe.model.surgery))
        if side and searched.recipe.train.seed == 1:
            raise InputError("not these")
        return cost

    monkeypatch.setattr(measurement, "measure", measure)
    monkeypatch.setattr(planning, "too_expensive", lambda cost, **_: True)
    fake_runs(monkeypatch, right_with=190, right_without=150)
    low = replace(recipe, data=replace(recipe.data, low_resolution=96))
    state = search_policy(
        RecipeVariant(low), SearchOptions("sweep", PLENTY, trials=3, seeds=3), output=str(tmp_path / "low")
    )
    assert measured == [64, None] and state["plan"]["image_size"] == 64
    other = replace(recipe, train=replace(recipe.train, seed=1))
    state = search_policy(
        RecipeVariant(other), SearchOptions("sweep", PLENTY, trials=3, seeds=3), output=str(tmp_path / "none")
    )
    assert measured[2:] == [64, None] and state["plan"]["image_size"] is None


def test_a_model_of_one_input_size_is_measured_at_full_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = image_recipe(tmp_path, side=128, rows=40)
    recipe = replace(recipe, model=Model(str(tiny_image_checkpoint(tmp_path / "swin", "swin", image_size=128))))
    fake_runs(monkeypatch, right_with=190, right_without=150)
    monkeypatch.setattr(planning, "too_expensive", lambda cost, **_: True)
    state = search_policy(
        RecipeVariant(recipe), SearchOptions("sweep", PLENTY, trials=3, seeds=3), output=str(tmp_path / "out")
    )
    assert state["plan"]["image_size"] is None and "a side" not in describe(state)


@pytest.mark.parametrize(("given", "taken"), [(None, None), (0.1, 0.1), (40, 20), (1, 1)])
def test_warmup_scales_with_the_steps(
    recipe: Recipe, given: float | None, taken: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Recipe] = []
    monkeypatch.setattr(final_runs, "_run", lambda searched, *_: requests.append(searched.recipe))
    recipe = replace(recipe, train=replace(recipe.train, warmup_steps=given))
    recipe = replace(
        recipe,
        train=replace(recipe.train, lr_scheduler_type="multistep"),
        schedule=Schedule(milestones=(0.2, 50, 90), gamma=0.5),
    )
    final_runs.train_final(RecipeVariant(recipe), seed=0, steps=50, recipe_steps=100, eval_rows=6)
    assert (requests[0].train.warmup_steps, requests[0].train.max_steps) == (taken, 50)
    assert requests[0].schedule == Schedule(milestones=(0.2, 25, 45), gamma=0.5)


@pytest.mark.parametrize(("name", "rows"), [("linear", 1), ("reduce_lr_on_plateau", 6)])
def test_a_schedule_by_evaluations_monitors_all_rows(
    recipe: Recipe, name: Any, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed, real = [], final_runs.fit_dry

    def fit_dry(prepared: Run, *arguments: Any) -> Any:
        observed.append(len(prepared.data.splits.validation))
        return real(prepared, *arguments)

    monkeypatch.setattr(final_runs, "fit_dry", fit_dry)
    recipe = replace(recipe, train=replace(recipe.train, lr_scheduler_type=name))
    assert len(
        final_runs.train_final(RecipeVariant(recipe), seed=0, steps=2, recipe_steps=2, eval_rows=6).predicted
    ) == 6 and observed == [rows]


def test_a_recipe_with_gradient_accumulation_is_measured(recipe: Recipe) -> None:
    recipe = replace(recipe, train=replace(recipe.train, gradient_accumulation_steps=2))
    assert (
        final_runs.measure(RecipeVariant(recipe), (SwapWords(0.3),), rows=54, rows_per_step=16, eval_rows=6).row_s > 0
    )
