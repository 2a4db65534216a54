"""The state of a run before training. Each of the first stages adds a part.

Later stages replace a part, and do not assign to it. Only the network itself changes, as it trains.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedModel

from hf_finetune.config.recipe import Recipe
from hf_finetune.config.rules import check
from hf_finetune.data.inputs import Inputs
from hf_finetune.data.labels import labels_of
from hf_finetune.data.loading import Splits
from hf_finetune.data.unlabeled import PretrainingRows, labeled_rows
from hf_finetune.distillation import config as distillation
from hf_finetune.distillation.teachers.loading import Teachers
from hf_finetune.evaluation.config import Evaluate
from hf_finetune.models.checkpoint import LocalCheckpoint, inspect_checkpoint
from hf_finetune.models.checkpoint_config import Task as HubTask
from hf_finetune.models.own_checkpoint import family_checkpoint, is_family
from hf_finetune.models.patches import Shrink
from hf_finetune.tasks.base import Task
from hf_finetune.tasks.choose import task_of
from hf_finetune.tasks.trained_model import quiet_libraries
from hf_finetune.training import precision
from hf_finetune.training.warm_start import FittedHead
from hf_finetune.utils.environment import seconds_since_start


@dataclass(frozen=True)
class RunContext:
    """The recipe of a run, and the machine it runs on."""

    recipe: Recipe
    checkpoint: LocalCheckpoint
    """The pretrained checkpoint."""
    device: torch.device
    processes: int
    mixed_precision: precision.Format
    """Number format of matrix products in training."""
    startup_s: float
    """Seconds from the start of the process, including imports."""

    @property
    def autocast(self) -> torch.dtype | None:
        """Dtype of autocast in training and validation, or None for float32."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.mixed_precision)

    @property
    def augments_online(self) -> bool:
        """Whether every epoch trains on new views of the rows."""
        data = self.recipe.data
        return bool(data.augment) and data.augment_copies == 0

    @property
    def searches_layers(self) -> bool:
        """Whether pairs of student and teacher layers are searched before training."""
        return any(map(distillation.searches_layers, self.recipe.distillation_kinds))

    @property
    def compares_rows(self) -> bool:
        """Whether the loss of a row depends on the other rows of its forward pass."""
        kinds = self.recipe.distillation_kinds
        return any(isinstance(kind, distillation.EmbeddingKind) and kind.compares_rows for kind in kinds)


@dataclass(frozen=True)
class RunData:
    """The rows of a run, and the tokenizer or image processor that turns them into tensors."""

    splits: Splits
    inputs: Inputs
    pretraining_rows: PretrainingRows | None = None
    """None without pretraining."""
    evaluate: Evaluate = field(default_factory=Evaluate)
    """How the recipe evaluates."""

    @cached_property
    def task(self) -> Task:
        """The problem type, for these labels."""
        return task_of(self.splits).configured(self.evaluate)

    @cached_property
    def rows_per_class(self) -> np.ndarray:
        """Labeled training rows of each class or tag, shape (C,); all rows for a target."""
        return self.task.rows_per_output(self.train_labels)

    @cached_property
    def train_labels(self) -> np.ndarray:
        """Labels of the labeled training rows, see `data.labels.labels_of`."""
        return labels_of(labeled_rows(self.splits.train))


@dataclass(frozen=True)
class ClassicalRun:
    """A run of method classical, which has no network, with its rows."""

    recipe: Recipe
    splits: Splits
    notes: tuple[str, ...] = ()
    """Notes for the user beside those of the splits."""
    all_splits: Splits | None = None
    """With the training rows that time left out, to which baselines are fitted, too. None: there are none."""

    @cached_property
    def task(self) -> Task:
        """The problem type, for these labels."""
        return task_of(self.splits).configured(self.recipe.evaluate)

    @property
    def hub_task(self) -> HubTask:
        """The Hub's name of the task."""
        return self.task.hub_task(self.recipe.kind)

    @cached_property
    def rows_per_class(self) -> np.ndarray:
        """Training rows of each class or tag, shape (C,); all rows for a target."""
        return self.task.rows_per_output(labels_of(self.splits.train))


@dataclass(frozen=True)
class RunModel:
    """The network to train, without its adapter."""

    network: PreTrainedModel
    fresh: tuple[str, ...]
    """Names of the modules that the checkpoint does not have."""
    shrink: Shrink | None = None
    """How images are reduced in the first part of training."""
    image_tokens: int | None = None
    """Number of patches of an image. None for texts."""
    notes: tuple[str, ...] = ()
    """Notes for the user."""


