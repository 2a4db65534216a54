"""Several seeds: the interval over rows and seeds by hand, and runs that collapsed."""

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from datasets import Dataset
from scipy.stats import t

from hf_finetune.config.recipe import Launch
from hf_finetune.errors import GateError
from hf_finetune.evaluation.config import Evaluate
from hf_finetune.evaluation.intervals import Interval
from hf_finetune.pipeline.out_of_fold import OutOfFold
from hf_finetune.search import seeds
from hf_finetune.search.ladder.state import read_scores, write_scores
from hf_finetune.search.seeds import _within, over_rows_and_seeds, seeds_section
from hf_finetune.tasks.single_label import SingleLabel


def test_the_interval_over_rows_and_seeds_by_hand() -> None:
    metrics = [Interval(value, value - 0.0196, value + 0.0196, 1_000) for value in (0.80, 0.82, 0.84)]
    mean = over_rows_and_seeds(metrics)
    rows, seeds = 0.01**2, 0.02**2 / 3
    freedom = (rows + seeds) ** 2 / (rows**2 / 999 + seeds**2 / 2)
    assert mean.value == pytest.approx(0.82)
    assert mean.high - 0.82 == pytest.approx(t.ppf(0.975, freedom) * np.sqrt(rows + seeds))
    same = over_rows_and_seeds([metrics[0]] * 3)
    assert same.high - same.value == pytest.approx(t.ppf(0.975, 999) * 0.01)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("accuracy", 0.0, 1.0), ("quadratic_kappa", -1.0, 1.0), ("r2", None, 1.0), ("log_loss", 0.0, None)],
)
def test_no_interval_has_values_that_the_metric_cannot_have(name: str, low: float | None, high: float | None) -> None:
    within = _within(name, Interval(0.5, -3.0, 4.0, 100))
    assert (within["low"], within["high"]) == (-3.0 if low is None else low, 4.0 if high is None else high)
    assert _within("of evaluate.extra", Interval(0.5, -3.0, 4.0, 100))["high"] == 4.0


def test_with_folds_seeds_are_judged_out_of_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network of a seed was trained on the validation rows, so that it must not predict them: here there is none."""
    rows = Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 0, 0]})
    logits_NC = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    trained = SimpleNamespace(
        task=SingleLabel(("bad", "good")),
        run=SimpleNamespace(
            all_splits=None,
            data=SimpleNamespace(task=SingleLabel(("bad", "good")), splits=None),
            recipe=SimpleNamespace(evaluate=Evaluate(), model=SimpleNamespace(trust_remote_code=False)),
        ),
        setup=SimpleNamespace(encoded=None),
        out_of_fold=OutOfFold(rows, logits_NC[None], np.array([[0, 1, 2]]), 1.0, 1.0),
    )
    known = []
    monkeypatch.setattr(seeds, "train_prepared", lambda *_, **__: nullcontext(trained))
    monkeypatch.setattr(seeds, "finalize", lambda _, evaluation: known.append(evaluation))
    seeds._run_seed(None, tmp_path, None)
    assert np.allclose(read_scores(tmp_path), trained.task.scores(logits_NC))
    # The second of three rows is wrong, by the network of its fold.
    assert known[0].judged_split.metrics["accuracy"].value == pytest.approx(2 / 3)


@pytest.mark.parametrize("failed", [3, 4])
def test_a_resumed_seed_whose_gate_failed_is_refused(
    failed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the run before: it has a result.json, by which it is finished."""
    (tmp_path / "recipe.json").write_text('{"recipe": {}}')
    for seed in (3, 4):
        place = tmp_path / "seeds" / str(seed)
        place.mkdir(parents=True)
        check = {"ok": seed != failed, "rows": 4, "max_abs_difference": 0.5}
        (place / "result.json").write_text(json.dumps({"metrics": {}, "parity": {"reload": check}}))
    for name in ("load_input", "with_network", "promote"):
        monkeypatch.setattr(seeds, name, Mock())
    monkeypatch.setattr(seeds.RecipeVariant, "without_push", lambda variant: variant)
    monkeypatch.setattr(seeds.RecipeVariant, "with_seed", lambda variant, seed: variant)
    with pytest.raises(GateError, match=rf"seeds/{failed}: parity: reload does not reproduce .*; train again"):
        seeds.run_seeds(seeds.RecipeVariant(Mock()), (3, 4), Launch(str(tmp_path), resume=True))


def test_a_collapsed_run_is_named(tmp_path: Path) -> None:
    labels = np.arange(100) % 2
    task = SingleLabel(("bad", "good"))
    for seed, correct in ((3, 90), (4, 92), (5, 50)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        predicted = np.where(np.arange(100) < correct, labels, 1 - labels) if correct > 50 else np.zeros(100, int)
        write_scores(folder, np.eye(2)[predicted])
        value = {"value": correct / 100, "low": correct / 100 - 0.05, "high": correct / 100 + 0.05, "n": 100}
        (folder / "result.json").write_text(json.dumps({"metrics": {"validation": {"accuracy": value}}}))

    class Loaded:
        class data:
            train_labels = labels

            class splits:
                validation = None

            class evaluate:
                folds = None

    Loaded.data.task = task
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_finetune.search.seeds.labels_of", lambda _: labels)
        section = seeds_section(Loaded, tmp_path, (3, 4, 5))
    assert section["collapsed"] == [5] and section["mean"]["accuracy"]["value"] == pytest.approx(0.7733, abs=1e-4)
    assert section["summary"].endswith("collapsed to the most frequent class: seed 5")
    assert [run["has_signal"] for run in section["runs"]] == [True, True, False]
