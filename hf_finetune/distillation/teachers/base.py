"""The contract of teachers, and the order of their classes.

A teacher is a trained classifier (`network`), a scikit-learn pipeline (`sklearn_pipeline`) or a file of precomputed
predictions (`precomputed`); `loading` tells them apart by name.
"""

from collections.abc import Sequence
from typing import Protocol

from datasets import Dataset

from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.data.config import Activation
from hf_finetune.data.inputs import Inputs
from hf_finetune.data.loading import Splits
from hf_finetune.distillation.cache.logits import Logits
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import quoted


class Teacher(Protocol):
    """Predicts the classes of the data."""

    @property
    def name(self) -> str:
        """File, folder or Hub id, as the user wrote it."""

    @property
    def weights(self) -> str:
        """SHA-256 of everything that its predictions of given rows depend on."""

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of the files that a network teacher is loaded from beside its weights, by name; else none."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user."""

    def check(self, splits: Splits, student: Inputs, augment: Sequence[object], *, online: bool) -> None:
        """Refuse rows that it cannot predict.

        Args:
            student: encodes rows for the student.
            augment: operations that change the training rows.
            online: whether they change the rows in every epoch.

        Raises:
            InputError: naming the field and the remedy.
        """

    def predict(self, rows: Dataset | AugmentedRows, split: str, *, budget_gb: float) -> tuple[Logits, bool]:
        """Return the logits (N, C), float32, of all rows, and whether all were cached before.

        Args:
            rows: canonical rows, or the views of an epoch.
            split: name of the rows, for messages.
            budget_gb: gigabytes (10^9 bytes) that all caches may take on the disk.
        """


def class_columns(
    labels: Sequence[str], teacher_labels: Sequence[str], activation: Activation = "softmax", *, owner: str
) -> tuple[int, ...]:
    """Return the index of each of the data's classes among the teacher's, matched by name.

    A single target may have another name, which is that of a column.

    Args:
        labels: class names of the data.
        teacher_labels: class names of the teacher, in any order.
        activation: of the data's task.
        owner: the teacher, for messages.

    Raises:
        InputError: the classes differ, or two of the teacher's have the same name.
    """
    if activation == "identity" and len(labels) == len(teacher_labels) == 1:
        return (0,)
    if len(set(teacher_labels)) < len(teacher_labels):
        repeated = [name for i, name in enumerate(teacher_labels) if name in teacher_labels[:i]]
        raise InputError(
            f"expected another name for each class, got {owner}, which has {quoted(repeated)} more than once; rename "
            "them (id2label in its config.json)"
        )
    missing = [name for name in labels if name not in teacher_labels]
    unknown = [name for name in teacher_labels if name not in labels]
    if missing or unknown:
        faults = [f"lacks {quoted(missing)}"] * bool(missing) + [f"has {quoted(unknown)} besides"] * bool(unknown)
        raise InputError(
            f"expected a classifier of the data's {len(labels)} classes, got {owner}, which {' and '.join(faults)}; "
            "train one on these classes, or give its classes the same names (id2label in its config.json)"
        )
    return tuple(map(list(teacher_labels).index, labels))


def order_notes(name: str, columns_C: tuple[int, ...]) -> tuple[str, ...]:
    """Return a note on a teacher whose classes have another order than the data's."""
    if columns_C == tuple(range(len(columns_C))):
        return ()
    return (f"{name}: its classes have another order than the data's; they are matched by name",)
