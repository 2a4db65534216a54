"""Rules of training: loss, optimizer, schedule, averages, regularization and batches."""

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
    @property
    def uses_adapter(self) -> bool: ...


Conflict = rules.Conflict[TrainingRecipe]
Unused = rules.Unused[TrainingRecipe]


def _averages_weights(recipe: TrainingRecipe) -> bool:
    return recipe.averaging.in_run


def _ends_within(recipe: TrainingRecipe, epochs: int) -> bool:
    return recipe.train.max_steps < 0 and math.ceil(recipe.train.epochs) <= epochs


def _ends_before_patience(recipe: TrainingRecipe) -> bool:
    """Whether the run ends before early stopping could: patience counts from the first epoch, which sets the mark."""
    return _ends_within(recipe, (1 + (recipe.train.early_stopping_patience or 0)) * recipe.train.validate_every)


def _ends_before_rate_drops(recipe: TrainingRecipe) -> bool:
    """Whether the run ends before the plateau schedule lowers the rate: a drop after the last epoch affects no step."""
    on_plateau = recipe.train.lr_scheduler_type == "reduce_lr_on_plateau"
    return on_plateau and _ends_within(recipe, (2 + (recipe.schedule.patience or 0)) * recipe.train.validate_every)


def _has_no_matrix_for_muon(recipe: TrainingRecipe) -> bool:
    no_matrix = recipe.effective_method == "head" or recipe.model.trainable in ("biases", "norms")
    return recipe.optim.optimizer.splits_matrices and no_matrix


