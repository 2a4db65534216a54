"""Draw the plots of a run from the files in its folder, at its end or at any later time."""

import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hf_finetune.evaluation.plots import (
    anytime_curve,
    confusion_counts,
    confusion_matrix,
    confusion_size,
    pareto_chart,
    reliability_diagram,
)
from hf_finetune.hub.plots import FOLDER
from hf_finetune.hub.run_facts import RunFacts
from hf_finetune.pipeline.pretrain import WORK
from hf_finetune.pretraining.trainer import HELD_OUT
from hf_finetune.training.callbacks import LOG, read_log
from hf_finetune.training.plots import learning_curves, pretraining_curves, schedule
from hf_finetune.utils.files import write_bytes
from hf_finetune.utils.messages import one_line
from hf_finetune.utils.plots import FORMATS, HEIGHT, WIDTH, Draw, render

logger = logging.getLogger("hf_finetune.run")

# Whatever reading and drawing meet in a damaged document.
DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, pa.ArrowException)
Chart = tuple[Draw, tuple[float, float]]
"""What draws a plot, and its width and height in inches."""
TALL, LOW = (WIDTH, 4.6), (WIDTH, 2.4)


def draw_plots(folder: Path, facts: RunFacts, only: Collection[str] | None = None) -> dict[str, list[bytes]]:
    """Draw every plot for which the folder of a run has the data, unless the recipe turns plots off.

    A plot whose data are damaged is left out, with a warning.

    Args:
        facts: result.json may lack sections, as that of an earlier version.
        only: names of the plots to draw. None: all.

    Returns:
        By name the content of the files, in the order of `FORMATS`.
    """
    charts: dict[str, Callable[[Path, RunFacts], Chart | None]] = {
        "learning_curves": _learning_curves,
        "confusion_matrix": _confusion_matrix,
        "reliability": _reliability,
        "learning_rate": _learning_rate,
        "pretraining_curves": _pretraining_curves,
        "ladder": _ladder,
        "compression": _compression,
    }
    if only is not None:
        charts = {name: chart for name, chart in charts.items() if name in only}
    drawn: dict[str, list[bytes]] = {}
    for name, chart in charts.items() if facts.recipe.evaluate.plots else ():
        try:
            if (drawing := chart(folder, facts)) is not None:
                drawn[name] = render(drawing[0], *FORMATS, size=drawing[1])
        except DAMAGED as error:
            logger.warning("%s: not drawn, its data are damaged (%s)", folder / FOLDER / name, one_line(error))
    return drawn


def write_plots(folder: Path, drawn: dict[str, list[bytes]]) -> None:
    """Write the plots into DIR/plots."""
    for name, contents in drawn.items():
        for format, content in zip(FORMATS, contents, strict=True):
            write_bytes(folder / FOLDER / f"{name}.{format}", content)


def _learning_curves(folder: Path, facts: RunFacts) -> Chart | None:
    if facts.result.get("out_of_fold") is not None:
        return None  # All rows train: there is no curve of others.
    lines, best = _training_log(folder / LOG), (facts.result.get("best") or {}).get("step")
    return (learning_curves(lines, facts.epoch_metric, best), TALL) if lines else None


def _learning_rate(folder: Path, facts: RunFacts) -> Chart | None:
    lines = _training_log(folder / LOG)
    return (schedule(lines), LOW) if lines else None


def _pretraining_curves(folder: Path, facts: RunFacts) -> Chart | None:
    lines = _training_log(folder / WORK / LOG)
    return (pretraining_curves(lines, HELD_OUT), (WIDTH, HEIGHT)) if lines else None


def _ladder(folder: Path, facts: RunFacts) -> Chart | None:
    metric = facts.task.judged_by
    rungs = [rung for rung in facts.result.get("rungs") or () if metric in rung["metrics"]]
    return (anytime_curve(rungs, metric), (WIDTH, HEIGHT)) if rungs else None


def _compression(folder: Path, facts: RunFacts) -> Chart | None:
    section = facts.result.get("compression")
    return (pareto_chart(section), TALL) if section else None


def _training_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log; none if there is no log, or no training step in it."""
    lines = read_log(path) if path.exists() else []
    return lines if any("loss" in line for line in lines) else []


def _confusion_matrix(folder: Path, facts: RunFacts) -> Chart | None:
    path = folder / "predictions.parquet"
    if not path.exists() or not facts.task.has_classes:
        return None
    table = pq.read_table(path, columns=["label", "predicted"], filters=[("split", "==", facts.split)])
    names = facts.result["labels"]
    counts_CC = confusion_counts(table["label"].to_pylist(), table["predicted"].to_pylist(), names)
    return confusion_matrix(counts_CC, names, facts.split), confusion_size(len(names))


def _reliability(folder: Path, facts: RunFacts) -> Chart | None:
    calibration = facts.result.get("calibration") or {}
    bins = calibration.get("bins")
    return (reliability_diagram(bins, calibration.get("split", facts.split)), TALL) if bins else None
