"""Several seeds of a recipe: runs that differ in train.seed alone, and what they say together.

The result in DIR is the run of the first seed, which is never searched. The others are in DIR/seeds/SEED.

Legend: S seeds, N rows, C classes.
"""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.special import stdtrit

from hf_finetune.config.recipe import Launch
from hf_finetune.data.labels import labels_of
from hf_finetune.data.ragged import Ragged
from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.metric_tables import METRICS
from hf_finetune.pipeline.context import Run, RunInput
from hf_finetune.pipeline.evaluate import evaluate_validation
from hf_finetune.pipeline.out_of_fold import all_rows
from hf_finetune.pipeline.parity import refuse_unverified
from hf_finetune.pipeline.promotion import promote, write_result
from hf_finetune.pipeline.push import push_if_asked
from hf_finetune.pipeline.run import finalize, load_input, train_prepared, with_network
from hf_finetune.pipeline.run_folder import UNFINISHED, is_finished, output_folder, owned_folder
from hf_finetune.search.ladder.state import read_scores, write_scores
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.tasks.base import Task
from hf_finetune.utils.console import Progress
from hf_finetune.utils.core_sharing import shared_cores
from hf_finetune.utils.exit_status import notes_afterwards
from hf_finetune.utils.files import read_json
from hf_finetune.utils.launched import refuse_processes
from hf_finetune.utils.messages import listed

logger = logging.getLogger("hf_finetune.run")
FOLDER = "seeds"


@shared_cores()
def run_seeds(
    base: RecipeVariant, seeds: Sequence[int], launch: Launch = Launch(), *, command: str | None = None
) -> dict[str, Any]:
    """Run a recipe with several seeds; the rows are read and encoded once.

    Args:
        base: the recipe of a single run.
        seeds: the first is that of the result.

    Returns:
        The content of result.json of the first seed, with the section `seeds`, and its `folder`.

    Raises:
        InputError, TrainingError, StoppedBySignal, GateError, PushError: see `search.run.run`.
    """
    refuse_processes("several seeds", launch.num_processes)
    output_folder(base.recipe.name, launch.output, resume=launch.resume)
    with Progress("read the data and the checkpoint", quiet=True):
        loaded = load_input(base.recipe)
        chosen = RecipeVariant(loaded.context.recipe).without_push()
        first: Run | None = with_network(loaded.variant(chosen.with_seed(seeds[0]).recipe))
    with ExitStack() as stack:
        with notes_afterwards():
            folder = stack.enter_context(owned_folder(base.recipe.name, launch.output, resume=launch.resume)).path
        encoded = None
        for number, seed in enumerate(seeds):
            place = folder / FOLDER / str(seed)
            if is_finished(place):
                # A failed gate ended the seeds there, and left a result.json.
                refuse_unverified(place)
            else:
                logger.info("seed %d, %d of %d", seed, number + 1, len(seeds))
                prepared = first or with_network(loaded.variant(chosen.with_seed(seed).recipe))
                encoded = _run_seed(replace(prepared, encoded=encoded, is_noted=number > 0), place, command)
                first = None
                del prepared
                gc.collect()
            if number == 0:
                promote(place, folder, {UNFINISHED: True})
        result = read_json(folder / "result.json", "start anew")
        result.pop(UNFINISHED, None)
        section = seeds_section(loaded, folder / FOLDER, seeds)
        result = write_result(folder, {**result, "seeds": section})
        logger.info("%s", section["summary"])
    push_if_asked(folder, base.recipe.hub)
    return {**result, "folder": str(folder)}


def _run_seed(prepared: Run, place: Path, command: str | None) -> tuple[Dataset, Dataset] | None:
    """Run one seed in its folder, and return the encoded training and validation rows. None: folds have joined them."""
    with train_prepared(prepared, Launch(str(place), resume=place.exists()), command=command) as trained:
        evaluation = evaluate_validation(trained)
        write_scores(place, trained.task.settled(evaluation.judged_split.scores_NC))
        finalize(trained, evaluation)
        encoded = trained.setup.encoded
        return (encoded.train, encoded.validation) if trained.out_of_fold is None else None


