"""The report on a teacher: doubts before anybody learns from it, and its metrics beside its student's.

Legend: N rows, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from datasets import Dataset

from hf_finetune.data.unlabeled import labeled_rows
from hf_finetune.distillation.predictions import TeacherPredictions
from hf_finetune.evaluation.intervals import bootstrap, paired_difference, verdict
from hf_finetune.evaluation.metrics import SUMMARY_METRICS, softmax

logger = logging.getLogger("hf_finetune.run")


def doubts(predictions: TeacherPredictions, splits: Mapping[str, Dataset]) -> list[str]:
    """Return what speaks against a teacher before anybody learns from it.

    Args:
        splits: the rows that it has predicted, with `label`; train and validation among them.
    """
    train_labels_N = np.asarray(labeled_rows(splits["train"])["label"][:])
    labels_N = np.asarray(splits["validation"]["label"][:])
    accuracy = float((predictions.logits["validation"].argmax(-1) == labels_N).mean())
    majority = float((labels_N == np.bincount(train_labels_N).argmax()).mean())
    if accuracy > majority or majority == 1:
        # Where all rows are of one class, they tell nothing.
        return [*predictions.overlaps]
    return [
        *predictions.overlaps,
        f"the teacher's accuracy on the validation rows, {accuracy:.3f}, is not above that of the most frequent class, "
        f"{majority:.3f}: it was made for other data, or its classes mean something else",
    ]


def summarize(
    predictions: TeacherPredictions,
    splits: Mapping[str, Dataset],
    probabilities: Mapping[str, np.ndarray],
    *,
    resamples: int,
    public_name: Callable[[str], str] = str,
) -> dict[str, Any]:
    """Build the section `teacher` of result.json: its metrics, the student's accuracy minus its own, and doubts.

    Of several these are of all together, and `members` has each one's weights and accuracy.

    Args:
        splits: the rows, by split: train, and those that were evaluated. The last one is judged by.
        probabilities: the student's of the evaluated splits, shape (N, C).
        resamples: of the intervals.
        public_name: makes of a teacher's name what others may read.
    """
    labels = {split: np.asarray(splits[split]["label"][:]) for split in probabilities}
    metrics, correct = {}, {}
    for split, student_NC in probabilities.items():
        logits_NC = predictions.logits[split]
        values = bootstrap(labels[split], softmax(logits_NC), resamples=resamples)
        metrics[split] = {name: values[name].to_dict() for name in SUMMARY_METRICS}
        correct[split] = [each_NC.argmax(-1) == labels[split] for each_NC in (student_NC, logits_NC)]
    judged = list(splits)[-1]
    difference = paired_difference(*correct[judged])
    own, teachers = (float(rows.mean()) for rows in correct["validation"])
    return {
        "name": " + ".join(map(public_name, predictions.names)),
        "weights": predictions.weights,
        "members": [_member(one, labels, public_name) for one in predictions.members] or None,
        "logits_reused": predictions.cached,
        "live": predictions.online is not None,
        "metrics": metrics,
        "difference": {**difference.to_dict(), "verdict": verdict(difference)},
        "retention": _ratio(*(float(rows.mean()) for rows in correct[judged])),
        "agreement": float((probabilities[judged].argmax(-1) == predictions.logits[judged].argmax(-1)).mean()),
        "notes": [*doubts(predictions, splits), *_comparison(own, teachers)],
    }


def _comparison(own: float, teachers: float) -> list[str]:
    """Note, and log, a teacher that is less accurate on the validation rows than its student."""
    if teachers >= own:
        return []
    note = (
        f"the teacher is less accurate on the validation rows, {teachers:.3f}, than its student, {own:.3f}: compare "
        "with the student trained without it"
    )
    logger.warning(note)
    return [note]


def _member(
    one: TeacherPredictions, labels: Mapping[str, np.ndarray], public_name: Callable[[str], str]
) -> dict[str, Any]:
    """Build the entry of one of several teachers.

    Args:
        labels: of the evaluated splits.
    """
    accuracy = {split: float((one.logits[split].argmax(-1) == labels_N).mean()) for split, labels_N in labels.items()}
    name = public_name(one.names[0])
    return {"name": name, "weights": one.weights, "logits_reused": one.cached, "accuracy": accuracy}


def _ratio(own: float, teachers: float) -> float | None:
    """Share of the teacher's accuracy that the student has; None of a teacher that has none."""
    return own / teachers if teachers else None
