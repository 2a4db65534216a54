"""What no type can refuse: ranges of a recipe's fields, and combinations of them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from hf_finetune.codec import ADAPTERS, flatten, spelled, to_plain
from hf_finetune.data.compose import by_model, check_kind
from hf_finetune.data.mix import Mixup
from hf_finetune.errors import InputError
from hf_finetune.models.inner_surgery import SetAttention
from hf_finetune.models.layer_surgery import ReinitTopLayers
from hf_finetune.recipe import Averaging, Distill, ImageData, Lora, Recipe, TextData
from hf_finetune.training.distillation_choices import (
    AnswerKind,
    DecoupledKD,
    DistillationKind,
    RepresentationKind,
    SoftTargets,
)
from hf_finetune.training.loss_choices import EffectiveNumber, Focal, PerClass
from hf_finetune.training.optimizer_choices import Muon, ScheduleFree, check_optimizer
from hf_finetune.training.ramps import ends_of
from hf_finetune.training.representation_choices import (
    AttentionMaps,
    AttentionRelations,
    Contrastive,
    HiddenStates,
    OfTokens,
    RelationalKD,
)
from hf_finetune.training.schedule_choices import course


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
        if not getattr(train, name) > 0:
            refuse(f"train.{name}", getattr(train, name), "a number above 0")
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
    _check_objective(recipe, refuse)
    for name in ("validation_fraction", "test_fraction"):
        if not 0 <= getattr(data, name) < 1:
            refuse(f"data.{name}", getattr(data, name), "at least 0 and below 1")
    check_kind(data.augment, "text" if isinstance(data, TextData) else "image")
    if data.augment_copies < 0 or (data.augment_copies and not data.augment):
        refuse("data.augment_copies", data.augment_copies, "0, or 1 or more beside data.augment")
    for operation in by_model(data.augment):
        if data.augment_copies == 0:
            name = type(operation).__name__
            refuse("data.augment_copies", 0, f"1 or more beside {name}, whose model is too slow to run in every epoch")
    if data.max_train_rows is not None and data.max_train_rows < 2:
        refuse("data.max_train_rows", data.max_train_rows, "at least 2")
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
            refuse("method", recipe.trained, f"full, or top with model.top_layers {step.count}, beside {spelled(step)}")
        if isinstance(step, ReinitTopLayers) and (model.trainable != "all" or model.trainable_pattern is not None):
            name = "trainable_pattern" if model.trainable_pattern is not None else "trainable"
            refuse(
                f"model.{name}",
                getattr(model, name),
                f"its default beside {spelled(step)}, all of whose weights must train",
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
    if recipe.adapter is not None and recipe.adapter.peft_type.value not in ADAPTERS:
        refuse("adapter.peft_type", recipe.adapter.peft_type.value, f"one of {', '.join(ADAPTERS)}")
    if recipe.adapter is not None and recipe.method in ("top", "head"):
        refuse("method", recipe.method, "full or lora beside an adapter")
    reads_otherwise = (model.pooling, model.last_layers, model.head) != ("default", 1, "default")
    if reads_otherwise and recipe.adapter is not None and recipe.adapter.is_prompt_learning:
        refuse("adapter", recipe.trained, "another adapter beside model.pooling, model.last_layers or model.head")
    _check_optim(recipe, refuse)
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


def _check_trained(recipe: Recipe, refuse: Callable[[str, Any, str], None]) -> None:
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


def _check_optim(recipe: Recipe, refuse: Callable[[str, Any, str], None]) -> None:
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


def _check_distill(objective: Distill, recipe: Recipe, refuse: Callable[[str, Any, str], None]) -> None:
    """What is asked of a student, and rows that its teacher would not have seen."""
    for i, kind in enumerate(objective.kinds):
        _check_kind(kind, f"objective.kinds[{i}]", refuse)
    if objective.labels_weight < 0:
        refuse("objective.labels_weight", objective.labels_weight, "0 or more")
    counting = [kind for kind in objective.kinds if any(ends_of(kind.weight))]
    if not counting:
        refuse("objective.kinds", objective.kinds, "one at least with a weight above 0; without a teacher, Supervised")
    if not objective.labels_weight and not any(isinstance(kind, AnswerKind) for kind in counting):
        refuse(
            "objective.labels_weight",
            objective.labels_weight,
            "above 0, or a kind of the teacher's answers (SoftTargets) beside these, of which the head learns nothing",
        )
    if any(isinstance(kind, RepresentationKind) for kind in objective.kinds):
        _check_insides(objective, recipe, refuse)
    if objective.mix:
        refuse("objective.mix", ", ".join(map(spelled, objective.mix)), "none beside a teacher, who sees no mixed rows")
    data = recipe.data
    workers = recipe.train.extra.get("dataloader_num_workers", 0)
    if workers and data.augment and data.augment_copies == 0:
        refuse("train.extra.dataloader_num_workers", workers, "0 beside a teacher that is asked about every view")
    if data.augment_copies and isinstance(data, ImageData):
        refuse(
            "data.augment_copies",
            data.augment_copies,
            "0 for pictures beside a teacher, who has a processor of its own",
        )


def _check_kind(kind: DistillationKind, where: str, refuse: Callable[[str, Any, str], None]) -> None:
    """The ranges of one kind's fields."""
    if min(ends_of(kind.weight)) < 0:
        refuse(f"{where}.weight", kind.weight, "0 or more")
    match kind:
        case (
            SoftTargets(temperature=temperature)
            | DecoupledKD(temperature=temperature)
            | Contrastive(temperature=temperature)
        ) if not min(ends_of(temperature)) > 0:
            refuse(f"{where}.temperature", temperature, "a number above 0")
        case HiddenStates(layers=()) | AttentionMaps(layers=()):
            refuse(f"{where}.layers", (), "a pair of layers at least, (student's, teacher's)")
        case AttentionRelations():
            for name in ("teacher_layer", "relation_heads"):
                if (value := getattr(kind, name)) is not None and value < 1:
                    refuse(f"{where}.{name}", value, "at least 1")
        case DecoupledKD() | RelationalKD():
            names = ("alpha", "beta") if isinstance(kind, DecoupledKD) else ("distance", "angle")
            for name in names:
                if getattr(kind, name) < 0:
                    refuse(f"{where}.{name}", getattr(kind, name), "0 or more")


