"""Measure stored classifiers in processes of their own: rate, latency, memory and cold start."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from hf_finetune.errors import TrainingError
from hf_finetune.inference.compressing import measure
from hf_finetune.utils.artifacts import EXAMPLE_FILE
from hf_finetune.utils.core_sharing import available_cores

INSTRUCTIONS = ("avx2", "avx512_f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
"""Of which the speed of int8 and bfloat16 depends."""
# Its own peak, which Linux alone says.
RUN_ALONE = """
import runpy, sys
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
print(open("/proc/self/status").read(), file=sys.stderr)
"""


@dataclass(frozen=True)
class Measurements:
    """Measures classifiers on the same rows."""

    rows: Path
    """Folder of the rows, by `Dataset.save_to_disk`."""

    @classmethod
    def on(cls, rows: Dataset, folder: Path) -> Measurements:
        """Save the rows in a folder, in which each process finds them."""
        rows.save_to_disk(folder)
        return cls(folder)

    def of(self, model: Path) -> dict[str, Any]:
        """Measure a classifier, see `measure.run`: rows_per_s, format, latency, cold_start_s, peak_rss_mb, and `alone`
        if it has an example.

        Raises:
            TrainingError: the process has failed.
        """
        found = self._run([model], sorted({1, available_cores()}))
        example = model / "onnx" / EXAMPLE_FILE
        return {**found, "alone": _alone(example) if example.is_file() and "text" in self._columns else None}

    def latency_of(self, model: Path) -> list[dict[str, Any]]:
        """Measure the latency alone, with all threads."""
        return self._run([model], [available_cores()], is_latency_alone=True)["latency"]

    def speedup(self, source: Path, chosen: Path) -> dict[str, float]:
        """Return by which factor `predict` is faster with the second, in turns in one process: value, low and high."""
        return self._run([source, chosen], [available_cores()])["speedup"]

    @property
    def _columns(self) -> Sequence[str]:
        return Dataset.load_from_disk(str(self.rows)).column_names

    def _run(self, models: Sequence[Path], threads: list[int], *, is_latency_alone: bool = False) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="hf_finetune_measure_") as name:
            path, output = Path(name) / "job.json", Path(name) / "found.json"
            job: measure.Job = {
                "models": [str(model.absolute()) for model in models],
                "rows": str(self.rows.absolute()),
                "threads": threads,
                "is_latency_alone": is_latency_alone,
                "output": str(output),
            }
            path.write_text(json.dumps(job), encoding="utf-8")
            command = [sys.executable, "-m", measure.__name__, str(path)]
            child = subprocess.run(command, capture_output=True, text=True)
            if child.returncode:
                why = (child.stderr.strip().splitlines() or ["no output"])[-1]
                raise TrainingError(f"{models[-1]}: the process that measures it has failed: {why}")
            return json.loads(output.read_text(encoding="utf-8"))


def _alone(example: Path) -> dict[str, float] | None:
    """Measure example.py, which needs ONNX Runtime and tokenizers alone. None: it fails."""
    started = time.perf_counter()
    command = [sys.executable, "-c", RUN_ALONE, example.name, "a text"]
    child = subprocess.run(command, cwd=example.parent, capture_output=True, text=True)
    seconds, peaks = time.perf_counter() - started, re.findall(r"VmHWM:\s+(\d+) kB", child.stderr)
    if child.returncode or not peaks:
        return None
    return {"cold_start_s": round(seconds, 2), "peak_rss_mb": round(int(peaks[-1]) * 1024 / 1e6, 1)}


def describe_cpu() -> dict[str, Any]:
    """Return name and cores of the processor, and the instructions for int8 and bfloat16 that it has."""
    has = torch.cpu.get_capabilities()
    return {
        "name": str(has.get("cpu_name") or ""),
        "cores": available_cores(),
        "instructions": [name for name in INSTRUCTIONS if has.get(name)],
    }
