"""Searches of augmentation whose final runs are made up."""

from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from hf_finetune.search.augmentation import policy_search
from hf_finetune.search.final_runs import FinalRun
from hf_finetune.search.recipe_variant import RecipeVariant

PLENTY = 100_000.0
JUDGED = Dataset.from_dict({"label": [i % 2 for i in range(200)]})


def fake_runs(monkeypatch: pytest.MonkeyPatch, *, right_with: int, right_without: int) -> list[dict[str, Any]]:
    """In place of runs: so many of the validation rows right, whatever the seed."""
    requests: list[dict[str, Any]] = []

    def train_final(searched: RecipeVariant, *, seed: int, steps: int, recipe_steps: int, eval_rows: int) -> FinalRun:
        augment, mix = searched.recipe.data.augment, searched.recipe.objective.mix
        requests.append({"augment": augment, "mix": mix, "seed": seed, "steps": steps})
        labels = np.asarray(JUDGED["label"][:])
        right = right_with if augment or mix else right_without
        predicted = np.where(np.arange(len(labels)) < right, labels, 1 - labels)
        return FinalRun(predicted.tolist(), right / len(labels), 0.5, 1.0, 0.1, 0.1, 0.5, 0.1)

    monkeypatch.setattr(policy_search, "train_final", train_final)
    monkeypatch.setattr(policy_search, "evaluation_rows", lambda splits, most: JUDGED)
    return requests
