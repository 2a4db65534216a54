"""What is said of a teacher: before anybody learns from it, and beside its student.

Legend: N rows, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from hf_finetune.data.unlabeled import labeled_rows
from hf_finetune.distillation.teachers import Answers
from hf_finetune.evaluation.intervals import bootstrap, paired_difference, verdict
from hf_finetune.evaluation.metrics import softmax

logger = logging.getLogger("hf_finetune.run")

SHOWN = ("accuracy", "macro_f1", "log_loss")


def doubts(answers: Answers, splits: Mapping[str, Dataset]) -> list[str]:
    """What speaks against a teacher before anybody learns from it.

    Args:
        splits: the rows that it has answered, with `label`; train and validation among them.
    """
    train_labels = np.asarray(labeled_rows(splits["train"])["label"][:])
    labels_N = np.asarray(splits["validation"]["label"][:])
    accuracy = float((answers.logits["validation"].argmax(-1) == labels_N).mean())
    majority = float((labels_N == np.bincount(train_labels).argmax()).mean())
    if accuracy > majority or majority == 1:
        # Where all rows are of one class, they tell nothing.
        return [*answers.seen]
    return [
        *answers.seen,
        f"the teacher's accuracy on the validation rows, {accuracy:.3f}, is not above that of the most frequent class, "
        f"{majority:.3f}: it was made for other data, or its classes mean something else",
    ]


def report(
    answers: Answers,
    splits: Mapping[str, Dataset],
    probabilities: Mapping[str, np.ndarray],
    *,
    resamples: int,
    shown: Callable[[str], str] = str,
) -> dict[str, Any]:
    """What result.json says of the teacher: its metrics, the student's accuracy minus its own, and doubts.

    Of several these are of all together, and `members` tells each one's weights and accuracy.

    Args:
        splits: the rows, by split: train, and those that were evaluated. The last one is judged by.
        probabilities: the student's of the evaluated splits, shape (N, C).
        resamples: of the intervals.
        shown: makes of a teacher's name what others are told.
    """
    metrics, right = {}, {}
    for split in probabilities:
        labels_N = np.asarray(splits[split]["label"][:])
        found = bootstrap(labels_N, softmax(answers.logits[split]), resamples=resamples)
        metrics[split] = {name: found[name].to_dict() for name in SHOWN}
        right[split] = [logits_NC.argmax(-1) == labels_N for logits_NC in (probabilities[split], answers.logits[split])]
    judged = list(splits)[-1]
    difference = paired_difference(*right[judged])
    own, teachers = (float(rows.mean()) for rows in right["validation"])
    notes = doubts(answers, splits)
    if teachers < own:
        notes.append(
            f"the teacher is less accurate on the validation rows, {teachers:.3f}, than its student, {own:.3f}: "
            "compare with the student trained without it"
        )
        logger.warning(notes[-1])
    return {
        "name": " + ".join(map(shown, answers.names)),
        "weights": answers.weights,
        "members": [_member(one, splits, list(probabilities), shown) for one in answers.members] or None,
        "logits_reused": answers.reused,
        "live": answers.live is not None,
        "metrics": metrics,
        "difference": {**difference.to_dict(), "verdict": verdict(difference)},
        "retention": _ratio(*(float(rows.mean()) for rows in right[judged])),
        "agreement": float((probabilities[judged].argmax(-1) == answers.logits[judged].argmax(-1)).mean()),
        "notes": notes,
    }


def _member(
    one: Answers, splits: Mapping[str, Dataset], evaluated: Sequence[str], shown: Callable[[str], str]
) -> dict[str, Any]:
    """What result.json says of one of several teachers."""
    right = {split: one.logits[split].argmax(-1) == np.asarray(splits[split]["label"][:]) for split in evaluated}
    return {
        "name": shown(one.names[0]),
        "weights": one.weights,
        "logits_reused": one.reused,
        "accuracy": {split: float(rows.mean()) for split, rows in right.items()},
    }


def _ratio(own: float, teachers: float) -> float | None:
    """Share of the teacher's accuracy that the student has; None of a teacher that has none."""
    return own / teachers if teachers else None
