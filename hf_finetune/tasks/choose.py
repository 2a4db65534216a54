"""The task of a run's rows, and that of a saved model."""

from collections.abc import Mapping, Sequence
from typing import Any

from hf_finetune.data.labels import labels_of
from hf_finetune.data.loading import Splits
from hf_finetune.data.tag_scheme import scheme_of
from hf_finetune.data.unlabeled import labeled_rows
from hf_finetune.errors import InputError
from hf_finetune.tasks.base import Task
from hf_finetune.tasks.multi_label import MultiLabel
from hf_finetune.tasks.ordinal import Ordinal
from hf_finetune.tasks.regression import Regression
from hf_finetune.tasks.single_label import SingleLabel
from hf_finetune.tasks.tokens import Entities, Tags
from hf_finetune.utils.messages import short

TASKS: tuple[type[Task], ...] = (SingleLabel, Ordinal, MultiLabel, Regression, Tags, Entities)


def task_of(splits: Splits) -> Task:
    """Return the task of labeled rows."""
    if splits.task == "regression":
        return Regression.of_rows(splits.labels, labels_of(labeled_rows(splits.train)))
    if splits.task == Tags.name:
        return _of_tags(splits.labels)
    return _task(splits.task)(splits.labels)


def _of_tags(labels: Sequence[str], *, constrained: bool = False) -> Task:
    kind = Tags if scheme_of(labels) is None else Entities
    return kind(tuple(labels), constrained)


def _task(name: str) -> type[Task]:
    return next(task for task in TASKS if name in (task.name, task.problem_type))


def task_kind(result: Mapping[str, Any]) -> type[Task]:
    """Return the task of the content of a result.json; that of classes for a result of an earlier version."""
    name, problem = result.get("label_task"), result.get("problem_type")
    by_name, by_problem = ([t for t in TASKS if t.name == name], [t for t in TASKS if t.problem_type == problem])
    both = [task for task in by_name if task in by_problem]
    return next(iter(both or by_name or by_problem), SingleLabel)


def token_architecture(config: Mapping[str, Any]) -> bool:
    """Return whether a config.json is that of a classifier of tokens."""
    names = config.get("architectures")
    return isinstance(names, list) and any(str(name).endswith("ForTokenClassification") for name in names)


def saved_task(checkpoint: str, labels: Sequence[str], config: Mapping[str, Any]) -> Task:
    """Return the task of a trained model.

    Args:
        checkpoint: its name, for messages.
        config: its config.json; without a problem type it classifies.

    Raises:
        InputError: its problem type is unknown, or its thresholds are damaged.
    """
    if token_architecture(config):
        return _of_tags(labels, constrained=config.get("constrained_decoding") is True)
    problem = config.get("problem_type") or SingleLabel.problem_type
    known = {task.problem_type: task for task in reversed(TASKS)}
    if not isinstance(problem, str) or problem not in known:
        raise InputError(
            f"{checkpoint}: its config.json says problem_type {short(problem)}, expected one of {', '.join(known)}"
        )
    if known[problem] is SingleLabel and config.get("ordinal") is True:
        return Ordinal(tuple(labels))
    if known[problem] is not MultiLabel:
        return known[problem](tuple(labels))
    stored = config.get("thresholds")
    if stored is None:
        return MultiLabel(tuple(labels))
    if not isinstance(stored, dict) or set(stored) != set(labels):
        raise InputError(f"{checkpoint}: its config.json has thresholds of other tags than id2label; restore its files")
    if not all(isinstance(t, int | float) and 0 <= t <= 1 for t in stored.values()):
        raise InputError(f"{checkpoint}: its config.json has thresholds outside 0 to 1; restore its files")
    return MultiLabel(tuple(labels), tuple(float(stored[name]) for name in labels))
