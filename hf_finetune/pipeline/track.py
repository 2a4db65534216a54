"""The experiment trackers of a run: opened in its folder, and given its results."""

from pathlib import Path
from typing import Any

from accelerate import PartialState

from hf_finetune.hub import plots
from hf_finetune.hub.local_paths import without_local_paths
from hf_finetune.pipeline.context import Run
from hf_finetune.training.trackers.base import Results, RunTrackers
from hf_finetune.training.trackers.openers import OPENERS
from hf_finetune.utils.plain import flatten, to_plain


def run_trackers(run: Run, folder: Path) -> RunTrackers:
    """Return the trackers of a run, which the main process alone feeds."""
    recipe = run.recipe
    names = recipe.train.trackers if PartialState().is_main_process else ()
    # A tracker may send it, as the user tells it to.
    config = flatten(without_local_paths(to_plain(recipe)))
    return RunTrackers({name: OPENERS[name] for name in names}, folder, recipe.name, config)


def results_for_trackers(result: dict[str, Any], folder: Path) -> Results:
    """Return what trackers get of result.json, and of the plots in the run's folder."""
    metrics: dict[str, float] = {}
    scores = {**result["metrics"], **{f"baselines/{name}": part for name, part in result["baselines"].items()}}
    for group, intervals in scores.items():
        for name, interval in intervals.items():
            if isinstance(interval, dict) and "value" in interval:
                metrics |= {
                    f"{group}/{name}": interval["value"],
                    f"{group}/{name}_low": interval["low"],
                    f"{group}/{name}_high": interval["high"],
                }
    judged = "test" if "test" in result["metrics"] else "validation"
    classes = [
        (label, *((scores[name] or {}).get("value") for name in ("precision", "recall", "f1")), scores["support"])
        for label, scores in result["per_class"][judged].items()
    ]
    images = {name: folder / plots.FOLDER / f"{name}.png" for name in result["plots"]}
    return Results(result["steps"], metrics, classes, images)
