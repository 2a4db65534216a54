"""The rung of the linear model and the head together, on the rows of a small recipe."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.small_runs import small_recipe
from scipy.special import softmax

from hf_finetune import Classifier, Hub
from hf_finetune.data.labels import labels_of
from hf_finetune.features.baselines import BASELINE, linear_baseline
from hf_finetune.features.classical import fit_classical
from hf_finetune.features.config import Classical
from hf_finetune.features.encoder_states import encoder_features, load_encoder
from hf_finetune.features.joined import Pool
from hf_finetune.pipeline.out_of_fold import all_rows
from hf_finetune.search.budget import Budget
from hf_finetune.search.ladder import run
from hf_finetune.search.ladder.costs import Scoring
from hf_finetune.search.ladder.joined_rung import climb_joined, may_join
from hf_finetune.search.ladder.standing import Standing
from hf_finetune.search.ladder.state import LadderState, RungRecord
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.training.warm_start import FittedHead

COSTS = Scoring(0.01, {"train": 54, "validation": 6}, 3.5)


@pytest.fixture
def base(tmp_path: Path) -> RecipeVariant:
    load_encoder.cache_clear()
    return RecipeVariant(replace(small_recipe(tmp_path), method="auto"))


class Judged:
    """A climb whose linear model, and head of random weights on the mean of the tokens, are judged."""

    def __init__(self, base: RecipeVariant, folder: Path, seconds: float = 300.0) -> None:
        budget = Budget(seconds)
        self.base, self.loaded = base, run.load(base, budget, LadderState(folder / "rungs"))
        splits, task = self.loaded.data.splits, self.loaded.data.task
        source = load_encoder(base.recipe.model.checkpoint, "text", 32)
        features_ND = encoder_features(source, splits.validation, [(-1, "mean")])[-1, "mean"]
        weight_CD = np.random.default_rng(0).normal(size=(2, features_ND.shape[1]))
        self.heads: tuple[FittedHead, ...] = (FittedHead(torch.tensor(weight_CD), torch.zeros(2), 0.5),)
        logits_NC = features_ND @ weight_CD.T
        linear = fit_classical(Classical(BASELINE), splits.train, labels=splits.labels)
        scores = {
            "majority": np.full(logits_NC.shape, 0.5),
            "linear": linear.scores(splits.validation),
            "head": softmax(logits_NC - logits_NC.mean(axis=0), axis=1),
        }
        state = LadderState(folder / "rungs", tested=["linear+head"])
        self.standing = Standing("small", folder, budget, state, task, labels_of(splits.validation), 100)
        for name, scores_NC in scores.items():
            place = state.folder / state.next_folder(name)
            place.mkdir(parents=True)
            self.standing.judge(name, scores_NC, place, started=time.perf_counter(), is_model=False)

    def climb(self) -> RungRecord | None:
        climb_joined(self.standing, self.base, self.loaded, self.heads, COSTS, command=None)
        return self.standing.state.find("linear+head")


@pytest.mark.usefixtures("gate_here")
def test_both_together_become_a_pipeline_to_use(base: RecipeVariant, tmp_path: Path) -> None:
    judged = Judged(base, tmp_path / "auto")
    rung = judged.climb()
    # It is the first one here that can be the result.
    assert rung is not None and rung.promoted and rung.metrics["accuracy"]["n"] == 6
    result = json.loads((tmp_path / "auto" / "result.json").read_text())
    assert result["method"] == "classical" and result["parity"]["reload"]["ok"] and result["parity"]["rows"]["ok"]
    assert any(f"of a head on frozen features: {rung.title}" in note for note in result["notes"])
    assert "a pipeline of scikit-learn, " in (tmp_path / "auto" / "README.md").read_text()
    # What judged it is the estimate of the pipeline, which is fitted to all rows.
    splits = judged.loaded.data.splits
    everything = all_rows(splits)
    assert result["rows"] == {"train": len(everything), "validation": 6}
    assert result["metrics"]["validation"]["accuracy"]["value"] == rung.metrics["accuracy"]["value"]
    assert result["throughput"]["predict_rows_per_s"] > 0
    assert any(f"fitted to all {len(everything)} rows at the end" in note for note in result["notes"])
    # The saved pipeline predicts what both models say together, the linear one with all rows.
    linear_NC, head_NC = judged.standing.scores["linear"], judged.standing.scores["head"]
    pool = Pool.fitted(judged.standing.labels, linear_NC, head_NC)
    assert rung.title == f"{pool.share:.0%} linear + {1 - pool.share:.0%} head"
    model, rows = Classifier.load(str(tmp_path / "auto")), splits.validation
    whole_NC = linear_baseline(everything, rows, num_labels=2).scores_NC
    expected_NC = softmax(pool.logits(whole_NC, head_NC), axis=1)
    assert np.asarray(model.predict_proba(rows["text"][:])) == pytest.approx(expected_NC, abs=1e-4)
    # Once it is climbed, it stays.
    assert judged.climb() == rung and len(judged.standing.state.rungs) == 4


def test_without_time_it_is_left_and_said(base: RecipeVariant, tmp_path: Path) -> None:
    rung = Judged(base, tmp_path / "auto", seconds=0.0).climb()
    assert rung is not None and rung.folder is None and re.search(r"take \d+ s, and 0 are left", rung.reason)


def test_long_texts_in_windows_are_no_features_of_an_extractor(base: RecipeVariant, tmp_path: Path) -> None:
    judged = Judged(base, tmp_path / "auto")
    windows = replace(judged.loaded.data.inputs, long="windows")
    judged.loaded = replace(judged.loaded, data=replace(judged.loaded.data, inputs=windows))
    rung = judged.climb()
    assert rung is not None and rung.reason == "left: the head reads long texts whole, an extractor their beginning"


def test_without_a_head_nothing_is_said(base: RecipeVariant, tmp_path: Path) -> None:
    judged = Judged(base, tmp_path / "auto")
    judged.heads = ()
    assert judged.climb() is None
    # A climb of an earlier version that goes on after its head.
    later = Judged(base, tmp_path / "later")
    later.standing.record(RungRecord("top", "left"))
    assert later.climb() is None
    begun = Judged(base, tmp_path / "begun")
    begun.standing.begin({"name": "full", "epochs": 3.0})
    assert begun.climb() is None


def test_what_may_have_it(base: RecipeVariant) -> None:
    loaded = run.load(base, Budget(300), LadderState(Path()))
    task, splits = loaded.data.task, loaded.data.splits
    recipe = base.recipe
    assert may_join(base, task, splits)
    ordinal: Any = SimpleNamespace(has_classes=True, judged_by="kappa")
    assert not may_join(base, ordinal, splits)
    assert not may_join(base, task, replace(splits, train=splits.train.rename_column("text", "image")))
    for changed in (
        {"hub": Hub(repo_id="me/model")},
        {"model": replace(recipe.model, revision="main")},
        {"evaluate": replace(recipe.evaluate, folds=3)},
        {"search": replace(recipe.search, ensemble=True)},
    ):
        assert not may_join(RecipeVariant(replace(recipe, **changed)), task, splits)
