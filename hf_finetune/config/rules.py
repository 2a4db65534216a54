"""What no type can refuse: ranges of a recipe's fields, and combinations of them."""

from __future__ import annotations

import math
import re
from typing import Any

from hf_finetune.augmentation.compose import (
    Phases,
    Sometimes,
    check_kind,
    depends_on_progress,
    generative_operations,
    walk,
)
from hf_finetune.config.objective_rules import Refuse, check_objective
from hf_finetune.config.recipe import Averaging, ImageData, Lora, Recipe, TextData
from hf_finetune.errors import InputError
from hf_finetune.models.peft.config import PEFT_TYPES
from hf_finetune.models.surgery.attention import SetAttention
from hf_finetune.models.surgery.reinit import ReinitTopLayers
from hf_finetune.pretraining.config import MAE, MaskedLanguage, PictureObjective, SimCLR, SimCSE, SimMIM
from hf_finetune.training.optim.config import Muon, ScheduleFree, check_optimizer
from hf_finetune.training.optim.schedule_config import course
from hf_finetune.utils.plain import flatten, short_repr, to_plain


def check(recipe: Recipe) -> None:
    """Refuse values that no type can: ranges and combinations.

    Raises:
        InputError: naming the field, the value and the range.
    """
    train, data, model = recipe.train, recipe.data, recipe.model

    def refuse(name: str, value: Any, expected: str) -> None:
        raise InputError(f"{name}: expected {expected}, got {value!r}")

    for name, value in flatten(to_plain(recipe)).items():
        if isinstance(value, float) and not math.isfinite(value):
            refuse(name, value, "a finite number")
    if train.learning_rate is not None and not 0 < train.learning_rate < math.inf:
        refuse("train.learning_rate", train.learning_rate, "a number above 0")
    for name in ("num_train_epochs", "head_inverse_strength"):
        if (value := getattr(train, name)) is not None and not value > 0:
            refuse(f"train.{name}", value, "a number above 0")
    if train.head_least_explained is not None and train.head_least_explained > 1:
        refuse("train.head_least_explained", train.head_least_explained, "at most 1, all of it")
    for name in (
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "gradient_accumulation_steps",
        "logging_steps",
    ):
        if getattr(train, name) < 1:
            refuse(f"train.{name}", getattr(train, name), "at least 1")
    for name in ("warmup_steps", "weight_decay", "max_grad_norm"):
        if (getattr(train, name) or 0) < 0:
            refuse(f"train.{name}", getattr(train, name), "0 or more")
    if train.max_steps == 0 or train.max_steps < -1:
        refuse("train.max_steps", train.max_steps, "at least 1, or -1 for as many as the epochs have")
    if train.early_stopping_patience is not None and train.early_stopping_patience < 1:
        refuse("train.early_stopping_patience", train.early_stopping_patience, "at least 1")
    for name, seed in (("train.seed", train.seed), ("data.split_seed", data.split_seed)):
        if not 0 <= seed < 2**32:
            refuse(name, seed, "a whole number from 0 to 4294967295")
    check_objective(recipe, refuse)
    _check_pretrain(recipe, refuse)
    for name in ("validation_fraction", "test_fraction"):
        if not 0 <= getattr(data, name) < 1:
            refuse(f"data.{name}", getattr(data, name), "at least 0 and below 1")
    check_kind(data.augment, "text" if isinstance(data, TextData) else "image")
    if data.augment_copies < 0 or (data.augment_copies and not data.augment):
        refuse("data.augment_copies", data.augment_copies, "0, or 1 or more beside data.augment")
    for operation in generative_operations(data.augment):
        if data.augment_copies == 0:
            name = type(operation).__name__
            refuse("data.augment_copies", 0, f"1 or more beside {name}, whose model is too slow to run in every epoch")
    if data.augment_copies and depends_on_progress(data.augment):
        refuse(
            "data.augment_copies",
            data.augment_copies,
            "0 beside Phases, as stored copies are the same all through the training",
        )
    if data.max_train_rows is not None and data.max_train_rows < 2:
        refuse("data.max_train_rows", data.max_train_rows, "at least 2")
    if data.rows_per_class is not None and data.rows_per_class < 1:
        refuse("data.rows_per_class", data.rows_per_class, "at least 1")
    if isinstance(data, TextData) and data.max_length < 4:
        refuse("data.max_length", data.max_length, "at least 4 tokens")
    if model.dropout is not None and not 0 <= model.dropout < 1:
        refuse("model.dropout", model.dropout, "at least 0 and below 1")
    if model.last_layers < 1:
        refuse("model.last_layers", model.last_layers, "at least 1")
    if model.head_width is not None and (model.head_width < 1 or model.head != "mlp"):
        refuse("model.head_width", model.head_width, "at least 1, beside model.head mlp")
    if model.head_activation is not None and model.head != "mlp":
        refuse("model.head_activation", model.head_activation, "None without model.head mlp, which has a hidden layer")
    if model.frozen_layers < 0:
        refuse("model.frozen_layers", model.frozen_layers, "0 or more")
    if model.top_layers < 0:
        refuse("model.top_layers", model.top_layers, "0 or more")
    if model.frozen_layers and recipe.method == "top":
        refuse("model.frozen_layers", model.frozen_layers, "0 with method top, which freezes all but model.top_layers")
    for step in model.surgery:
        if isinstance(step, ReinitTopLayers) and not (
            recipe.trained == "full" or (recipe.trained == "top" and model.top_layers >= step.count)
        ):
            refuse(
                "method", recipe.trained, f"full, or top with model.top_layers {step.count}, beside {short_repr(step)}"
            )
        if isinstance(step, ReinitTopLayers) and (model.trainable != "all" or model.trainable_pattern is not None):
            name = "trainable_pattern" if model.trainable_pattern is not None else "trainable"
            refuse(
                f"model.{name}",
                getattr(model, name),
                f"its default beside {short_repr(step)}, all of whose weights must train",
            )
        if isinstance(step, SetAttention) and model.attn_implementation is not None:
            refuse("model.attn_implementation", model.attn_implementation, "None beside SetAttention in model.surgery")
    if not recipe.batching.cache_gb > 0:
        refuse(
            "batching.cache_gb", recipe.batching.cache_gb, "a number above 0; batching.cache_prefix false turns it off"
        )
    if model.base_model is not None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model.base_model):
        refuse("model.base_model", model.base_model, "a Hub id like google-bert/bert-base-uncased")
    if not 0 <= model.patch_drop < 1:
        refuse("model.patch_drop", model.patch_drop, "at least 0 and below 1")
    if model.patch_drop and isinstance(data, TextData):
        refuse("model.patch_drop", model.patch_drop, "0 for texts")
    if isinstance(data, ImageData) and data.low_resolution is not None and data.low_resolution < 8:
        refuse("data.low_resolution", data.low_resolution, "at least 8 pixels")
    if isinstance(data, ImageData) and not 0 < data.low_resolution_share <= 1:
        refuse("data.low_resolution_share", data.low_resolution_share, "above 0 and at most 1")
    if recipe.adapter is not None and not type(recipe.adapter).__module__.startswith("peft."):
        refuse("adapter", recipe.adapter, "a PEFT config like LoraConfig(...), in YAML {peft_type: LORA, ...}")
    if recipe.adapter is not None and recipe.adapter.peft_type.value not in PEFT_TYPES:
        refuse("adapter.peft_type", recipe.adapter.peft_type.value, f"one of {', '.join(PEFT_TYPES)}")
    if recipe.adapter is not None and recipe.method in ("top", "head"):
        refuse("method", recipe.method, "full or lora beside an adapter")
    if model.has_own_head and recipe.adapter is not None and recipe.adapter.is_prompt_learning:
        refuse("adapter", recipe.trained, "another adapter beside model.pooling, model.last_layers or model.head")
    _check_optim(recipe, refuse)
    _check_from_config(recipe, refuse)
    _check_trained(recipe, refuse)
    if not recipe.optim.sam_rho >= 0:
        refuse("optim.sam_rho", recipe.optim.sam_rho, "0 or more")
    if recipe.optim.sam_adaptive and not recipe.optim.sam_rho:
        refuse("optim.sam_adaptive", True, "false while optim.sam_rho is 0; 0.5 is usual with it")
    if recipe.averaging.ema_decay is not None and not 0 < recipe.averaging.ema_decay < 1:
        refuse("averaging.ema_decay", recipe.averaging.ema_decay, "above 0 and below 1")
    if not 0 <= recipe.averaging.tail_share <= 1:
        refuse("averaging.tail_share", recipe.averaging.tail_share, "from 0 to 1")
    if recipe.averaging.tail_every == "epoch" and not recipe.averaging.tail_share:
        refuse("averaging.tail_every", "epoch", "step while averaging.tail_share is 0, which averages nothing")
    if recipe.trained == "adalora" and recipe.averaging != Averaging():
        refuse("averaging", "an average", "none with AdaLoRA, whose ranks change while it trains")
    if recipe.evaluate.resamples < 100:
        refuse("evaluate.resamples", recipe.evaluate.resamples, "at least 100")
    if recipe.evaluate.parity_rows < 1:
        refuse("evaluate.parity_rows", recipe.evaluate.parity_rows, "at least 1")
    if recipe.precision.threads is not None and recipe.precision.threads < 1:
        refuse("precision.threads", recipe.precision.threads, "at least 1")
    if recipe.batching.rows_per_step is not None:
        if recipe.batching.rows_per_step < 1:
            refuse("batching.rows_per_step", recipe.batching.rows_per_step, "at least 1")
        if train.gradient_accumulation_steps != 1:
            refuse(
                "train.gradient_accumulation_steps",
                train.gradient_accumulation_steps,
                "1 beside batching.rows_per_step, which derives it",
            )
    batching, text = recipe.batching, isinstance(data, TextData)
    if batching.token_budget is not None:
        if batching.token_budget < 1:
            refuse("batching.token_budget", batching.token_budget, "at least 1")
        if not text or not batching.by_length:
            refuse("batching.token_budget", batching.token_budget, "None for pictures and without batching.by_length")
        if batching.rows_per_step is not None:
            refuse("batching.rows_per_step", batching.rows_per_step, "None beside batching.token_budget")
    if batching.unpadded and not text:
        refuse("batching.unpadded", batching.unpadded, "false or None for pictures")


