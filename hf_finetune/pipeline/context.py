"""What a run knows before its first step. Each of its first stages adds a part; none of them is changed afterwards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from transformers import PreTrainedModel

from hf_finetune.config.recipe import Recipe
from hf_finetune.config.rules import check
from hf_finetune.data.inputs import Inputs
from hf_finetune.data.loading import Splits
from hf_finetune.data.unlabeled import PretrainingRows, labeled_rows
from hf_finetune.distillation import config as distillation
from hf_finetune.distillation.teachers.loading import Teachers
from hf_finetune.models.patches import Shrink
from hf_finetune.models.safety import LocalCheckpoint, inspect_checkpoint
from hf_finetune.training import precision
from hf_finetune.training.classifier import quiet_libraries
from hf_finetune.utils.environment import seconds_since_start


@dataclass(frozen=True)
class RunContext:
    """What a run is to be, and what it runs on."""

    recipe: Recipe
    checkpoint: LocalCheckpoint
    """What it begins with."""
    device: torch.device
    processes: int
    mixed_precision: precision.Format
    """Format of the training's matrix products."""
    startup_s: float
    """Seconds from the start of the process, imports among them."""

    @property
    def autocast(self) -> torch.dtype | None:
        """Dtype of the matrix products while training and choosing; None: float32."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.mixed_precision)

    @property
    def augments_online(self) -> bool:
        """Whether the training rows look different in every epoch."""
        data = self.recipe.data
        return bool(data.augment) and data.augment_copies == 0

    @property
    def searches_layers(self) -> bool:
        """Whether it is measured before training which layers of student and teacher go together."""
        return any(map(distillation.searches_layers, self.recipe.distillation_kinds))

    @property
    def compares_rows(self) -> bool:
        """Whether what a row costs depends on the rows beside it in a forward pass."""
        kinds = self.recipe.distillation_kinds
        return any(isinstance(kind, distillation.EmbeddingKind) and kind.compares_rows for kind in kinds)


@dataclass(frozen=True)
class RunData:
    """The rows of a run, and what turns them into tensors."""

    splits: Splits
    inputs: Inputs
    pretraining_rows: PretrainingRows | None = None
    """What is pretrained on first; None: nothing."""

    @property
    def rows_per_class(self) -> np.ndarray:
        """Training rows of each class, shape (C,); those without a label are of none."""
        return np.bincount(labeled_rows(self.splits.train)["label"], minlength=len(self.splits.labels))


@dataclass(frozen=True)
class RunModel:
    """The network that will train, as it was loaded."""

    network: PreTrainedModel
    """Without an adapter."""
    fresh: tuple[str, ...]
    """Modules that the checkpoint did not have."""
    shrink: Shrink | None = None
    """How images are made smaller in the first part of the training."""
    image_tokens: int | None = None
    """Patches of an image."""
    notes: tuple[str, ...] = ()
    """What its user should know."""


@dataclass(frozen=True)
class Origin:
    """Where the weights of a run's network come from."""

    weights: str
    """The checkpoint's commit on the Hub, or the SHA-256 of its weights; where none of them is used, of its config."""
    base_model: str | None
    """The checkpoint's Hub id, if it is known."""
    base_changed: str | None
    """What makes another network of the checkpoint, so that an adapter by itself could not be used."""
    started_from: dict[str, Any] | None
    """The run whose model is the checkpoint: its `name`, `labels` and `method`; None: no run's is."""


@dataclass(frozen=True)
class PreparedRun:
    """Everything a run needs before its first step; nothing has been written yet."""

    context: RunContext
    data: RunData
    model: RunModel
    origin: Origin
    teachers: Teachers | None = None
    """Released once they have been asked; None: there is none."""
    teacher_weights: str | None = None
    """What the teachers' predictions depend on, see `Teachers.weights`; None: there is no teacher."""
    notes: tuple[str, ...] = ()
    """What its user should know, that of the splits first."""

    @property
    def recipe(self) -> Recipe:
        """What is to be computed."""
        return self.context.recipe

    def varied(self, *, recipe: Recipe | None = None, splits: Splits | None = None) -> PreparedRun:
        """The same run by another recipe, or on other rows."""
        context = self.context if recipe is None else replace(self.context, recipe=recipe)
        data = self.data if splits is None else replace(self.data, splits=splits)
        return replace(self, context=context, data=data)


def start(recipe: Recipe) -> RunContext:
    """Check the recipe by itself, and find its checkpoint and the machine it runs on.

    Raises:
        InputError: see `config.rules.check`, `models.safety.inspect_checkpoint` and `training.precision`.
    """
    startup_s = seconds_since_start()
    check(recipe)
    quiet_libraries()
    device = precision.default_device()
    # What one process does for all, such as a teacher's predictions, may take longer than the half hour of the default.
    state = PartialState(cpu=device.type == "cpu", timeout=timedelta(days=1))
    mixed_precision = precision.resolve_mixed_precision(recipe.precision.mixed_precision, device)
    model = recipe.model
    checkpoint = inspect_checkpoint(
        model.checkpoint,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        need_weights=model.from_config is None,
    )
    return RunContext(recipe, checkpoint, device, state.num_processes, mixed_precision, startup_s)
