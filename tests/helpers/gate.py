"""The gate's own script in the process that asks for it."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers.utils import logging

from hf_finetune.cli import run as cli_run
from hf_finetune.compression import gate as export_gate
from hf_finetune.compression import run_example
from hf_finetune.hub import plain_loading
from hf_finetune.hub.plain_scripts import CLASSICAL
from hf_finetune.pipeline import parity
from hf_finetune.pipeline.classical import parity as classical_parity
from hf_finetune.training.precision import exact_float32


@contextmanager
def _here(script: Path, job: Path) -> Iterator[Callable[[], None]]:
    _run(script, job)
    yield lambda: None


def _run(script: Path, job: Path) -> None:
    if script == Path(run_example.__file__):
        return run_example.main(job)
    if script == CLASSICAL:
        from hf_finetune.hub import plain_classical  # skops takes seconds to import

        return plain_classical.main(job)
    threads, verbosity = torch.get_num_threads(), logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    with torch.random.fork_rng(devices=[]), exact_float32(), warnings.catch_warnings():
        # What plain peft warns of is an error here alone.
        warnings.simplefilter("ignore")
        plain_loading.main(job)
    torch.set_num_threads(threads)
    logging.set_verbosity(verbosity)
    if bars:
        logging.enable_progress_bar()


def run_here(replace=setattr) -> None:
    """The same loading by plain transformers, without the seconds that a new interpreter needs to import them.

    Args:
        replace: as `setattr`, or a monkeypatch's.
    """
    for module in (parity, classical_parity, export_gate):
        replace(module, "in_fresh_process", _here)
    replace(cli_run, "first_gate", lambda _: None)


def measure_here(replace=setattr) -> None:
    """What `compress` measures in processes of their own is measured in this one, and for a moment only.

    Args:
        replace: as `setattr`, or a monkeypatch's.
    """
    from hf_finetune.inference.compressing import measure, measuring

    def measured(self: measuring.Measurements, models: list[Path], threads: list[int], **options: bool) -> dict:
        job: measure.Job = {
            "models": [*map(str, models)],
            "rows": str(self.rows),
            "threads": [1],
            "is_latency_alone": bool(options),
            "output": "",
        }
        return measure.run(job)

    replace(measuring.Measurements, "_run", measured)
    replace(measure, "RATE_S", 0.0)
    replace(measure, "LATENCY_S", 0.02)