def seeds_section(loaded: RunInput, folder: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the section `seeds` of result.json: each run, their mean with an interval over rows and seeds, and those
    that collapsed to the level of a constant.

    Args:
        folder: DIR/seeds.
    """
    task, splits = loaded.data.task, loaded.data.splits
    labels = labels_of(splits.validation if loaded.data.evaluate.folds is None else all_rows(splits))
    constant = constant_scores(task, loaded.data.train_labels, labels)
    runs: list[dict[str, Any]] = []
    for seed in seeds:
        result, scores = read_json(folder / str(seed) / "result.json", "start anew"), read_scores(folder / str(seed))
        split = "test" if "test" in result["metrics"] else "validation"
        difference = task.difference(labels, scores, constant)
        runs.append(
            {"seed": seed, "split": split, "metrics": result["metrics"][split], "has_signal": difference.low > 0}
        )
    collapsed = [run["seed"] for run in runs if not run["has_signal"]] if any(r["has_signal"] for r in runs) else []
    names = [name for name in task.summary if all(name in run["metrics"] for run in runs)]
    mean = {
        name: _within(name, over_rows_and_seeds([Interval(**run["metrics"][name]) for run in runs])) for name in names
    }
    best = mean[task.judged_by]
    summary = (
        f"{len(seeds)} seeds: {task.judged_by} {best['value']:.3f} [{best['low']:.3f}, {best['high']:.3f}] on "
        f"{runs[0]['split']} rows, over rows and seeds"
    )
    if collapsed:
        summary += f"; collapsed to {task.constant}: seed {listed(list(map(str, collapsed)))}"
    return {"runs": runs, "mean": mean, "collapsed": collapsed, "summary": summary}


def _within(name: str, interval: Interval) -> dict[str, Any]:
    """Return an interval without values that the metric cannot have; one of evaluate.extra as it is."""
    metric = METRICS.get(name)
    if metric is None:
        return interval.to_dict()
    high = min(interval.high, 1.0) if metric.greater_is_better else interval.high
    return replace(interval, low=max(interval.low, metric.lowest), high=high).to_dict()


def over_rows_and_seeds(metrics: Sequence[Interval]) -> Interval:
    """Return the mean of a metric over seeds, with a 95% interval over rows and seeds together.

    The variance is that of the rows, the mean over the seeds, which share their rows, plus that of the seeds divided by
    their number; the degrees of freedom are Satterthwaite's (1946). It is slightly too wide: the variance of the seeds
    has a part of the rows'.

    Examples:
        >>> mean = over_rows_and_seeds([Interval(0.8, 0.78, 0.82, 1000), Interval(0.9, 0.88, 0.92, 1000)])
        >>> round(mean.value, 2), mean.low < 0.5
        (0.85, True)
    """
    values = np.array([each.value for each in metrics])
    count, rows = len(values), metrics[0].n
    half_s = np.array([(each.high - each.low) / 2 for each in metrics])
    of_rows = float(np.mean((half_s / 1.96) ** 2))
    of_seeds = float(values.var(ddof=1)) / count if count > 1 else 0.0
    variance = of_rows + of_seeds
    if not variance:
        return Interval(float(values.mean()), float(values.mean()), float(values.mean()), rows)
    parts = of_rows**2 / max(rows - 1, 1) + (of_seeds**2 / (count - 1) if count > 1 else 0.0)
    half = float(stdtrit(variance**2 / parts, 0.975)) * math.sqrt(variance)
    mean = float(values.mean())
    return Interval(mean, mean - half, mean + half, rows)


def constant_scores(task: Task, train_labels: Any, labels: Any) -> Any:
    """Return the scores of the constant that fits the training labels best, for rows with these labels."""
    scores_C = task.majority(train_labels)
    if isinstance(labels, Ragged):
        return labels.like(np.tile(scores_C, (len(labels.values), 1)))
    return np.tile(scores_C, (len(labels), 1))
