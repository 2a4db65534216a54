"""The losses and class weights that a recipe can name; a loss is a file of its own."""

from __future__ import annotations

from typing import TypeAlias

from hf_finetune.training.losses.class_weights import Balanced, EffectiveNumber, PerClass
from hf_finetune.training.losses.cross_entropy import CrossEntropy
from hf_finetune.training.losses.focal import Focal
from hf_finetune.training.losses.poly import PolyLoss

Loss: TypeAlias = CrossEntropy | Focal | PolyLoss
ClassWeights: TypeAlias = Balanced | EffectiveNumber | PerClass
