"""Document a run of method classical: result.json, and the model card that renders it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hf_finetune.evaluation import doubts
from hf_finetune.evaluation.doubts import Doubt
from hf_finetune.features.baselines import BASELINE, BASELINE_OF_IMAGES
from hf_finetune.features.config import Classical
from hf_finetune.features.skops_file import trusted_types
from hf_finetune.hub.run_facts import RunFacts
from hf_finetune.pipeline.context import ClassicalRun
from hf_finetune.pipeline.document import Section, dropped_section, path_name, quality_section, write_documents
from hf_finetune.pipeline.evaluate import Evaluation
from hf_finetune.pipeline.parity import Check
from hf_finetune.pipeline.stopwatch import Stopwatch
from hf_finetune.tasks.trained_pipeline import TrainedPipeline
from hf_finetune.utils import environment
from hf_finetune.utils.artifacts import PIPELINE_FILE
from hf_finetune.utils.manifest import Manifest
from hf_finetune.utils.plain import short_repr

MOST_RULES = 60
"""Lines of the rules of a tree."""


def document(
    run: ClassicalRun,
    trained: TrainedPipeline,
    folder: Path,
    evaluation: Evaluation,
    checks: Callable[[], Mapping[str, Check]],
    *,
    clock: Stopwatch,
    record: Mapping[str, Any],
    out_of_fold: Section | None,
) -> Section:
    """Write the plots and the card, then result.json, whose presence marks a finished run.

    Args:
        checks: waits for the parity gate, beside which the plots are drawn.

    Returns:
        The content of result.json.
    """
    recipe, device = run.recipe, torch.device("cpu")
    doubtful, resamples = _doubts(run, trained, evaluation), recipe.evaluate.resamples
    result = {
        "schema": 1,
        **_identity(run, evaluation),
        **quality_section(trained.task, evaluation, doubtful, resamples=resamples),
        "standalone": False,
        "why_not_standalone": "it is a pipeline of scikit-learn, without a network",
        "artefacts": ["classical"],
        "classical": _classical(trained, folder),
        "data": _data(run),
        # Null: no folds.
        "out_of_fold": out_of_fold,
        "notes": list(run.notes),
        "environment": {
            "versions": record["versions"],
            "commit": environment.package_commit(),
            **environment.hardware(device, 1),
        },
        "command": record["command"],
        "artifacts": Manifest.of(folder).hashes,
    }
    cost = partial(_cost, run, evaluation, clock, device)
    return write_documents(folder, RunFacts(recipe, result), checks, cost)


def _cost(run: ClassicalRun, evaluation: Evaluation, clock: Stopwatch, device: torch.device) -> Section:
    return {
        "time": {"total_s": round(environment.seconds_since_start(), 2), **clock.to_dict()},
        "throughput": {
            "train_rows_per_s": round(len(run.splits.train) / max(clock.seconds("train_s"), 1e-9), 2),
            "train_tokens_per_s": None,
            "predict_rows_per_s": round(evaluation.judged_split.rows_per_s, 2),
        },
        "memory": environment.memory(device),
    }


def _identity(run: ClassicalRun, evaluation: Evaluation) -> Section:
    splits = run.splits
    return {
        "name": run.recipe.name,
        "task": run.hub_task,
        "problem_type": run.task.problem_type,
        "label_task": run.task.name,
        # Null: there is no network.
        "checkpoint": None,
        "base_model": None,
        "method": "classical",
        "seed": run.recipe.train.seed,
        "labels": list(splits.labels),
        "rows": {"train": len(splits.train), **{name: len(split.rows) for name, split in evaluation.splits.items()}},
    }


def _classical(trained: TrainedPipeline, folder: Path) -> Section:
    """Return what the pipeline reads and how its fields were chosen."""
    fitted = trained.fitted
    table = fitted.table.columns
    return {
        "name": fitted.name,
        "extractors": list(map(short_repr, fitted.table.extractors)),
        "classifier": short_repr(fitted.classifier),
        "columns": {"texts": list(table.texts), "numbers": list(table.numbers), "names": list(table.names)},
        # Empty: nothing was left to choose, or there were too few rows.
        "tried": [{"values": dict(each.values), "loss": round(each.loss, 6)} for each in fitted.tried],
        # Whether scikit-learn and skops alone read the rows.
        "plain": trained.is_plain,
        "trusted": trusted_types(folder / "classical" / PIPELINE_FILE),
        # Null: it is no single tree.
        "rules": rules_of(trained),
    }


def rules_of(trained: TrainedPipeline) -> str | None:
    """Return the rules of a decision tree as text. None: the pipeline is no single tree."""
    if not trained.fitted.classifier.shows_rules or trained.fitted.outputs == "tags":
        return None
    from sklearn.tree import export_text

    tree, features = trained.fitted.pipeline["classifier"], trained.fitted.pipeline["features"]
    if not hasattr(tree, "tree_"):  # one for each of several targets
        return None
    names = [name.split("__", 1)[-1] for name in features.get_feature_names_out()]
    lines = export_text(tree, feature_names=names, decimals=3, max_depth=6).splitlines()
    more = [f"... {len(lines) - MOST_RULES} more lines"] if len(lines) > MOST_RULES else []
    return "\n".join([*lines[:MOST_RULES], *more])


def _data(run: ClassicalRun) -> Section:
    recipe, splits = run.recipe, run.splits
    return {
        "fingerprint": splits.fingerprint,
        "columns": splits.named_columns,
        "duplicates": splits.duplicates,
        "unlabelled": None,
        "dropped": dropped_section(splits.dropped),
        "path_name": path_name(recipe.data.path, recipe.data.name),
        "rows_per_class": dict(zip(splits.labels, run.rows_per_class.tolist(), strict=True)),
        "license": recipe.data.license,
        "notes": list(splits.notes),
    }


def _doubts(run: ClassicalRun, trained: TrainedPipeline, evaluation: Evaluation) -> Sequence[Doubt]:
    splits, judged, metric = evaluation.splits, evaluation.judged_split, run.task.epoch_metric
    per_class = {name: split.per_class for name, split in splits.items()}
    more_rows = "label more rows of these classes"
    few: tuple[Doubt, ...] = ()

    def remedy_of(split: str, more: str) -> str:
        return doubts.MORE_TIME if split in run.splits.drawn else more

    if judged.per_class and metric in judged.metrics:
        purpose, remedy = "to judge a model by", remedy_of(evaluation.judged, "label about {rows} rows")
        few = doubts.few_rows(evaluation.judged, metric, judged.metrics[metric], purpose=purpose, remedy=remedy)
    never = "label more such rows, or weigh them more: --classical.classifier.balanced with LinearModel or LinearSVM"
    return (
        *(replace(doubt, remedy=never) for doubt in doubts.unrecognized(per_class)),
        *(
            doubt
            for name, split in splits.items()
            for doubt in doubts.missing_classes(name, split.per_class, split.metrics, remedy=remedy_of(name, more_rows))
        ),
        *few,
        *doubts.baseline_doubts(
            _other_models(run, evaluation),
            remedy="more rows, other --classical.extractors or --classifier, or a network; if none helps, check labels",
        ),
    )


def _other_models(run: ClassicalRun, evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """Return the baselines without the linear one where the run is of the same model."""
    config, same = run.recipe.classical, (Classical(BASELINE), Classical(BASELINE_OF_IMAGES))
    return {name: each for name, each in evaluation.baselines.items() if name != "linear" or config not in same}
