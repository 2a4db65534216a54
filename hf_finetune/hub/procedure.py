"""The training procedure of a run, as the rows of a table on its model card."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import yaml

from hf_finetune.distillation.config import Distill
from hf_finetune.hub.markdown import code, number, value_cell
from hf_finetune.hub.run_facts import RunFacts
from hf_finetune.models.peft.config import plain_adapter
from hf_finetune.training.optim.schedule_config import resolve
from hf_finetune.utils.messages import counted
from hf_finetune.utils.plain import flatten, short_repr, to_plain

# These decide a result. All other fields are in recipe.json.
ALWAYS_SHOWN = (
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
SHOWN_IF_NOT_DEFAULT = (
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
MOST_CLASSES = 20
"""Values per class are listed for the first classes only."""
NEVER_SHOWN = (
    "model.checkpoint",
    "model.base_model",
    "train.extra",
    "train.logging_steps",
    "train.report_to",
    "train.keep_checkpoints",
    "train.save_",
    # Of folders that nobody else has.
    "averaging.runs",
    "objective.labels_weight.",
)


def procedure(run: RunFacts) -> list[tuple[str, str]]:
    """Return names and values of the fields that decide the result, and of the outcomes of training."""
    if run.is_classical:
        return [("method", code("classical")), *((name, value_cell(value)) for name, value in _classical(run))]
    rows = _recipe_fields(run) | _operations(run) | dict(_outcomes(run)) | dict(_per_class(run.data))
    return [("method", code(run.result["method"])), *((name, value_cell(value)) for name, value in rows.items())]


def _classical(run: RunFacts) -> Iterator[tuple[str, Any]]:
    """Yield what the pipeline reads, and how its fields were chosen."""
    fitted = run.result["classical"]
    yield "classical.extractors", ", ".join(fitted["extractors"])
    yield "classical.classifier", fitted["classifier"]
    if run.recipe.classical.transforms:
        yield "classical.transforms", ", ".join(map(short_repr, run.recipe.classical.transforms))
    if tried := fitted["tried"]:
        losses = (f"{', '.join(f'{n} {number(v)}' for n, v in t['values'].items())}: {t['loss']:.4f}" for t in tried)
        yield f"loss in {run.recipe.classical.folds}-fold cross-validation", "; ".join(losses)


def _recipe_fields(run: RunFacts) -> dict[str, Any]:
    """Return the shown fields, with the values that the run resolved for None."""
    recipe, train = run.recipe, run.recipe.train
    fields = flatten(to_plain(recipe))
    default = flatten(
        to_plain(type(recipe)(name="", data=type(recipe.data)(path=""), model=type(recipe.model)(checkpoint="")))
    )
    fields["evaluate.metric"] = run.epoch_metric
    default["objective.loss.type"] = type(run.task.default_loss).__name__
    # Off as in the runs of earlier versions, which lack it.
    fields["train.fit_schedule"] = train.fit_schedule or None
    fields["train.learning_rate"] = run.result.get("learning_rate", train.learning_rate)
    schedule = resolve(
        train.lr_scheduler_type, recipe.schedule, warmup_steps=train.warmup_steps, optimizer=recipe.optim.optimizer
    )
    fields |= {"train.lr_scheduler_type": schedule.name, "train.warmup_steps": schedule.warmup_steps}
    shown = {
        name: value
        for name, value in fields.items()
        if value is not None
        and not name.startswith(NEVER_SHOWN)
        and (name.startswith(ALWAYS_SHOWN) or (name.startswith(SHOWN_IF_NOT_DEFAULT) and value != default.get(name)))
    }
    return shown | {f"train.{name}": value for name, value in sorted(train.extra.items()) if "token" not in name}


def _operations(run: RunFacts) -> dict[str, str]:
    """Return the fields that hold operations, written as in Python."""
    recipe, objective = run.recipe, run.recipe.objective
    rows: dict[str, Sequence[Any]] = {
        "model.surgery": recipe.model.surgery,
        "data.augment": recipe.data.augment,
        "objective.mix": objective.mix,
    }
    if isinstance(objective, Distill):
        rows["objective.kinds"] = objective.kinds
    shown = {name: ", ".join(map(short_repr, operations)) for name, operations in rows.items() if operations}
    if isinstance(objective, Distill):
        if is_dataclass(objective.labels_weight):
            shown["objective.labels_weight"] = short_repr(objective.labels_weight)
        shown["objective.teacher"] = run.teacher.get("name", " + ".join(objective.teachers))
    return shown


def _outcomes(run: RunFacts) -> Iterator[tuple[str, Any]]:
    """Yield the outcomes of training that the result records."""
    result = run.result
    if maps := (result.get("teacher") or {}).get("layer_maps"):
        yield "searched pairs of layers", "; ".join(map(_layer_map, maps))
    if head := result.get("head"):
        start = "fitted to the untrained network's features" if head["fitted"] else "random weights"
        yield "head initialization", f"{start}; a fit {run.task.explained(head['explained'])}"
    # Runs of earlier versions do not record why.
    if why := (kernels := result.get("kernels") or {}).get("why"):
        chosen = kernels["chosen"]
        number_format = {"no": "float32"}.get(chosen["mixed_precision"], chosen["mixed_precision"])
        yield "kernels", f"{number_format}, {chosen['attention']} attention: {why}"
    if "steps" in result:
        yield "optimizer steps", result["steps"]
    if "candidates" in (best := result.get("best", {})):
        after, candidates = ", ".join(map(number, best["steps"])), len(best["candidates"])
        chosen = f"{best['weights']}, after step {after}: the best of {candidates} on validation"
        if best["weights"] == "runs":
            runs = counted(len(run.recipe.averaging.runs), "more run")
            chosen = f"the mean of those after step {after} and of {runs} from the same start"
        yield "selected weights", chosen
    if zeros := result.get("elastic_net"):
        yield (
            "weights at exactly 0",
            f"{number(zeros['zeros'])} of the {number(zeros['weights'])} under the elastic net "
            f"({100 * zeros['share']:.1f}%)",
        )


def _per_class(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the sampling shares and weights of the first classes."""
    for name, key in (("share of an epoch", "drawn_share"), ("class weight", "class_weights")):
        if values := list((data.get(key) or {}).items()):
            more = ", ..." if len(values) > MOST_CLASSES else ""
            yield name, ", ".join(f"{label} {value:.3g}" for label, value in values[:MOST_CLASSES]) + more


def _layer_map(layer_map: Mapping[str, Any]) -> str:
    """Return the pairs of layers with their similarity, on one line."""
    pairs = ", ".join(
        f"{student} with {teacher} ({layer_map['likeness'][student - 1][teacher - 1]:.3g})"
        for student, teacher in layer_map["layers"]
    )
    return f"{layer_map['kind']}: {pairs}, by {layer_map['measure']} on {number(layer_map['rows'])} rows"


def adapter_config(run: RunFacts) -> str | None:
    """Return the adapter config of the recipe as YAML, without unset fields, or None without one."""
    if (adapter := plain_adapter(run.recipe.adapter)) is None:
        return None
    config = {k: v for k, v in adapter.items() if v not in ({}, []) and k != "base_model_name_or_path"}
    return yaml.safe_dump(config, sort_keys=True, allow_unicode=True).strip()