OPTIM = (
    Conflict(
        "optim.lora_plus_ratio",
        lambda r: f"None with {r.effective_method}, which trains no LoRA matrices",
        lambda r: r.effective_method not in ("lora", "adalora"),
    ),
    Conflict(
        "optim.layer_decay",
        lambda r: f"None with {r.effective_method}, which trains no layers",
        lambda r: r.uses_prompt_learning,
    ),
    *rules.only_when(
        lambda r: r.effective_method == "head",
        Conflict("optim.head_learning_rate", "None with method head, whose rate is train.learning_rate"),
        Conflict("optim.layer_decay", "None with method head, whose rate is train.learning_rate"),
        Conflict(
            "optim.optimizer",
            "another optimizer with method head, which trains no hidden matrices",
            lambda r: r.optim.optimizer.splits_matrices,
        ),
    ),
    *rules.only_when(
        lambda r: r.optim.optimizer.averages_weights,
        Conflict(
            "train.lr_scheduler_type",
            "constant_with_warmup or constant with optimizer ScheduleFree",
            lambda r: r.train.lr_scheduler_type not in (None, "constant", "constant_with_warmup"),
        ),
        Conflict(
            "optim.optimizer",
            "another optimizer with averaging: this one averages the weights itself",
            _averages_weights,
        ),
        Conflict(
            "optim.optimizer",
            "another optimizer with regularize.elastic_net: this one averages the weights, and averages are not sparse",
            lambda r: r.regularize.elastic_net.on,
        ),
    ),
    Conflict(
        "optim.sam_adaptive", "false while optim.sam_rho is 0; 0.5 is usual with it", lambda r: not r.optim.sam_rho
    ),
    Conflict(
        "optim.word_embeddings",
        "sparse or dense with model.from_config, whose weights are all random",
        lambda r: has_random_weights(r) and r.optim.word_embeddings == "frozen",
    ),
)
AVERAGING = (
    Conflict(
        "averaging.soup",
        "false with model.unfreeze_every: weights of epochs that trained other layers cannot be averaged",
        lambda r: r.model.unfreeze_every is not None,
    ),
    Conflict(
        "averaging.runs",
        lambda r: f"none with {r.effective_method}, which saves its network with the adapter merged",
        lambda r: r.uses_adapter,
    ),
    Conflict("averaging.tail_every", "step while averaging.tail_share is 0", lambda r: not r.averaging.tail_share),
    Conflict(
        "averaging",
        "none with AdaLoRA, whose ranks change during training",
        lambda r: r.effective_method == "adalora",
    ),
    Conflict(
        "averaging",
        "none with regularize.elastic_net.l1: an average of sparse weights is not sparse",
        lambda r: r.regularize.elastic_net.l1,
    ),
)
REGULARIZE = (
    Conflict("regularize.mixout", "0 with model.from_config, whose weights are all random", has_random_weights),
    Conflict(
        "regularize.mixout",
        lambda r: f"0 with {r.effective_method}, which does not train the encoder's weights",
        lambda r: r.effective_method not in ("full", "top"),
    ),
    Conflict(
        "regularize.mixout", "0 with ReinitTopLayers, whose weights have no pretrained values", reinitialized_layers
    ),
    Conflict(
        "regularize.elastic_net.parameters", "none while l1 and l2 are 0", lambda r: not r.regularize.elastic_net.on
    ),
)
BATCHING = (
    Conflict(
        "train.gradient_accumulation_steps",
        "1 with batching.rows_per_step, which derives it",
        lambda r: r.batching.rows_per_step is not None,
    ),
    *rules.only_when(
        lambda r: r.batching.token_budget is not None,
        Conflict(
            "batching.token_budget",
            "None for images and without batching.by_length",
            lambda r: r.kind == "image" or not r.batching.by_length,
        ),
        Conflict("batching.rows_per_step", "None with batching.token_budget"),
    ),
    *rules.only_when(
        lambda r: r.batching.unpadded,
        Conflict("batching.unpadded", "false or None for images", lambda r: r.kind == "image"),
        Conflict(
            "batching.unpadded",
            "false or None with objective.r_drop, which doubles the batch",
            lambda r: r.objective.r_drop,
        ),
        Conflict(
            "batching.unpadded",
            "false or None with objective.mix, which mixes texts token by token",
            lambda r: r.objective.mix,
        ),
    ),
)
LOSS = (
    *rules.only_when(
        lambda r: r.objective.contrast > 0,
        Conflict("objective.r_drop", "0 with objective.contrast, which forwards every example twice, too"),
        Conflict("objective.mix", "none with objective.contrast, which compares classes"),
        Conflict("batching.unpadded", "false or None with objective.contrast, which doubles the batch"),
    ),
    Conflict(
        "objective.mix",
        "Mixup for texts; the others paste areas of images",
        lambda r: r.kind == "text" and not all(operation.mixes_texts for operation in r.objective.mix),
    ),
)
CONFLICTS = (*OPTIM, *AVERAGING, *REGULARIZE, *BATCHING, *LOSS)
BALANCED = "batching.sampling balanced draws as many rows of every class"
UNUSED = (
    Unused("train.fit_schedule", "there is no train.max_time", lambda r: r.train.max_time is None),
    Unused(
        "objective.class_weights",
        BALANCED,
        lambda r: r.batching.sampling == "balanced" and not isinstance(r.objective.class_weights, PerClass),
    ),
    Unused("objective.logit_adjustment", BALANCED, lambda r: r.batching.sampling == "balanced"),
    Unused(
        "regularize.gradient_noise.gamma",
        "regularize.gradient_noise.eta is 0",
        lambda r: r.regularize.gradient_noise.eta == 0,
    ),
    Unused("train.num_train_epochs", "train.max_steps says when the run ends", lambda r: r.train.max_steps > 0),
    Unused("train.lr_scheduler_type", "the run ends before the rate could drop", _ends_before_rate_drops),
    Unused("train.early_stopping_patience", "the run ends before it could run out", _ends_before_patience),
    Unused("objective.contrast_temperature", "objective.contrast is 0", lambda r: r.objective.contrast == 0),
    Unused("train.head_inverse_strength", "no head is fitted", lambda r: not r.fits_head),
    Unused("train.head_least_explained", "no head is fitted", lambda r: not r.fits_head),
    Unused(
        "train.per_device_train_batch_size",
        "batching.token_budget determines the size of a batch",
        lambda r: r.batching.token_budget is not None,
    ),
    Unused("averaging.soup", "a run of one epoch has nothing to average", lambda r: _ends_within(r, 1)),
    Unused("optim.optimizer", "no matrix inside a layer trains, so AdamW updates all weights", _has_no_matrix_for_muon),
    Unused("optim.word_embeddings", "images have no words", lambda r: r.kind == "image"),
    Unused(
        "optim.word_embeddings",
        "other options freeze them already",
        lambda r: r.effective_method != "full" or r.model.frozen_layers > 0 or r.model.trainable != "all",
    ),
)