def _check_from_config(recipe: Recipe, refuse: Refuse) -> None:
    """Of random weights, all train: what would stay as it is would stay at random."""
    model, why = recipe.model, "beside model.from_config, whose weights are all random"
    if model.from_config is None:
        return
    if recipe.trained != "full":
        refuse("method", recipe.trained, f"full {why}")
    for holder, name, default in (
        (model, "frozen_layers", 0),
        (model, "trainable", "all"),
        (model, "trainable_pattern", None),
        (model, "base_model", None),
        (recipe.regularize, "mixout", 0.0),
    ):
        if (value := vars(holder)[name]) != default:
            refuse(f"{type(holder).__name__.lower()}.{name}", value, f"{default} {why}")
    if recipe.optim.word_embeddings == "frozen":
        refuse("optim.word_embeddings", "frozen", f"sparse or dense {why}")
    for step in model.surgery:
        if isinstance(step, ReinitTopLayers):
            refuse("model.surgery", short_repr(step), f"others {why}")


def _check_trained(recipe: Recipe, refuse: Refuse) -> None:
    """Which weights train, and the adapter."""
    model, lora, adapter = recipe.model, recipe.lora, recipe.adapter
    for name, default in (("trainable", "all"), ("trainable_pattern", None)):
        if getattr(model, name) != default and recipe.trained != "full":
            refuse(
                f"model.{name}", getattr(model, name), f"{default} with {recipe.trained}, which says itself what trains"
            )
    if model.trainable_pattern is not None:
        if model.trainable != "all":
            refuse("model.trainable", model.trainable, "all beside model.trainable_pattern")
        try:
            re.compile(model.trainable_pattern)
        except re.error as error:
            refuse("model.trainable_pattern", model.trainable_pattern, f"a regular expression ({error})")
    if model.unfreeze_every is not None:
        if not model.unfreeze_every > 0:
            refuse("model.unfreeze_every", model.unfreeze_every, "a number of epochs above 0")
        if recipe.trained not in ("full", "top"):
            refuse(
                "model.unfreeze_every", model.unfreeze_every, f"None with {recipe.trained}, which has no layers to wait"
            )
        if recipe.averaging.soup:
            refuse(
                "averaging.soup", True, "false beside model.unfreeze_every: epochs that trained other layers do not mix"
            )
    if lora.r < 1:
        refuse("lora.r", lora.r, "at least 1")
    if not lora.alpha > 0:
        refuse("lora.alpha", lora.alpha, "a number above 0")
    if not 0 <= lora.dropout < 1:
        refuse("lora.dropout", lora.dropout, "at least 0 and below 1")
    if lora != Lora() and (adapter is not None or recipe.method != "lora"):
        refuse(
            "lora", to_plain(lora), "the default without method lora, and beside adapter, which has such fields itself"
        )
    if adapter is None:
        return
    if adapter.is_prompt_learning and model.surgery:
        refuse("adapter", adapter.peft_type.value, "another beside model.surgery: it would need the changed checkpoint")
    if adapter.peft_type.value == "ADALORA" and model.frozen_layers:
        refuse("model.frozen_layers", model.frozen_layers, "0 beside ADALORA, which weighs all layers' ranks together")


