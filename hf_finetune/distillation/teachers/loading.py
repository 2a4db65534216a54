"""Load the teachers of a run by their names."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from hf_finetune.distillation.teachers.base import Teacher, class_columns, order_notes
from hf_finetune.distillation.teachers.network import NetworkTeacher, Precision
from hf_finetune.distillation.teachers.precomputed import is_precomputed, read_precomputed
from hf_finetune.distillation.teachers.sklearn_pipeline import is_sklearn, read_sklearn
from hf_finetune.errors import GateError, InputError
from hf_finetune.models.config import CHECKPOINT_LIMITS, CheckpointLimits
from hf_finetune.tasks.base import Task
from hf_finetune.tasks.trained_model import load_trained
from hf_finetune.training.precision import default_device, has_native_bf16
from hf_finetune.utils import hashing


@dataclass
class Teachers:
    """A run's teachers: loaded on first use, and again on the next use after `release`."""

    names: tuple[str, ...]
    """Folders of runs or classifiers, Hub ids, .skops files, or precomputed predictions."""
    task: Task
    """Of the data. A teacher may have another order of its classes."""
    kind: Literal["text", "image"]
    """Kind of the data."""
    trust_remote_code: bool = False
    precision: Precision = "float32"
    """See `NetworkTeacher`."""
    all_logits: bool = False
    """See `NetworkTeacher`."""
    limits: CheckpointLimits = CHECKPOINT_LIMITS
    """Limits on what the teachers' files say."""
    _members: tuple[Teacher, ...] | None = field(default=None, init=False, repr=False)

    @property
    def members(self) -> tuple[Teacher, ...]:
        """The teachers, loaded.

        Raises:
            InputError: a teacher cannot be loaded, reads the other kind of data, or has other classes; bf16 is chosen
                on a device without it.
        """
        if self._members is None:
            self._members = tuple(map(self._load, self.names))
        return self._members

    @property
    def network(self) -> NetworkTeacher:
        """The only teacher, whose features are compared.

        Raises:
            InputError: it is no network.
        """
        (teacher,) = self.members
        if not isinstance(teacher, NetworkTeacher):
            raise InputError(
                f"objective.kinds: expected losses on the teacher's logits (SoftTargets) beside {teacher.name}, which "
                "is no network with features"
            )
        return teacher

    def release(self) -> None:
        """Free the teachers' memory."""
        self._members = None

    @property
    def weights(self) -> str:
        """SHA-256 of everything that their joint predictions depend on."""
        return combined_weights([teacher.weights for teacher in self.members])

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user."""
        notes = [note for teacher in self.members for note in teacher.notes]
        if self.precision != "float32" and not any(isinstance(teacher, NetworkTeacher) for teacher in self.members):
            notes.append(f"objective.teacher_precision has no effect here: {self.names[0]} is no network")
        return tuple(notes)

    def _load(self, name: str) -> Teacher:
        precomputed, from_sklearn = is_precomputed(name), is_sklearn(name)
        if self.precision == "bf16" and not (precomputed or from_sklearn or has_native_bf16(default_device())):
            raise InputError(
                f"objective.teacher_precision: expected float32 on this {default_device().type}, which does not "
                "multiply bf16 natively, got 'bf16'"
            )
        try:
            if (precomputed or from_sklearn) and self.task.has_words:
                raise InputError(f"expected a model for {self.task.name}, got {name}, which predicts whole rows")
            if precomputed:
                return read_precomputed(name, self.task.labels, self.task.activation)
            if from_sklearn:
                self._check_kind(name, "text")
                return read_sklearn(name, self.task.labels, self.task.activation, all_logits=self.all_logits)
            classifier = load_trained(name, trust_remote_code=self.trust_remote_code, limits=self.limits)
            self._check_kind(name, classifier.kind)
            # Classes teach levels of the same names.
            if classifier.task.problem_type != self.task.problem_type:
                raise InputError(
                    f"expected a model for {self.task.name}, as the data are, got {name}, which is for "
                    f"{classifier.task.name}"
                )
            columns_C = class_columns(self.task.labels, classifier.labels, self.task.activation, owner=name)
        except (InputError, GateError) as error:
            raise type(error)(f"objective.teacher: {error}") from error
        notes = order_notes(name, columns_C)
        return NetworkTeacher(name, classifier, columns_C, self.precision, self.all_logits, notes)

    def _check_kind(self, name: str, kind: str) -> None:
        if kind != self.kind:
            raise InputError(f"expected a classifier of {self.kind}s, got {name}, which reads {kind}s")


def combined_weights(weights: Sequence[str]) -> str:
    """Return the SHA-256 of teachers' weights together; of a single teacher, its own."""
    return weights[0] if len(weights) == 1 else hashing.of_json(list(weights))
