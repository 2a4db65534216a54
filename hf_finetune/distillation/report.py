"""The report on a teacher: doubts before training, and its metrics beside the student's.

Legend: N rows, C classes, tags or targets.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from datasets import Dataset

from hf_finetune.data.labels import labels_of
from hf_finetune.data.ragged import flat, with_values
from hf_finetune.data.unlabeled import labeled_rows
from hf_finetune.distillation.predictions import TeacherPredictions
from hf_finetune.tasks.base import Task

logger = logging.getLogger("hf_finetune.run")


def doubts(task: Task, predictions: TeacherPredictions, splits: Mapping[str, Dataset]) -> list[str]:
    """Return the reasons to doubt a teacher before a student learns from it.

    Args:
        task: of the data.
        splits: the predicted rows, with `label`; train and validation among them.
    """
    labels, metric = labels_of(splits["validation"]), task.judged_by
    scores_NC = task.scores(predictions.logits["validation"])
    majority_C = task.majority(labels_of(labeled_rows(splits["train"])))
    constant_NC = with_values(labels, np.tile(majority_C, (len(flat(labels)), 1)))
    value, constant = (
        _teacher_task(task, labels, each_NC).values(labels, each_NC).get(metric) for each_NC in (scores_NC, constant_NC)
    )
    notes = [*predictions.overlaps]
    # Validation rows of a single class say nothing about a teacher.
    if value is not None and constant is not None and value <= constant < 1:
        notes.append(
            f"the teacher's {metric} on the validation rows, {value:.3f}, is not above that of "
            f"{task.constant}, {constant:.3f}: it was made for other data, or its {task.outputs} mean something else"
        )
    return notes


def _teacher_task(task: Task, labels: np.ndarray, scores_NC: np.ndarray) -> Task:
    """Return the task with what the validation rows settle for the teacher, as they do for its student."""
    return task.calibrated(labels, scores_NC) if task.calibrates else task


def summarize(
    task: Task,
    predictions: TeacherPredictions,
    splits: Mapping[str, Dataset],
    scores: Mapping[str, np.ndarray],
    *,
    resamples: int,
    public_name: Callable[[str], str] = str,
) -> dict[str, Any]:
    """Build the section `teacher` of result.json: its metrics, the student's minus the teacher's, and doubts.

    Several teachers are reported together; `members` has the weights and the metric of each.

    Args:
        task: of the trained student.
        splits: rows by split: train, and the evaluated ones. The last one decides.
        scores: the student's, of the evaluated splits, shape (N, C).
        resamples: number of bootstrap resamples.
        public_name: returns the form of a teacher's name that others may read.
    """
    labels, metric = {split: labels_of(splits[split]) for split in scores}, task.judged_by
    teacher_NC = {split: task.scores(predictions.logits[split]) for split in scores}
    teacher_task = _teacher_task(task, labels["validation"], teacher_NC["validation"])
    metrics = {
        split: teacher_task.intervals(labels[split], each_NC, resamples=resamples)
        for split, each_NC in teacher_NC.items()
    }
    decisive = list(splits)[-1]
    settled_NC = teacher_task.settled(teacher_NC[decisive])
    student, teacher = (
        {split: model.values(labels[split], each[split]).get(metric) for split in scores}
        for model, each in ((task, scores), (teacher_task, teacher_NC))
    )
    return {
        "name": " + ".join(map(public_name, predictions.names)),
        "weights": predictions.weights,
        "members": [_member(task, member, labels, public_name) for member in predictions.members] or None,
        "logits_reused": predictions.cached,
        "live": predictions.online is not None,
        "metrics": {
            split: {name: values[name].to_dict() for name in task.summary if name in values}
            for split, values in metrics.items()
        },
        "difference": task.compare(labels[decisive], scores[decisive], settled_NC),
        "retention": _retention(student[decisive], teacher[decisive]),
        "agreement": task.agreement(scores[decisive], settled_NC),
        "notes": [
            *doubts(task, predictions, splits),
            *_comparison(task, student["validation"], teacher["validation"]),
        ],
    }


def _retention(student: float | None, teacher: float | None) -> float | None:
    """Return the share of the teacher's metric that the student has. None: the teacher's is no share, or undefined."""
    return student / teacher if student is not None and teacher is not None and teacher > 0 else None


def _comparison(task: Task, student: float | None, teacher: float | None) -> list[str]:
    """Note, and log, that the teacher's metric on the validation rows is below the student's."""
    if student is None or teacher is None or teacher >= student:
        return []
    note = (
        f"the teacher's {task.judged_by} on the validation rows, {teacher:.3f}, is below that of "
        f"its student, {student:.3f}: compare with the student trained without it"
    )
    logger.warning(note)
    return [note]


def _member(
    task: Task, member: TeacherPredictions, labels: Mapping[str, np.ndarray], public_name: Callable[[str], str]
) -> dict[str, Any]:
    """Build the entry of one of several teachers.

    Args:
        labels: labels of the evaluated splits.
    """
    scores = {split: task.scores(member.logits[split]) for split in labels}
    own = _teacher_task(task, labels["validation"], scores["validation"])
    metric = {split: own.values(each, scores[split]).get(task.judged_by) for split, each in labels.items()}
    name = public_name(member.names[0])
    return {"name": name, "weights": member.weights, "logits_reused": member.cached, task.judged_by: metric}