def _check_insides(objective: Distill, recipe: Recipe, refuse: Callable[[str, Any, str], None]) -> None:
    """What would give the student other tokens than its teacher, or take them where they cannot be compared."""
    names = ", ".join(type(kind).__name__ for kind in objective.kinds if isinstance(kind, RepresentationKind))
    if objective.r_drop:
        refuse("objective.r_drop", objective.r_drop, f"0 beside {names}: the teacher sees every row once")
    if recipe.batching.unpadded:
        refuse("batching.unpadded", True, f"false or None beside {names}, which reads padded rows")
    if recipe.adapter is not None and recipe.adapter.is_prompt_learning:
        refuse("adapter", recipe.trained, f"another adapter beside {names}: the teacher's rows have no prompts")
    if recipe.train.extra.get("gradient_checkpointing"):
        refuse(
            "train.extra.gradient_checkpointing", True, f"false beside {names}, which reads the states it throws away"
        )
    if any(isinstance(kind, OfTokens) for kind in objective.kinds):
        if recipe.model.patch_drop:
            refuse("model.patch_drop", recipe.model.patch_drop, f"0 beside {names}: the teacher sees all patches")
        if isinstance(recipe.data, ImageData) and recipe.data.low_resolution is not None:
            refuse(
                "data.low_resolution", recipe.data.low_resolution, f"None beside {names}: the teacher sees full size"
            )


def _check_mix(recipe: Recipe, refuse: Callable[[str, Any, str], None]) -> None:
    """`objective.mix`, and what it does not go with."""
    mix = recipe.objective.mix
    for operation in mix:
        if isinstance(recipe.data, TextData) and not isinstance(operation, Mixup):
            refuse("objective.mix", spelled(operation), "Mixup for texts, which have no areas to put together")
    if mix and recipe.batching.unpadded:
        refuse("batching.unpadded", True, "false or None beside objective.mix, which lays one text over another")


def _check_objective(recipe: Recipe, refuse: Callable[[str, Any, str], None]) -> None:
    """The fields of `objective` and `regularize`."""
    objective, regularize = recipe.objective, recipe.regularize
    if not 0 <= objective.label_smoothing < 1:
        refuse("objective.label_smoothing", objective.label_smoothing, "at least 0 and below 1")
    match objective.loss:
        case Focal(gamma=gamma) if gamma < 0:
            refuse("objective.loss.gamma", gamma, "0 or more")
    match objective.class_weights:
        case EffectiveNumber(beta=beta) if not 0 <= beta < 1:
            refuse("objective.class_weights.beta", beta, "at least 0 and below 1")
        case PerClass(weights=weights):
            if not weights:
                refuse("objective.class_weights.weights", weights, "a weight for one class at least, by its name")
            for name, weight in weights.items():
                if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0:
                    refuse(f"objective.class_weights.weights.{name}", weight, "a number above 0")
    for name in ("logit_adjustment", "r_drop"):
        if getattr(objective, name) < 0:
            refuse(f"objective.{name}", getattr(objective, name), "0 or more")
    _check_mix(recipe, refuse)
    if isinstance(objective, Distill):
        _check_distill(objective, recipe, refuse)
    if objective.r_drop and recipe.batching.unpadded:
        refuse("batching.unpadded", True, "false or None beside objective.r_drop, which doubles the batch")
    if not 0 <= regularize.mixout < 1:
        refuse("regularize.mixout", regularize.mixout, "at least 0 and below 1")
    if regularize.mixout and recipe.trained not in ("full", "top"):
        refuse("regularize.mixout", regularize.mixout, f"0 with {recipe.trained}, which leaves the encoder's weights")
    for step in recipe.model.surgery:
        if regularize.mixout and isinstance(step, ReinitTopLayers):
            refuse(
                "regularize.mixout",
                regularize.mixout,
                f"0 beside {spelled(step)}, whose weights have none before them to go back to",
            )
    for name in ("l1", "l2"):
        if getattr(regularize.elastic_net, name) < 0:
            refuse(f"regularize.elastic_net.{name}", getattr(regularize.elastic_net, name), "0 or more")
    if regularize.elastic_net.parameters and not regularize.elastic_net.on:
        refuse("regularize.elastic_net.parameters", regularize.elastic_net.parameters, "none while l1 and l2 are 0")
    if regularize.elastic_net.on and isinstance(recipe.optim.optimizer, ScheduleFree):
        refuse(
            "optim.optimizer",
            "ScheduleFree",
            "another one beside regularize.elastic_net: its weights are averages, none of which stays at 0",
        )
    if regularize.elastic_net.l1 and recipe.averaging != Averaging():
        refuse(
            "averaging",
            "an average",
            "none beside regularize.elastic_net.l1: a weight that is 0 in some steps is not 0 in the mean over all",
        )
    for name in ("eta", "gamma"):
        if getattr(regularize.gradient_noise, name) < 0:
            refuse(f"regularize.gradient_noise.{name}", getattr(regularize.gradient_noise, name), "0 or more")
