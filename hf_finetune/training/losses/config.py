"""The losses and class weights that a recipe can name, each in a file of its own."""

from __future__ import annotations

from typing import TypeAlias

from hf_finetune.training.losses.class_weights import Balanced, ClassWeights, EffectiveNumber, PerClass
from hf_finetune.training.losses.cross_entropy import CrossEntropy
from hf_finetune.training.losses.focal import Focal

Loss: TypeAlias = CrossEntropy | Focal

__all__ = ["Balanced", "ClassWeights", "CrossEntropy", "EffectiveNumber", "Focal", "Loss", "PerClass"]
