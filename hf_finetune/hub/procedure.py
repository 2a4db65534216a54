"""The part of the model card that says how the model was trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from hf_finetune.config.recipe import Distill, Model, Recipe
from hf_finetune.distillation.weight_schedules import Ramp
from hf_finetune.hub.markdown import code, number, value_cell
from hf_finetune.training.optim.schedule_config import course
from hf_finetune.utils.plain import flatten, short_repr, to_plain

# What decides a result, with its default or not; the rest is in recipe.json.
SHOWN_FIELDS = (
    "objective.label_smoothing",
    "train.",
    "batching.by_length",
    "batching.rows_per_step",
    "precision.mixed_precision",
    "evaluate.metric",
    "model.revision",
    "model.trust_remote_code",
    "model.frozen_layers",
    "model.dropout",
    "model.attn_implementation",
    "data.max_",
    "data.rows_per_class",
)
# Named where a recipe sets them otherwise. What these groups will have one day leaves the cards of today as they are.
SHOWN_UNLESS_DEFAULT = (
    "lora.",
    "objective.",
    "regularize.",
    "optim.",
    "averaging.",
    "schedule.",
    "batching.",
    "precision.",
    "model.",
    "data.low_",
    "data.augment",
)
HIDDEN_FIELDS = ("model.checkpoint", "model.base_model", "train.extra", "train.logging_steps", "train.keep_checkpoints")


def procedure(recipe: Recipe, result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows of field and value: what decided the result, and what came of it in training."""
    fields = flatten(to_plain(recipe))
    blank = Recipe(name="", data=type(recipe.data)(path=""), model=Model(checkpoint=""))
    default = flatten(to_plain(blank))
    # None in the recipe: by method; the result has what that came to.
    fields["train.learning_rate"] = result.get("learning_rate", recipe.train.learning_rate)
    train = recipe.train
    settled = course(
        train.lr_scheduler_type,
        recipe.schedule,
        warmup_steps=train.warmup_steps,
        optimizer=recipe.optim.optimizer,
    )
    fields |= {"train.lr_scheduler_type": settled.name, "train.warmup_steps": settled.warmup_steps}
    shown = {
        name: value
        for name, value in fields.items()
        if not name.startswith(HIDDEN_FIELDS)
        and value is not None
        and (name.startswith(SHOWN_FIELDS) or (name.startswith(SHOWN_UNLESS_DEFAULT) and value != default.get(name)))
    }
    shown |= {f"train.{name}": value for name, value in sorted(recipe.train.extra.items()) if "token" not in name}
    for name, operations in (
        ("model.surgery", recipe.model.surgery),
        ("data.augment", recipe.data.augment),
        ("objective.mix", recipe.objective.mix),
    ):
        if operations:
            shown[name] = ", ".join(map(short_repr, operations))
    if isinstance(recipe.objective, Distill):
        shown["objective.kinds"] = ", ".join(map(short_repr, recipe.objective.kinds))
        if isinstance(weight := recipe.objective.labels_weight, Ramp):
            shown = {name: value for name, value in shown.items() if not name.startswith("objective.labels_weight.")}
            shown["objective.labels_weight"] = short_repr(weight)
        # By its name: where it lay on this machine tells nobody anything.
        shown["objective.teacher"] = (result.get("teacher") or {}).get("name", " + ".join(recipe.objective.teachers))
    if maps := (result.get("teacher") or {}).get("layer_maps"):
        shown["layers found to go together"] = "; ".join(map(_layer_map, maps))
    if head := result.get("head"):
        start = "fitted to the untrained network's features" if head["fitted"] else "random weights"
        shown["the head's start"] = f"{start}; a fit explains {head['explained']:.2f} of the labels' entropy"
    if "steps" in result:
        shown["optimiser steps"] = result["steps"]
    if "candidates" in (best := result.get("best", {})):
        after = ", ".join(map(number, best["steps"]))
        shown["weights kept"] = (
            f"{best['weights']}, after step {after}: the best on validation of {len(best['candidates'])}"
        )
    if zeros := result.get("elastic_net"):
        shown["weights at exactly 0"] = (
            f"{number(zeros['zeros'])} of the {number(zeros['weights'])} that the elastic net is on "
            f"({100 * zeros['share']:.1f}%)"
        )
    for name, key in (("share of an epoch", "drawn_share"), ("class weight", "class_weights")):
        found = result.get("data", {}).get(key) or {}
        few = list(found.items())[:20]
        if few:
            shown[name] = ", ".join(f"{label} {value:.3g}" for label, value in few) + (
                ", ..." if found != dict(few) else ""
            )
    return [("method", code(result["method"])), *((name, value_cell(value)) for name, value in shown.items())]


def _layer_map(found: Mapping[str, Any]) -> str:
    """The student's layers beside the teacher's, with how alike they are."""
    pairs = ", ".join(
        f"{own} with {theirs} ({found['likeness'][own - 1][theirs - 1]:.3g})" for own, theirs in found["layers"]
    )
    return f"{found['kind']}: {pairs}, by {found['measure']} on {number(found['rows'])} rows"


def adapter_config(recipe: Recipe) -> str | None:
    """The recipe's own adapter config as YAML, without what is not set."""
    if recipe.adapter is None:
        return None
    config = {
        k: v for k, v in to_plain(recipe.adapter).items() if v not in (None, {}, []) and k != "base_model_name_or_path"
    }
    return yaml.safe_dump(config, sort_keys=True, allow_unicode=True).strip()