@dataclass(frozen=True)
class Origin:
    """Where the weights of a network come from."""

    weights: str
    """Commit of the checkpoint on the Hub, or the SHA-256 of its weights (of its config with model.from_config)."""
    base_model: str | None
    """Hub id of the checkpoint, if known."""
    base_changed: str | None
    """Why the network differs from the checkpoint, so that an adapter needs this network. None: it is the same."""
    started_from: dict[str, Any] | None
    """`name`, `labels`, `method` and `problem_type` of the run that trained the checkpoint. None: it is not the model
    of a run."""


@dataclass(frozen=True)
class RunInput:
    """What a run reads, before its network is built: the same for every variant of its recipe on these rows."""

    context: RunContext
    data: RunData
    teachers: Teachers | None = None
    """None: no teacher."""
    long_choice: dict[str, Any] | None = None
    """How the way to read long texts was chosen, for result.json. None: the recipe names it."""
    pooling_choice: dict[str, Any] | None = None
    """How it was chosen what the head reads, for result.json. None: the recipe names it, or there was no choice."""
    notes: tuple[str, ...] = ()
    """Notes for the user, those on the splits first."""

    def variant(self, recipe: Recipe, splits: Splits | None = None) -> RunInput:
        """Return the same input for another recipe that reads rows in the same way, and perhaps for other splits."""
        data = self.data if splits is None else replace(self.data, splits=splits)
        return replace(self, context=replace(self.context, recipe=recipe), data=data)


@dataclass(frozen=True)
class Run:
    """A run whose input is loaded and checked, and of which nothing is written yet."""

    context: RunContext
    data: RunData
    model: RunModel
    origin: Origin
    teachers: Teachers | None = None
    """Their networks are released after prediction. None: no teacher."""
    notes: tuple[str, ...] = ()
    """Notes for the user, those on the splits first."""
    long_choice: dict[str, Any] | None = None
    """How the way to read long texts was chosen, for result.json. None: the recipe names it."""
    pooling_choice: dict[str, Any] | None = None
    """How it was chosen what the head reads, for result.json. None: the recipe names it, or there was no choice."""
    start_heads: tuple[FittedHead, ...] = ()
    """Heads from which training starts, one for each classification layer, in place of a fit. Empty: they are fitted,
    if the recipe fits them."""
    encoded: tuple[Dataset, Dataset] | None = None
    """The encoded training and validation rows of an earlier variant of this run. None: they are encoded."""
    all_splits: Splits | None = None
    """With the training rows that time left out, to which baselines are fitted, too. None: there are none."""
    is_noted: bool = False
    """Whether the notes were logged with an earlier variant of this run."""
    row_s: float | None = None
    """Seconds to predict a row, see `measure_row`. None: not measured so far."""

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run."""
        return self.context.recipe

    @property
    def hub_task(self) -> HubTask:
        """The Hub's name of the task."""
        return self.data.task.hub_task(self.recipe.kind)

    @property
    def eval_batch_size(self) -> int:
        """Rows of a forward pass without gradients: of texts in windows fewer, as each has several."""
        return max(1, self.recipe.train.per_device_eval_batch_size // self.data.inputs.windows)

    @property
    def metric(self) -> str:
        """The validation metric that chooses the best epoch."""
        return self.data.task.best_metric(self.recipe.evaluate.metric)

    def variant(self, *, recipe: Recipe | None = None, splits: Splits | None = None) -> Run:
        """Return the run with another recipe or other splits."""
        context = self.context if recipe is None else replace(self.context, recipe=recipe)
        data = self.data if splits is None else replace(self.data, splits=splits)
        return replace(self, context=context, data=data)


def setup_context(recipe: Recipe) -> RunContext:
    """Check the recipe by itself, find its checkpoint, and set up the device and processes.

    Raises:
        InputError: see `config.rules.check`, `models.checkpoint.inspect_checkpoint` and `training.precision`.
    """
    startup_s = seconds_since_start()
    check(recipe)
    quiet_libraries()
    device = precision.default_device()
    # The others may wait longer for the main process than the default of half an hour, as for a teacher's predictions.
    state = PartialState(cpu=device.type == "cpu", timeout=timedelta(days=1))
    mixed_precision = precision.resolve_mixed_precision(recipe.precision.mixed_precision, device)
    model = recipe.model
    if model.tokenizer is not None and is_family(model.checkpoint):
        checkpoint = family_checkpoint(model.checkpoint, model)
    else:
        checkpoint = inspect_checkpoint(
            model.checkpoint,
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            need_weights=model.from_config is None,
            limits=model,
        )
    # A run that starts from another one is read again with the limits of both.
    recipe = replace(recipe, model=replace(model, **vars(checkpoint.limits)))
    return RunContext(recipe, checkpoint, device, state.num_processes, mixed_precision, startup_s)
