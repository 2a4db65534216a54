"""The teachers of a run: what they have in common, and how they are loaded.

A teacher is a finished classifier, a scikit-learn pipeline, or predictions from elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from hf_finetune.distillation.teachers.base import Teacher, class_columns
from hf_finetune.distillation.teachers.network import NetworkTeacher, Precision
from hf_finetune.distillation.teachers.precomputed import is_precomputed, read_precomputed
from hf_finetune.distillation.teachers.sklearn_pipeline import is_sklearn, read_sklearn
from hf_finetune.errors import InputError
from hf_finetune.training.classifier import load_trained
from hf_finetune.training.precision import default_device, has_native_bf16
from hf_finetune.utils import hashing


@dataclass
class Teachers:
    """A run's teachers: loaded when they are first needed, and again when they are needed after `release`."""

    names: tuple[str, ...]
    """Each a run's folder, a classifier's, a Hub id, a .skops file, or precomputed predictions."""
    labels: tuple[str, ...]
    """Names of the data's classes. A teacher's may have another order."""
    kind: Literal["text", "image"]
    """What the data are."""
    trust_remote_code: bool = False
    precision: Precision = "float32"
    """See `NetworkTeacher`."""
    all_logits: bool = False
    """See `NetworkTeacher`."""
    _members: tuple[Teacher, ...] | None = field(default=None, init=False, repr=False)

    @property
    def members(self) -> tuple[Teacher, ...]:
        """The teachers, in memory.

        Raises:
            InputError: there is no such classifier, it reads the other kind of rows, or it tells other classes apart;
                bf16 on a device without it; or see `read_precomputed` and `read_sklearn`.
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
                f"objective.kinds: expected kinds of the teacher's predictions (SoftTargets) beside {teacher.name}, "
                "which is no network to look into"
            )
        return teacher

    def release(self) -> None:
        """Give back the teachers' memory."""
        self._members = None

    @property
    def weights(self) -> str:
        """What the predictions of all together depend on."""
        return combined_weights([teacher.weights for teacher in self.members])

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user of these teachers should know."""
        notes = [note for teacher in self.members for note in teacher.notes]
        if self.precision != "float32" and not any(isinstance(teacher, NetworkTeacher) for teacher in self.members):
            notes.append(f"objective.teacher_precision has no effect here: {self.names[0]} is no network that computes")
        return tuple(notes)

    def _load(self, name: str) -> Teacher:
        if is_precomputed(name):
            return read_precomputed(name, self.labels)
        if is_sklearn(name):
            if self.kind != "text":
                raise self._other_kind(name, "text")
            return read_sklearn(name, self.labels, all_logits=self.all_logits)
        return self._load_network(name)

    def _load_network(self, name: str) -> NetworkTeacher:
        device = default_device()
        if self.precision == "bf16" and not has_native_bf16(device):
            raise InputError(
                f"objective.teacher_precision: expected float32 on this {device.type}, which does not multiply bf16 "
                "natively, got 'bf16'"
            )
        try:
            classifier = load_trained(name, trust_remote_code=self.trust_remote_code)
        except InputError as error:
            raise InputError(f"objective.teacher: {error}") from error
        if classifier.kind != self.kind:
            raise self._other_kind(name, classifier.kind)
        columns_C = class_columns(self.labels, classifier.labels, owner=name)
        return NetworkTeacher(name, classifier, columns_C, self.precision, self.all_logits)

    def _other_kind(self, name: str, kind: str) -> InputError:
        return InputError(f"objective.teacher: expected a classifier of {self.kind}s, got {name}, which reads {kind}s")


def combined_weights(weights: Sequence[str]) -> str:
    """What the predictions of teachers together depend on, by the weights of each: of one, its own."""
    return weights[0] if len(weights) == 1 else hashing.of_json(list(weights))
