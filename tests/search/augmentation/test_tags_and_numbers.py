"""A search for tags, numbers and levels: trials and final runs are judged by the metric of the task."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.data_files import parquet_file
from helpers.small_runs import small_recipe

from hf_finetune import Recipe, TextData
from hf_finetune.augmentation.text.words import DeleteWords
from hf_finetune.errors import InputError
from hf_finetune.evaluation import multi_label, ordinal, regression
from hf_finetune.search.augmentation.policy_search import search_policy
from hf_finetune.search.augmentation.proxy_task import ProxyTask, Stage
from hf_finetune.search.augmentation.report import describe
from hf_finetune.search.config import SearchOptions
from hf_finetune.search.paired_comparison import compare
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.tasks.multi_label import MultiLabel
from hf_finetune.tasks.ordinal import Ordinal
from hf_finetune.tasks.regression import Regression

TEXTS = [f"a {'good' if i % 3 else 'bad'} {'film' if i % 2 else 'plot'} of {i}" for i in range(60)]


def recipe_of(folder: Path, label: list[Any], **options: Any) -> Recipe:
    path = parquet_file(folder / "rows.parquet", text=TEXTS, label=label)
    recipe = small_recipe(folder)
    return replace(recipe, data=TextData(path=str(path), max_length=16, **options))


def tags(folder: Path) -> Recipe:
    return recipe_of(folder, [[word for word in ("good", "film") if word in text] for text in TEXTS])


def numbers(folder: Path) -> Recipe:
    return recipe_of(folder, [1000.5 + 100 * ("good" in text) + len(text) for text in TEXTS])


def levels(folder: Path) -> Recipe:
    return recipe_of(folder, [str(("good" in text) + ("film" in text)) for text in TEXTS], task="ordinal")


@pytest.mark.parametrize(("make", "metric"), [(tags, "micro_f1"), (numbers, "r2"), (levels, "quadratic_kappa")])
def test_trials_are_judged_by_the_metric(tmp_path: Path, make: Any, metric: str) -> None:
    proxy = ProxyTask(RecipeVariant(make(tmp_path)))
    score = proxy.run([Stage(3)])
    assert proxy.task.judged_by == metric and len(proxy.scored_labels) == pytest.approx(54 / 3, abs=2)
    values = proxy.task.epoch_values(proxy.scored_labels, proxy.logits())
    assert score.judged == pytest.approx(values[metric], rel=1e-5)
    assert (score.value == score.judged) is (make is not levels)
    assert proxy.run([Stage(3)]).value == score.value != proxy.run([Stage(3, (DeleteWords(0.9),))]).value
    other = replace(make(tmp_path), evaluate=replace(make(tmp_path).evaluate, metric="log_loss"))
    expected = "a metric of regression" if make is numbers else f"{metric}, whose differences have intervals"
    with pytest.raises(InputError, match=f"evaluate.metric: expected {expected}"):
        ProxyTask(RecipeVariant(other))


@pytest.mark.parametrize(("make", "metric"), [(tags, "micro_f1"), (numbers, "r2")])
def test_a_search(tmp_path: Path, make: Any, metric: str) -> None:
    recipe = make(tmp_path)
    recipe = replace(recipe, train=replace(recipe.train, max_steps=2))
    state = search_policy(
        RecipeVariant(recipe), SearchOptions(budget_s=1e5, trials=3, seeds=3), output=str(tmp_path / "search")
    )
    assert state["evidence"]["metric"] == metric and state["evidence"]["judgement"] == "undecided"
    assert any(note.startswith("MixHalves is not in the space") for note in state["left_out"])
    runs = json.loads((tmp_path / "search/search.json").read_text())["with"]
    assert [np.shape(run["predicted"]) for run in runs] == [(6, 2 if make is tags else 1)] * 3
    text = describe(state)
    assert f"of {metric} [" in text and ("percentage points" in text) is (make is tags)


def test_paired_runs_by_hand() -> None:
    """Three seeds that are all right, and three that are wrong somewhere: the difference is that of the metrics."""
    rng = np.random.default_rng(0)
    hot, numbers_NT, levels_N = rng.integers(2, size=(300, 2)), rng.normal(size=(300, 1)), rng.integers(3, size=300)
    wrong_hot, wrong_levels = np.where(rng.random((300, 2)) < 0.2, 1 - hot, hot), (levels_N + 1) % 3
    half = np.full(2, 0.5)
    cases = [
        (MultiLabel(("a", "b")), hot, wrong_hot, multi_label.multi_label_metrics(hot, wrong_hot, half)["micro_f1"]),
        (
            Regression(("x",)),
            numbers_NT,
            0 * numbers_NT,
            regression.regression_metrics(numbers_NT, 0 * numbers_NT)["r2"],
        ),
        (
            Ordinal(("a", "b", "c")),
            levels_N,
            wrong_levels,
            ordinal.ordinal_metrics(levels_N, np.eye(3)[wrong_levels])["quadratic_kappa"],
        ),
    ]
    for task, right, wrong, value in cases:
        state = {
            "with": [{"predicted": right.tolist()}] * 3,
            "without": [{"predicted": wrong.tolist()}] * 3,
            "plan": {"image_size": None},
        }
        found = compare(state, right, task, task.judged_by)
        assert found["value"] == pytest.approx(1 - value) and found["judgement"] == "better"