def _check_optim(recipe: Recipe, refuse: Refuse) -> None:
    """The optimiser, its schedule and its rates."""
    optim, train = recipe.optim, recipe.train
    check_optimizer(optim.optimizer)
    course(train.lr_scheduler_type, recipe.schedule, warmup_steps=train.warmup_steps, optimizer=optim.optimizer)
    if optim.head_learning_rate is not None and not optim.head_learning_rate > 0:
        refuse("optim.head_learning_rate", optim.head_learning_rate, "a number above 0")
    if optim.layer_decay is not None and not 0 < optim.layer_decay <= 1:
        refuse("optim.layer_decay", optim.layer_decay, "above 0 and at most 1")
    if optim.lora_plus_ratio is not None:
        if not optim.lora_plus_ratio > 0:
            refuse("optim.lora_plus_ratio", optim.lora_plus_ratio, "a number above 0")
        if recipe.trained not in ("lora", "adalora"):
            refuse("optim.lora_plus_ratio", optim.lora_plus_ratio, f"None with {recipe.trained}, which trains no LoRA")
    if optim.layer_decay is not None and recipe.adapter is not None and recipe.adapter.is_prompt_learning:
        refuse("optim.layer_decay", optim.layer_decay, f"None with {recipe.trained}, whose layers stay as they are")
    if recipe.trained == "head":
        for name in ("head_learning_rate", "layer_decay"):
            if getattr(optim, name) is not None:
                refuse(
                    f"optim.{name}", getattr(optim, name), "None with method head, whose rate is train.learning_rate"
                )
        if isinstance(optim.optimizer, Muon):
            refuse("optim.optimizer", "Muon", "another with method head, which trains no hidden matrices")
    if isinstance(optim.optimizer, ScheduleFree):
        name = train.lr_scheduler_type
        if name not in (None, "constant", "constant_with_warmup"):
            refuse("train.lr_scheduler_type", name, "constant_with_warmup or constant with optimizer ScheduleFree")
        averaging = recipe.averaging
        if averaging.ema_decay is not None or averaging.tail_share or averaging.soup:
            refuse("optim.optimizer", "ScheduleFree", "another beside averaging; it averages the weights itself")


