"""What all teachers of a run have in common: their contract, and classes in the order of the data's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from datasets import Dataset

from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.data.inputs import Inputs
from hf_finetune.data.loading import Splits
from hf_finetune.distillation.cache.logits import Logits
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import quoted


class Teacher(Protocol):
    """What predicts the classes of the data."""

    @property
    def name(self) -> str:
        """File, folder or Hub id, as the user wrote it."""

    @property
    def weights(self) -> str:
        """SHA-256 of what its predictions of the same rows depend on."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What its user should know."""

    def check(self, splits: Splits, student: Inputs, augment: Sequence[object], *, online: bool) -> None:
        """Refuse rows that it cannot predict as the run will ask for it.

        Args:
            student: turns rows into the student's inputs.
            augment: operations that change the training rows.
            online: whether they make views of them in every epoch.

        Raises:
            InputError: naming the field and the remedy.
        """

    def predict(self, rows: Dataset | AugmentedRows, split: str, *, budget_gb: float) -> tuple[Logits, bool]:
        """Return the logits (N, C), float32, of all rows, and whether they were cached; those that were not are now.

        Args:
            rows: canonical rows; or augmented ones, of which the views of their epoch.
            split: what the rows are called.
            budget_gb: gigabytes (10^9 bytes) that all caches may take on the disk.
        """


def class_columns(labels: Sequence[str], teacher_labels: Sequence[str], *, owner: str) -> tuple[int, ...]:
    """Return the place of each of the data's classes among those of a teacher, whose order may be another.

    Args:
        labels: names of the data's classes.
        teacher_labels: names of the teacher's.
        owner: the teacher, for messages.

    Raises:
        InputError: these are not the same classes, or two of the teacher's have one name.
    """
    if len(set(teacher_labels)) < len(teacher_labels):
        repeated = [name for i, name in enumerate(teacher_labels) if name in teacher_labels[:i]]
        raise InputError(
            f"objective.teacher: expected another name for each class, got {owner}, which has {quoted(repeated)} more "
            "than once; name them apart (id2label in its config.json)"
        )
    places = {name: i for i, name in enumerate(teacher_labels)}
    missing = [name for name in labels if name not in places]
    unknown = [name for name in teacher_labels if name not in set(labels)]
    if missing or unknown:
        faults = [f"lacks {quoted(missing)}"] * bool(missing) + [f"has {quoted(unknown)} besides"] * bool(unknown)
        raise InputError(
            f"objective.teacher: expected a classifier of the data's {len(labels)} classes, got {owner}, which "
            f"{' and '.join(faults)}; train one on these classes, or name them alike (id2label in its config.json)"
        )
    return tuple(places[name] for name in labels)


def order_notes(name: str, columns_C: tuple[int, ...]) -> tuple[str, ...]:
    """Note that a teacher's classes stand in another order than the data's: by position it would teach other
    classes."""
    if columns_C == tuple(range(len(columns_C))):
        return ()
    return (f"{name}: its classes stand in another order than the data's; they are matched by name",)
