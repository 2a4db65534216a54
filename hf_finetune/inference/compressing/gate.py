"""The gate of a candidate: its logits, and what it loses on labeled rows.

Legend: N rows, C outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from hf_finetune.data.inputs import Rows, columns_of
from hf_finetune.data.labels import labels_of
from hf_finetune.data.ragged import flat
from hf_finetune.data.word_inputs import by_row, word_counts
from hf_finetune.errors import GateError
from hf_finetune.evaluation.logits import TOKENS, non_finite_row, predict_logits
from hf_finetune.inference.compressing.rows import CompressRows
from hf_finetune.pipeline.parity import TOLERANCE, reference_logits
from hf_finetune.tasks.base import Task
from hf_finetune.tasks.trained_model import TrainedModel

FEWEST_ROWS = 512
"""Rows whose logits are compared, if there are as many."""
RESAMPLES = 1000


def logits_of(classifier: TrainedModel, rows: Dataset) -> Any:
    """Return the logits (N, C) of canonical rows in float32, or in the formats of a graph; of words `Ragged`."""
    inputs = classifier.inputs
    encoded = inputs.encode_in_memory(rows)
    logits_NC = predict_logits(
        classifier.model,
        Rows(encoded, columns_of(inputs, labels=False)),
        inputs.collate,
        batch_size=None,
        tokens=TOKENS,
        lengths=inputs.lengths(encoded),
        counts=word_counts(encoded),
        progress="score",
    )
    return by_row(encoded, logits_NC)


@dataclass(frozen=True)
class Judgement:
    """What the gate says of a candidate on the rows that choose."""

    metrics: dict[str, Any]
    difference: dict[str, Any]
    gate: dict[str, Any]
    """See `state.Candidate`."""


class Gate:
    """Compares candidates with the source."""

    def __init__(self, source: TrainedModel, rows: CompressRows) -> None:
        self.task, self.rows = source.task, rows
        self.labels = labels_of(rows.choosing)
        self.scores_NC = self.task.scores(logits_of(source, rows.choosing))
        self.compared = _compared_rows(rows)
        self.logits_NC = self.reference(source)

    def reference(self, classifier: TrainedModel) -> np.ndarray:
        """Return the logits of the compared rows, in exact float32."""
        return reference_logits(classifier.model, classifier.inputs, classifier.inputs.encode(self.compared))

    @property
    def tolerance(self) -> float:
        """Largest difference of logits that float32 may make."""
        return TOLERANCE * self.task.logit_size(self.logits_NC)

    def judge(self, candidate: TrainedModel, network_NC: np.ndarray, *, lossy: bool, exact: bool) -> Judgement:
        """Judge a stored candidate.

        Args:
            network_NC: logits of the compared rows by the network from which it was written.
            lossy: whether its logits may differ from those of the source.
            exact: whether its format has to give `network_NC` again.

        Raises:
            GateError: a logit is NaN or infinite.
        """
        found_NC = self.reference(candidate)
        if (row := non_finite_row(flat(found_NC))) is not None:
            raise GateError(f"its logits are not finite ({row[1]})")
        scores_NC = self.task.scores(logits_of(candidate, self.rows.choosing))
        far, stored = (float(np.abs(found_NC - each).max()) for each in (self.logits_NC, network_NC))
        settled_NC = self.task.settled(self.scores_NC)
        difference = self.task.compare(self.labels, scores_NC, settled_NC)
        gate: dict[str, Any] = {
            "rows": len(self.compared),
            "max_abs_difference": far,
            "stored": stored,
            "tolerance": self.tolerance,
            "lossy": lossy,
            "label_agreement": self.task.agreement(scores_NC, settled_NC),
            "score_shift": float(np.abs(flat(scores_NC) - flat(self.scores_NC)).mean()),
        }
        gate["refusal"] = self._refusal(gate, lossy=lossy, exact=exact)
        return Judgement(metrics_of(self.task, self.labels, scores_NC), difference, gate)

    def _refusal(self, gate: dict[str, Any], *, lossy: bool, exact: bool) -> str | None:
        """Return why its logits are not what they have to be. None: they are."""
        # Not `difference > tolerance`: NaN must fail.
        if exact and not gate["stored"] <= self.tolerance:
            return (
                f"what was stored does not compute what the network does: logits differ by {gate['stored']:.3g} on "
                f"{gate['rows']} rows, at most {self.tolerance:.3g} are allowed"
            )
        if not lossy and not gate["max_abs_difference"] <= self.tolerance:
            return f"logits differ by {gate['max_abs_difference']:.3g}, at most {self.tolerance:.3g} are allowed"
        return None

    @property
    def source_metrics(self) -> dict[str, Any]:
        """Those of the source on the rows that choose."""
        return metrics_of(self.task, self.labels, self.scores_NC)


def metrics_of(task: Task, labels: Any, scores_NC: Any) -> dict[str, Any]:
    """Return the metric that judges, and those of the calibration, with intervals."""
    intervals = task.intervals(labels, scores_NC, resamples=RESAMPLES)
    return {name: intervals[name].to_dict() for name in (*task.summary, "ece") if name in intervals}


def _compared_rows(rows: CompressRows) -> Dataset:
    """Return the rows that choose, first, and as many for calibration as are needed."""
    few = rows.choosing.select(range(min(FEWEST_ROWS, len(rows.choosing))))
    missing = min(FEWEST_ROWS - len(few), len(rows.steps.calibration))
    if missing <= 0:
        return few
    more = rows.steps.calibration.select(range(missing))
    return concatenate_datasets([part.remove_columns(["label"]) for part in (few, more)])
