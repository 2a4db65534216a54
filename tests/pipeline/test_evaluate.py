"""What a run is compared with."""

from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset

from hf_finetune.evaluation.config import Evaluate
from hf_finetune.features.baselines import Baseline
from hf_finetune.pipeline.evaluate import Scoring
from hf_finetune.tasks.single_label import SingleLabel


def test_runs_on_the_same_splits_share_their_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[int] = []

    def baselines(self: SingleLabel, train: Dataset, rows: Dataset) -> dict[str, Baseline]:
        fitted.append(len(train))
        return {"linear": Baseline("linear", np.zeros((len(rows), 2)))}

    monkeypatch.setattr(SingleLabel, "baselines", baselines)
    train, rows = (Dataset.from_dict({"text": ["a"] * n, "label": [0] * n}) for n in (3, 2))

    def fitted_baselines(rows: Dataset, fingerprint: str = "abc") -> dict[str, Baseline]:
        splits = SimpleNamespace(train=train, fingerprint=fingerprint)
        return Scoring(SingleLabel(("a", "b")), splits, Evaluate(), False).fitted_baselines(rows)

    assert fitted_baselines(rows) is fitted_baselines(rows) and fitted == [3]
    # Other training rows, and other rows to judge.
    fitted_baselines(rows, "def")
    fitted_baselines(rows.select([0]), "def")
    assert fitted == [3, 3, 3]
