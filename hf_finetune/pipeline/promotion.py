"""Put one of several runs in place of the result: the best rung of a climb, or the chosen compressed candidate."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_finetune.hub.card import render_card
from hf_finetune.hub.plots import FOLDER as PLOTS
from hf_finetune.hub.run_facts import RunFacts
from hf_finetune.pipeline.draw_plots import draw_plots, write_plots
from hf_finetune.pipeline.parity import recorded_checks, refuse_failed
from hf_finetune.pipeline.run_folder import replacing
from hf_finetune.utils.files import atomic_file, discard, read_json, write_json, write_text

PARTS = ("model", "adapter", "encoder", "classical", "onnx", PLOTS)
FILES = ("head.safetensors", "predictions.parquet", "trained_on.npy", "log.jsonl", "dropped.csv", "recipe.json")


def promote(rung: Path, folder: Path, sections: Mapping[str, Any]) -> dict[str, Any]:
    """Link the files of a run into another folder, and write its result and card there.

    A kill in between leaves the model of one run, whole, without a result.json that would belong to another.

    Args:
        rung: folder of the run.
        folder: of the climb, or of the compression.
        sections: what the result has beside that of the run.

    Returns:
        The content of result.json.

    Raises:
        GateError: a check of the run failed. A resumed climb, or one of several seeds, takes it for finished.
    """
    result = read_json(rung / "result.json", "train again")
    refuse_failed(recorded_checks(result))
    (folder / "result.json").unlink(missing_ok=True)
    link_files(rung, folder)
    result |= sections
    # The result last: with it all is there.
    write_text(folder / "README.md", render_card(RunFacts(RunFacts.read(rung).recipe, result)))
    write_json(folder / "result.json", result)
    return result


def link_files(rung: Path, folder: Path) -> None:
    """Link the files of a run into another folder, where they replace those of another run."""
    for part in PARTS:
        if (rung / part).is_dir():
            with replacing(folder / part) as new:
                shutil.copytree(rung / part, new, copy_function=_link, dirs_exist_ok=True)
        elif (folder / part).exists():
            discard(folder / part)
    for name in FILES:
        if (rung / name).exists():
            with atomic_file(folder / name) as new_file:
                new_file.unlink()
                _link(str(rung / name), str(new_file))
        else:
            (folder / name).unlink(missing_ok=True)


def write_result(folder: Path, result: dict[str, Any], plot: str = "ladder") -> dict[str, Any]:
    """Draw the plot of a finished climb or compression, and write its card and result.json again.

    Args:
        plot: its name, see `hub.plots.TITLES`.

    Returns:
        The content of result.json.
    """
    facts = RunFacts(RunFacts.read(folder).recipe, result)
    drawn = draw_plots(folder, facts, only=(plot,))
    write_plots(folder, drawn)
    result["plots"] = list(dict.fromkeys([*result.get("plots", ()), *drawn]))
    write_text(folder / "README.md", render_card(facts))
    write_json(folder / "result.json", result)
    return result


def _link(source: str, target: str) -> str:
    """Link a file, or copy it where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
