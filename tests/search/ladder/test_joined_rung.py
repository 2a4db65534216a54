"""The rung of the linear model and the head together, on the rows of a small recipe."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.small_runs import small_recipe
from scipy.special import softmax

from hf_finetune import Classifier, Hub
from hf_finetune.data.labels import labels_of
from hf_finetune.features.encoder_states import encoder_features, load_encoder
from hf_finetune.pipeline.context import RunInput
from hf_finetune.search.budget import Budget
from hf_finetune.search.ladder import climb
from hf_finetune.search.ladder.costs import Scoring
from hf_finetune.search.ladder.joined_rung import climb_joined, may_join
from hf_finetune.search.ladder.standing import Standing
from hf_finetune.search.ladder.state import LadderState
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.training.warm_start import FittedHead

COSTS = Scoring(0.01, {"train": 54, "validation": 6}, 3.5)


@pytest.fixture
def base(tmp_path: Path) -> RecipeVariant:
    load_encoder.cache_clear()
    return RecipeVariant(replace(small_recipe(tmp_path), method="auto"))


class Judged:
    """A climb whose linear model and head are judged: each is right, and sure, on other rows."""

    def __init__(self, base: RecipeVariant, folder: Path, seconds: float = 300.0) -> None:
        budget = Budget(seconds)
        self.base, self.loaded = base, climb.load(base, budget)
        splits = self.loaded.data.splits
        rows = splits.validation
        source = load_encoder(base.recipe.model.checkpoint, "text", 32)
        features_ND = encoder_features(source, rows, [(-1, "mean")])[-1, "mean"]
        # A head of random weights, of whatever accuracy.
        weight_CD = np.random.default_rng(0).normal(size=(2, features_ND.shape[1]))
        logits_NC = features_ND @ weight_CD.T
        self.heads = (FittedHead(torch.tensor(weight_CD), torch.zeros(2), 0.5),)
        labels_N = labels_of(rows)
        constant_NC = np.full((len(rows), 2), 0.5)
        head_NC = softmax(logits_NC - logits_NC.mean(axis=0), axis=1)
        linear_NC = np.where(np.eye(2, dtype=bool)[labels_N], 0.9, 0.1)
        state, task = LadderState(folder / "rungs", comparisons=1), self.loaded.data.task
        self.standing = Standing("small", folder, budget, state, task, labels_N, 100)
        for name, scores_NC in (("majority", constant_NC), ("linear", linear_NC), ("head", head_NC)):
            place = state.folder / state.next_folder(name)
            place.mkdir(parents=True)
            self.standing.judge(name, scores_NC, place, started=time.perf_counter(), is_model=False)

    def climb(self, loaded: RunInput | None = None) -> dict[str, Any]:
        climb_joined(self.standing, self.base, loaded or self.loaded, self.heads, COSTS, command=None)
        rung = self.standing.state.find("linear+head")
        assert rung is not None
        return rung.to_dict()


@pytest.mark.usefixtures("gate_here")
def test_both_together_become_a_pipeline_to_use(base: RecipeVariant, tmp_path: Path) -> None:
    judged = Judged(base, tmp_path / "auto")
    rung = judged.climb()
    # It is the first one here that can be the result.
    assert rung["promoted"], rung
    assert rung["title"] == "80% linear + 20% head" and rung["metrics"]["accuracy"]["n"] == 6
    result = json.loads((tmp_path / "auto" / "result.json").read_text())
    assert result["method"] == "classical" and result["parity"]["reload"]["ok"] and result["parity"]["rows"]["ok"]
    assert any("of a head on frozen features: " in note for note in result["notes"])
    assert "mean" in result["classical"]["name"] and result["throughput"]["predict_rows_per_s"] > 0
    # The saved pipeline reads what the rung was judged by.
    model, rows = Classifier.load(str(tmp_path / "auto")), judged.loaded.data.splits.validation
    scores_NC = np.asarray(model.predict_proba(rows["text"][:]))
    linear_NC, head_NC = judged.standing.scores["linear"], judged.standing.scores["head"]
    assert scores_NC.shape == linear_NC.shape == head_NC.shape
    # Once it is climbed, it stays.
    assert judged.climb() == rung


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"hub": Hub(repo_id="me/model")}, "nobody else has .*: it could not be pushed"),
        ({"seconds": 0.0}, r"it would take \d+ s, and 0 are left"),
        ({"heads": ()}, "it needs a linear model and a head"),
        ({"revision": "main"}, "its features would be of another checkpoint"),
    ],
)
def test_where_it_is_left(fields: dict[str, Any], reason: str, base: RecipeVariant, tmp_path: Path) -> None:
    judged = Judged(base, tmp_path / "auto", fields.get("seconds", 300.0))
    judged.heads = fields.get("heads", judged.heads)
    recipe = replace(base.recipe, hub=fields.get("hub", Hub()))
    judged.base = RecipeVariant(replace(recipe, model=replace(recipe.model, revision=fields.get("revision"))))
    rung = judged.climb()
    assert rung["verdict"] == "left" and re.search(reason, rung["reason"])


def test_what_may_have_it(base: RecipeVariant, tmp_path: Path) -> None:
    loaded = climb.load(base, Budget(300))
    task, splits = loaded.data.task, loaded.data.splits
    assert may_join(task, splits, None) and not may_join(task, splits, 3)
    images = replace(splits, train=splits.train.rename_column("text", "image"))
    assert not may_join(task, images, None)
