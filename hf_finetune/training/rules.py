"""Rules of training: loss, optimizer, schedule, averages, regularization and batches."""

from __future__ import annotations

import math
from typing import Protocol

from hf_finetune.models.rules import ModelRecipe, has_random_weights, reinitialized_layers
from hf_finetune.training.config import Averaging, Batching, Train
from hf_finetune.training.losses.class_weights import PerClass
from hf_finetune.training.losses.config import Supervised
from hf_finetune.training.optim.config import Optim
from hf_finetune.training.optim.schedule_config import Schedule
from hf_finetune.training.regularization.config import Regularize
from hf_finetune.utils import rules


class TrainingRecipe(ModelRecipe, Protocol):
    """The part of a recipe that these rules read."""

    @property
    def objective(self) -> Supervised: ...
    @property
    def regularize(self) -> Regularize: ...
    @property
    def train(self) -> Train: ...
    @property
    def batching(self) -> Batching: ...
    @property
    def optim(self) -> Optim: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def averaging(self) -> Averaging: ...
    @property
    def fits_head(self) -> bool: ...


Conflict = rules.Conflict[TrainingRecipe]
Unused = rules.Unused[TrainingRecipe]


def _averages_weights(recipe: TrainingRecipe) -> bool:
    return recipe.averaging != Averaging()


def _ends_within(recipe: TrainingRecipe, epochs: int) -> bool:
    return recipe.train.max_steps < 0 and math.ceil(recipe.train.num_train_epochs) <= epochs


def _ends_before_patience(recipe: TrainingRecipe) -> bool:
    """Whether the run ends before early stopping could: patience counts from the first epoch, which sets the mark."""
    return _ends_within(recipe, 1 + (recipe.train.early_stopping_patience or 0))


def _ends_before_rate_drops(recipe: TrainingRecipe) -> bool:
    """Whether the run ends before the plateau schedule lowers the rate: a drop after the last epoch affects no step."""
    on_plateau = recipe.train.lr_scheduler_type == "reduce_lr_on_plateau"
    return on_plateau and _ends_within(recipe, 2 + (recipe.schedule.patience or 0))


def _has_no_matrix_for_muon(recipe: TrainingRecipe) -> bool:
    no_matrix = recipe.effective_method == "head" or recipe.model.trainable in ("biases", "norms")
    return recipe.optim.optimizer.splits_matrices and no_matrix


