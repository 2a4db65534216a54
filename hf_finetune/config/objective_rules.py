"""What no type can refuse of a recipe's objective; see `checks`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hf_finetune.augmentation.mixing import Mixup
from hf_finetune.config.recipe import Averaging, Distill, ImageData, Recipe, TextData
from hf_finetune.distillation.config import (
    AttentionMaps,
    AttentionRelations,
    Contrastive,
    DecoupledKD,
    DistillationKind,
    FeatureKind,
    HiddenStates,
    RelationalKD,
    SoftTargets,
    TokenKind,
)
from hf_finetune.distillation.weight_schedules import ends_of
from hf_finetune.models.surgery.reinit import ReinitTopLayers
from hf_finetune.training.losses.config import EffectiveNumber, Focal, PerClass
from hf_finetune.training.optim.config import ScheduleFree
from hf_finetune.utils.plain import short_repr

Refuse = Callable[[str, Any, str], None]
"""`(field, value, what was expected) -> never`"""


def check_objective(recipe: Recipe, refuse: Refuse) -> None:
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
    elif recipe.data.unlabelled:
        refuse(
            "data.unlabelled", recipe.data.unlabelled, "none without a teacher who answers the rows, --teacher MODEL"
        )
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
                f"0 beside {short_repr(step)}, whose weights have none before them to go back to",
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


def _check_distill(objective: Distill, recipe: Recipe, refuse: Refuse) -> None:
    """What is asked of a student, and rows that its teacher would not have seen."""
    if not all(objective.teachers) or not objective.teachers or len(set(objective.teachers)) < len(objective.teachers):
        refuse("objective.teacher", objective.teacher, "one name or several, each once")
    for i, kind in enumerate(objective.kinds):
        _check_kind(kind, f"objective.kinds[{i}]", refuse)
    if min(ends_of(objective.labels_weight)) < 0:
        refuse("objective.labels_weight", objective.labels_weight, "0 or more")
    if not any(any(ends_of(kind.weight)) for kind in objective.kinds):
        refuse("objective.kinds", objective.kinds, "one at least with a weight above 0; without a teacher, Supervised")
    if not objective.asks_labels and not objective.asks_answers:
        refuse(
            "objective.labels_weight",
            objective.labels_weight,
            "above 0, or a kind of the teacher's answers (SoftTargets) beside these, of which the head learns nothing",
        )
    if any(isinstance(kind, FeatureKind) for kind in objective.kinds):
        _check_insides(objective, recipe, refuse)
    if objective.mix:
        refuse(
            "objective.mix", ", ".join(map(short_repr, objective.mix)), "none beside a teacher, who sees no mixed rows"
        )
    data = recipe.data
    if data.augment_copies and isinstance(data, ImageData):
        refuse(
            "data.augment_copies",
            data.augment_copies,
            "0 for pictures beside a teacher, who has a processor of its own",
        )


def _check_kind(kind: DistillationKind, where: str, refuse: Refuse) -> None:
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


def _check_insides(objective: Distill, recipe: Recipe, refuse: Refuse) -> None:
    """What would give the student other tokens than its teacher, or take them where they cannot be compared."""
    names = ", ".join(type(kind).__name__ for kind in objective.kinds if isinstance(kind, FeatureKind))
    if recipe.trained == "head":
        refuse("method", "head", f"another beside {names}: what they compare is of the encoder, which would not train")
    if len(objective.teachers) > 1:
        refuse("objective.teacher", objective.teacher, f"one beside {names}: several have no inside in common")
    if objective.r_drop:
        refuse("objective.r_drop", objective.r_drop, f"0 beside {names}: the teacher sees every row once")
    if recipe.batching.unpadded:
        refuse("batching.unpadded", True, f"false or None beside {names}, which reads padded rows")
    if recipe.adapter is not None and recipe.adapter.is_prompt_learning:
        refuse("adapter", recipe.trained, f"another adapter beside {names}: the teacher's rows have no prompts")
    if recipe.train.checkpoints_activations:
        refuse(
            "train.extra.gradient_checkpointing", True, f"false beside {names}, which reads the states it throws away"
        )
    if any(isinstance(kind, TokenKind) for kind in objective.kinds):
        if recipe.model.patch_drop:
            refuse("model.patch_drop", recipe.model.patch_drop, f"0 beside {names}: the teacher sees all patches")
        if isinstance(recipe.data, ImageData) and recipe.data.low_resolution is not None:
            refuse(
                "data.low_resolution", recipe.data.low_resolution, f"None beside {names}: the teacher sees full size"
            )


def _check_mix(recipe: Recipe, refuse: Refuse) -> None:
    """`objective.mix`, and what it does not go with."""
    mix = recipe.objective.mix
    for operation in mix:
        if isinstance(recipe.data, TextData) and not isinstance(operation, Mixup):
            refuse("objective.mix", short_repr(operation), "Mixup for texts, which have no areas to put together")
    if mix and recipe.batching.unpadded:
        refuse("batching.unpadded", True, "false or None beside objective.mix, which lays one text over another")
