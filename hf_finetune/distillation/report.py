"""The report on a teacher: doubts before training, and its metrics beside the student's.

Legend: N rows, C classes.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from datasets import Dataset

from hf_finetune.data.labels import labels_of
from hf_finetune.data.unlabeled import labeled_rows
from hf_finetune.distillation.predictions import TeacherPredictions
from hf_finetune.evaluation.intervals import bootstrap
from hf_finetune.evaluation.metrics import SUMMARY_METRICS, softmax
from hf_finetune.evaluation.paired import paired_difference, verdict

logger = logging.getLogger("hf_finetune.run")


def doubts(predictions: TeacherPredictions, splits: Mapping[str, Dataset]) -> list[str]:
    """Return the reasons to doubt a teacher before a student learns from it.

    Args:
        splits: the predicted rows, with `label`; train and validation among them.
    """
    train_labels_N = labels_of(labeled_rows(splits["train"]))
    labels_N = labels_of(splits["validation"])
    accuracy = float((predictions.logits["validation"].argmax(-1) == labels_N).mean())
    majority = float((labels_N == np.bincount(train_labels_N).argmax()).mean())
    notes = [*predictions.overlaps]
    # Validation rows of a single class say nothing about a teacher.
    if accuracy <= majority < 1:
        notes.append(
            f"the teacher's accuracy on the validation rows, {accuracy:.3f}, is not above that of the most frequent "
            f"class, {majority:.3f}: it was made for other data, or its classes mean something else"
        )
    return notes


def summarize(
    predictions: TeacherPredictions,
    splits: Mapping[str, Dataset],
    probabilities: Mapping[str, np.ndarray],
    *,
    resamples: int,
    public_name: Callable[[str], str] = str,
) -> dict[str, Any]:
    """Build the section `teacher` of result.json: its metrics, the student's accuracy minus the teacher's, and doubts.

    Several teachers are reported together; `members` has the weights and the accuracy of each.

    Args:
        splits: rows by split: train, and the evaluated ones. The last one decides.
        probabilities: the student's, of the evaluated splits, shape (N, C).
        resamples: number of bootstrap resamples.
        public_name: returns the form of a teacher's name that others may read.
    """
    labels = {split: labels_of(splits[split]) for split in probabilities}
    metrics, correct = {}, {}
    for split, student_NC in probabilities.items():
        logits_NC = predictions.logits[split]
        values = bootstrap(labels[split], softmax(logits_NC), resamples=resamples)
        metrics[split] = {name: values[name].to_dict() for name in SUMMARY_METRICS}
        correct[split] = [each_NC.argmax(-1) == labels[split] for each_NC in (student_NC, logits_NC)]
    decisive = list(splits)[-1]
    difference = paired_difference(*correct[decisive])
    student, teacher = (float(rows.mean()) for rows in correct[decisive])
    return {
        "name": " + ".join(map(public_name, predictions.names)),
        "weights": predictions.weights,
        "members": [_member(member, labels, public_name) for member in predictions.members] or None,
        "logits_reused": predictions.cached,
        "live": predictions.online is not None,
        "metrics": metrics,
        "difference": {**difference.to_dict(), "verdict": verdict(difference)},
        "retention": student / teacher if teacher else None,
        "agreement": float((probabilities[decisive].argmax(-1) == predictions.logits[decisive].argmax(-1)).mean()),
        "notes": [*doubts(predictions, splits), *_comparison(*(float(rows.mean()) for rows in correct["validation"]))],
    }


def _comparison(student: float, teacher: float) -> list[str]:
    """Note, and log, that the teacher's accuracy on the validation rows is below the student's."""
    if teacher >= student:
        return []
    note = (
        f"the teacher is less accurate on the validation rows, {teacher:.3f}, than its student, {student:.3f}: compare "
        "with the student trained without it"
    )
    logger.warning(note)
    return [note]


def _member(
    member: TeacherPredictions, labels: Mapping[str, np.ndarray], public_name: Callable[[str], str]
) -> dict[str, Any]:
    """Build the entry of one of several teachers.

    Args:
        labels: labels of the evaluated splits.
    """
    accuracy = {split: float((member.logits[split].argmax(-1) == each_N).mean()) for split, each_N in labels.items()}
    name = public_name(member.names[0])
    return {"name": name, "weights": member.weights, "logits_reused": member.cached, "accuracy": accuracy}