OPTIM = (
    Conflict(
        "optim.lora_plus_ratio",
        lambda r: r.optim.lora_plus_ratio is not None and r.effective_method not in ("lora", "adalora"),
        lambda r: f"None with {r.effective_method}, which trains no LoRA matrices",
    ),
    Conflict(
        "optim.layer_decay",
        lambda r: r.optim.layer_decay is not None and r.uses_prompt_learning,
        lambda r: f"None with {r.effective_method}, which trains no layers",
    ),
    *rules.only_when(
        lambda r: r.effective_method == "head",
        Conflict(
            "optim.head_learning_rate",
            lambda r: r.optim.head_learning_rate is not None,
            "None with method head, whose rate is train.learning_rate",
        ),
        Conflict(
            "optim.layer_decay",
            lambda r: r.optim.layer_decay is not None,
            "None with method head, whose rate is train.learning_rate",
        ),
        Conflict(
            "optim.optimizer",
            lambda r: r.optim.optimizer.splits_matrices,
            "another optimizer with method head, which trains no hidden matrices",
        ),
    ),
    *rules.only_when(
        lambda r: r.optim.optimizer.averages_weights,
        Conflict(
            "train.lr_scheduler_type",
            lambda r: r.train.lr_scheduler_type not in (None, "constant", "constant_with_warmup"),
            "constant_with_warmup or constant with optimizer ScheduleFree",
        ),
        Conflict(
            "optim.optimizer",
            _averages_weights,
            "another optimizer with averaging: this one averages the weights itself",
        ),
        Conflict(
            "optim.optimizer",
            lambda r: r.regularize.elastic_net.on,
            "another optimizer with regularize.elastic_net: this one averages the weights, and averages are not sparse",
        ),
    ),
    Conflict(
        "optim.sam_adaptive",
        lambda r: r.optim.sam_adaptive and not r.optim.sam_rho,
        "false while optim.sam_rho is 0; 0.5 is usual with it",
    ),
    Conflict(
        "optim.word_embeddings",
        lambda r: has_random_weights(r) and r.optim.word_embeddings == "frozen",
        "sparse or dense with model.from_config, whose weights are all random",
    ),
)
AVERAGING = (
    Conflict(
        "averaging.soup",
        lambda r: r.model.unfreeze_every is not None and r.averaging.soup,
        "false with model.unfreeze_every: weights of epochs that trained other layers cannot be averaged",
    ),
    Conflict(
        "averaging.tail_every",
        lambda r: r.averaging.tail_every == "epoch" and not r.averaging.tail_share,
        "step while averaging.tail_share is 0",
    ),
    *rules.only_when(
        _averages_weights,
        Conflict(
            "averaging",
            lambda r: r.effective_method == "adalora",
            "none with AdaLoRA, whose ranks change during training",
        ),
        Conflict(
            "averaging",
            lambda r: r.regularize.elastic_net.l1,
            "none with regularize.elastic_net.l1: an average of sparse weights is not sparse",
        ),
    ),
)
REGULARIZE = (
    *rules.only_when(
        lambda r: r.regularize.mixout,
        Conflict("regularize.mixout", has_random_weights, "0 with model.from_config, whose weights are all random"),
        Conflict(
            "regularize.mixout",
            lambda r: r.effective_method not in ("full", "top"),
            lambda r: f"0 with {r.effective_method}, which does not train the encoder's weights",
        ),
        Conflict(
            "regularize.mixout", reinitialized_layers, "0 with ReinitTopLayers, whose weights have no pretrained values"
        ),
    ),
    Conflict(
        "regularize.elastic_net.parameters",
        lambda r: r.regularize.elastic_net.parameters and not r.regularize.elastic_net.on,
        "none while l1 and l2 are 0",
    ),
)
BATCHING = (
    Conflict(
        "train.gradient_accumulation_steps",
        lambda r: r.batching.rows_per_step is not None and r.train.gradient_accumulation_steps != 1,
        "1 with batching.rows_per_step, which derives it",
    ),
    *rules.only_when(
        lambda r: r.batching.token_budget is not None,
        Conflict(
            "batching.token_budget",
            lambda r: r.kind == "image" or not r.batching.by_length,
            "None for images and without batching.by_length",
        ),
        Conflict(
            "batching.rows_per_step", lambda r: r.batching.rows_per_step is not None, "None with batching.token_budget"
        ),
    ),
    *rules.only_when(
        lambda r: r.batching.unpadded,
        Conflict("batching.unpadded", lambda r: r.kind == "image", "false or None for images"),
        Conflict(
            "batching.unpadded",
            lambda r: r.objective.r_drop,
            "false or None with objective.r_drop, which doubles the batch",
        ),
        Conflict(
            "batching.unpadded",
            lambda r: r.objective.mix,
            "false or None with objective.mix, which mixes texts token by token",
        ),
    ),
)
LOSS = (
    Conflict(
        "objective.mix",
        lambda r: r.kind == "text" and not all(operation.mixes_texts for operation in r.objective.mix),
        "Mixup for texts; the others paste areas of images",
    ),
)
CONFLICTS = (*OPTIM, *AVERAGING, *REGULARIZE, *BATCHING, *LOSS)
BALANCED = "batching.sampling balanced draws as many rows of every class"
UNUSED = (
    Unused(
        "objective.class_weights",
        lambda r: r.batching.sampling == "balanced" and not isinstance(r.objective.class_weights, PerClass),
        BALANCED,
    ),
    Unused("objective.logit_adjustment", lambda r: r.batching.sampling == "balanced", BALANCED),
    Unused(
        "regularize.gradient_noise.gamma",
        lambda r: r.regularize.gradient_noise.eta == 0,
        "regularize.gradient_noise.eta is 0",
    ),
    Unused("train.num_train_epochs", lambda r: r.train.max_steps > 0, "train.max_steps says when the run ends"),
    Unused("train.lr_scheduler_type", _ends_before_rate_drops, "the run ends before the rate could drop"),
    Unused("train.early_stopping_patience", _ends_before_patience, "the run ends before it could run out"),
    Unused("train.head_inverse_strength", lambda r: not r.fits_head, "no head is fitted"),
    Unused("train.head_least_explained", lambda r: not r.fits_head, "no head is fitted"),
    Unused(
        "train.per_device_train_batch_size",
        lambda r: r.batching.token_budget is not None,
        "batching.token_budget determines the size of a batch",
    ),
    Unused("averaging.soup", lambda r: _ends_within(r, 1), "a run of one epoch has nothing to average"),
    Unused("optim.optimizer", _has_no_matrix_for_muon, "no matrix inside a layer trains, so AdamW updates all weights"),
    Unused("optim.word_embeddings", lambda r: r.kind == "image", "images have no words"),
    Unused(
        "optim.word_embeddings",
        lambda r: r.effective_method != "full" or r.model.frozen_layers > 0 or r.model.trainable != "all",
        "other options freeze them already",
    ),
)
