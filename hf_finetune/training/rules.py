"""What does not go with a way to train, and what it makes idle; see `utils.rules`."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from hf_finetune.models.surgery.reinit import ReinitTopLayers
from hf_finetune.training.losses.config import PerClass
from hf_finetune.utils.rules import Conflict, Unused


def _averages(recipe: Any) -> bool:
    return bool(recipe.averaging != type(recipe.averaging)())


def _rate_beside_head(name: str, recipe: Any) -> bool:
    return bool(recipe.effective_method == "head" and vars(recipe.optim)[name] is not None)


def _muon_has_no_matrix(recipe: Any) -> bool:
    """An adapter's factors are matrices inside the layers."""
    vectors = recipe.model.trainable in ("biases", "norms")
    return recipe.optim.optimizer.splits_matrices and (recipe.effective_method == "head" or vectors)


def _over_before_patience(recipe: Any) -> bool:
    """The first epoch sets the mark, and patience begins after it."""
    train = recipe.train
    return train.max_steps < 0 and 1 + (train.early_stopping_patience or 0) >= math.ceil(train.num_train_epochs)


def _over_before_a_drop(recipe: Any) -> bool:
    """As with patience; a rate that drops after the last epoch drops for no step."""
    train, patience = recipe.train, recipe.schedule.patience or 0
    return (
        train.lr_scheduler_type == "reduce_lr_on_plateau"
        and train.max_steps < 0
        and 2 + patience >= math.ceil(train.num_train_epochs)
    )


OPTIM = (
    Conflict(
        "optim.lora_plus_ratio",
        lambda r: r.optim.lora_plus_ratio is not None and r.effective_method not in ("lora", "adalora"),
        "None with {r.effective_method}, which trains no LoRA",
    ),
    Conflict(
        "optim.layer_decay",
        lambda r: r.optim.layer_decay is not None and r.uses_prompt_learning,
        "None with {r.effective_method}, whose layers stay as they are",
    ),
    *(
        Conflict(
            f"optim.{name}",
            partial(_rate_beside_head, name),
            "None with method head, whose rate is train.learning_rate",
        )
        for name in ("head_learning_rate", "layer_decay")
    ),
    Conflict(
        "optim.optimizer",
        lambda r: r.effective_method == "head" and r.optim.optimizer.splits_matrices,
        "another with method head, which trains no hidden matrices",
    ),
    Conflict(
        "train.lr_scheduler_type",
        lambda r: (
            r.optim.optimizer.averages_weights
            and r.train.lr_scheduler_type not in (None, "constant", "constant_with_warmup")
        ),
        "constant_with_warmup or constant with optimizer ScheduleFree",
    ),
    Conflict(
        "optim.optimizer",
        lambda r: r.optim.optimizer.averages_weights and _averages(r),
        "another with averaging; it averages the weights itself",
    ),
    Conflict(
        "optim.sam_adaptive",
        lambda r: r.optim.sam_adaptive and not r.optim.sam_rho,
        "false while optim.sam_rho is 0; 0.5 is usual with it",
    ),
)
AVERAGING = (
    Conflict(
        "averaging.soup",
        lambda r: r.model.unfreeze_every is not None and r.averaging.soup,
        "false with model.unfreeze_every: epochs that trained other layers do not mix",
    ),
    Conflict(
        "averaging.tail_every",
        lambda r: r.averaging.tail_every == "epoch" and not r.averaging.tail_share,
        "step while averaging.tail_share is 0, which averages nothing",
    ),
    Conflict(
        "averaging",
        lambda r: r.effective_method == "adalora" and _averages(r),
        "none with AdaLoRA, whose ranks change while it trains",
    ),
)
REGULARIZE = (
    Conflict(
        "regularize.mixout",
        lambda r: r.regularize.mixout and r.effective_method not in ("full", "top"),
        "0 with {r.effective_method}, which leaves the encoder's weights",
    ),
    Conflict(
        "regularize.mixout",
        lambda r: r.regularize.mixout and any(isinstance(step, ReinitTopLayers) for step in r.model.surgery),
        "0 with ReinitTopLayers, whose weights have none before them to go back to",
    ),
    Conflict(
        "regularize.elastic_net.parameters",
        lambda r: r.regularize.elastic_net.parameters and not r.regularize.elastic_net.on,
        "none while l1 and l2 are 0",
    ),
    Conflict(
        "optim.optimizer",
        lambda r: r.regularize.elastic_net.on and r.optim.optimizer.averages_weights,
        "another with regularize.elastic_net: its weights are averages, none of which stays at 0",
    ),
    Conflict(
        "averaging",
        lambda r: r.regularize.elastic_net.l1 and _averages(r),
        "none with regularize.elastic_net.l1: a weight that is 0 in some steps is not 0 in the mean over all",
    ),
)
BATCHING = (
    Conflict(
        "train.gradient_accumulation_steps",
        lambda r: r.batching.rows_per_step is not None and r.train.gradient_accumulation_steps != 1,
        "1 with batching.rows_per_step, which derives it",
    ),
    Conflict(
        "batching.token_budget",
        lambda r: r.batching.token_budget is not None and not (r.kind == "text" and r.batching.by_length),
        "None for images and without batching.by_length",
    ),
    Conflict(
        "batching.rows_per_step",
        lambda r: r.batching.token_budget is not None and r.batching.rows_per_step is not None,
        "None with batching.token_budget",
    ),
    Conflict("batching.unpadded", lambda r: r.batching.unpadded and r.kind == "image", "false or None for images"),
    Conflict(
        "batching.unpadded",
        lambda r: r.batching.unpadded and r.objective.r_drop,
        "false or None with objective.r_drop, which doubles the batch",
    ),
)
CONFLICTS = (*OPTIM, *AVERAGING, *REGULARIZE, *BATCHING)
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
    Unused("train.lr_scheduler_type", _over_before_a_drop, "the run is over before the rate could drop"),
    Unused("train.early_stopping_patience", _over_before_patience, "the run is over before it could run out"),
    *(
        Unused(f"train.{name}", lambda r: not r.fits_head, "no head is fitted")
        for name in ("head_inverse_strength", "head_least_explained")
    ),
    Unused(
        "train.per_device_train_batch_size",
        lambda r: r.batching.token_budget is not None,
        "batching.token_budget says how many rows go together",
    ),
    Unused(
        "averaging.soup",
        lambda r: r.train.max_steps < 0 and r.train.num_train_epochs <= 1,
        "one epoch alone has nothing to be averaged with",
    ),
    Unused("optim.optimizer", _muon_has_no_matrix, "no matrix inside a layer trains, so AdamW does all of it"),
    Unused("optim.word_embeddings", lambda r: r.kind == "image", "images have no words"),
    Unused(
        "optim.word_embeddings",
        lambda r: r.effective_method != "full" or r.model.frozen_layers > 0 or r.model.trainable != "all",
        "they stay as they are in any case",
    ),
)
