"""A student and the network that teaches it by its intermediate features."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_

from transformers import PreTrainedModel

from hf_finetune.data.inputs import Inputs
from hf_finetune.distillation.losses.base import FeatureLoss, Networks, Required
from hf_finetune.distillation.teachers.network import NetworkTeacher
from hf_finetune.models.families import tokens_before_patches


@dataclass(frozen=True)
class NetworkPair:
    """A student, with what encodes its rows, and its teacher."""

    student: PreTrainedModel
    inputs: Inputs
    """Encodes rows for the student."""
    teacher: NetworkTeacher

    @property
    def networks(self) -> Networks:
        """The configs of both."""
        return Networks(self.student.config, self.teacher.model.config)

    def required(self, losses: Iterable[FeatureLoss]) -> Required:
        """Return all features that the losses need of the student and of the teacher."""
        needed = zip(*(loss.required(self.networks) for loss in losses), strict=True)
        student, teacher = (reduce(or_, of_each) for of_each in needed)
        # If both networks have the same tokens before the patches, these are compared as well.
        student_skip, teacher_skip = map(tokens_before_patches, self.networks)
        if student_skip == teacher_skip:
            return student, teacher
        return replace(student, skipped_tokens=student_skip), replace(teacher, skipped_tokens=teacher_skip)