def _check_pretrain(recipe: Recipe, refuse: Refuse) -> None:
    """The fields of `pretrain`, and what the stage does not go with."""
    pretrain, model, objective = recipe.pretrain, recipe.model, recipe.pretrain.objective
    if pretrain.learning_rate is not None and not pretrain.learning_rate > 0:
        refuse("pretrain.learning_rate", pretrain.learning_rate, "a number above 0")
    if not pretrain.num_train_epochs > 0:
        refuse("pretrain.num_train_epochs", pretrain.num_train_epochs, "a number above 0")
    if pretrain.max_steps == 0 or pretrain.max_steps < -1:
        refuse("pretrain.max_steps", pretrain.max_steps, "at least 1, or -1 for as many as the epochs have")
    if not 0 < pretrain.held_out_fraction < 1:
        refuse("pretrain.held_out_fraction", pretrain.held_out_fraction, "above 0 and below 1")
    if objective is None:
        return
    if isinstance(objective, PictureObjective) == isinstance(recipe.data, TextData):
        texts = isinstance(recipe.data, TextData)
        fits = "MaskedLanguage or SimCSE for texts" if texts else "SimMIM, MAE or SimCLR for pictures"
        refuse("pretrain.objective", short_repr(objective), fits)
    match objective:
        case MaskedLanguage(share=share) | SimMIM(share=share) | MAE(share=share) if not 0 < share < 1:
            refuse("pretrain.objective.share", share, "above 0 and below 1")
        case MaskedLanguage(span=span) if span < 1:
            refuse("pretrain.objective.span", span, "at least 1")
        case SimMIM(block=block) if block < 1:
            refuse("pretrain.objective.block", block, "at least 1 pixel")
        case MAE(decoder_layers=layers) if layers < 1:
            refuse("pretrain.objective.decoder_layers", layers, "at least 1")
        case MAE(decoder_width=int(width)) if width < 4 or width % 4:
            refuse("pretrain.objective.decoder_width", width, "a multiple of 4, or null for half the encoder's")
        case SimCSE(temperature=temperature) | SimCLR(temperature=temperature) if not temperature > 0:
            refuse("pretrain.objective.temperature", temperature, "a number above 0")
        case SimCSE() | SimCLR() if recipe.train.per_device_train_batch_size < 2:
            name = type(objective).__name__
            refuse("train.per_device_train_batch_size", 1, f"2 or more beside {name}, which tells a row from others")
        case SimCLR(projection=width) if width < 1:
            refuse("pretrain.objective.projection", width, "at least 1")
        case SimCLR(augment=()):
            refuse("pretrain.objective.augment", (), "operations: without any, the two views of a picture are one")
        case SimCLR(augment=augment):
            check_kind(augment, "image", "pretrain.objective.augment")
            for operation in walk(augment):
                if isinstance(operation, Sometimes) and operation.by_class == "rare":
                    refuse(
                        "pretrain.objective.augment", short_repr(operation), "by_class all: rows have no classes here"
                    )
                if isinstance(operation, Phases):
                    refuse(
                        "pretrain.objective.augment",
                        short_repr(operation),
                        "operations without Phases, which are data.augment's",
                    )
    if pretrain.compare and recipe.train.early_stopping_patience is not None:
        refuse(
            "train.early_stopping_patience",
            recipe.train.early_stopping_patience,
            "None beside pretrain.compare, as both sides are to train for as long",
        )
    if model.surgery:
        refuse(
            "model.surgery",
            ", ".join(map(short_repr, model.surgery)),
            "none beside pretrain.objective; do it in a run of its own, whose --model is the pretrained/ of this one",
        )
    if model.from_config is not None:
        refuse(
            "model.from_config", model.from_config, "null beside pretrain.objective, which goes on from a checkpoint"
        )
    if model.trust_remote_code:
        refuse("model.trust_remote_code", True, "false beside pretrain.objective, which is for stock families")
    if recipe.adapter is not None and recipe.adapter.is_prompt_learning:
        refuse(
            "adapter",
            recipe.adapter.peft_type.value,
            "another beside pretrain.objective: it would need the checkpoint as pretraining left it",
        )
