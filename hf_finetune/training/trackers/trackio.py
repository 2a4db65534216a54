"""Trackio: its database in DIR/logs/trackio."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from hf_finetune.training.trackers.base import CLASS_COLUMNS, PROJECT, TRAIN, Results, Session, Tracker


class Trackio(Tracker):
    """TRACKIO_DIR names another folder, TRACKIO_SPACE_ID a Space to log to."""

    def __init__(self, session: Session) -> None:
        with ExitStack() as stack:
            if "TRACKIO_DIR" not in os.environ:
                stack.enter_context(_storage_in(session.folder.absolute() / "trackio"))
            import trackio

            # It prints to stdout, where a run has its results.
            with redirect_stdout(io.StringIO()):
                self.run: Any = trackio.init(
                    PROJECT,
                    # Runs are found by their names.
                    name=f"{session.name}-{session.id}",
                    config=dict(session.config),
                    resume="allow",
                    embed=False,
                )
            self._storage = stack.pop_all()

    def log(self, stage: str, values: Mapping[str, float], step: int) -> None:
        self.run.log({**values, f"{stage}/global_step": step}, step=step)

    def log_results(self, results: Results) -> None:
        import trackio

        table = trackio.Table(data=[dict(zip(CLASS_COLUMNS, row, strict=True)) for row in results.classes])
        plots = {f"plots/{name}": trackio.Image(path) for name, path in results.plots.items()}
        self.log(TRAIN, {**results.metrics, "per_class": table, **plots}, results.step)

    def close(self, *, succeeded: bool) -> None:
        import trackio

        with self._storage, redirect_stdout(io.StringIO()):
            # Not the run's own `finish`: trackio would finish it once more, and print that, when the process ends.
            trackio.finish()


@contextmanager
def _storage_in(folder: Path) -> Iterator[None]:
    """Let trackio store in a folder. It reads TRACKIO_DIR once, when it is imported, into constants of its modules."""
    os.environ["TRACKIO_DIR"] = str(folder)
    try:
        import trackio  # noqa: F401
    finally:
        del os.environ["TRACKIO_DIR"]
    constants = {"TRACKIO_DIR": folder, "MEDIA_DIR": folder / "media", "ARTIFACTS_DIR": folder / "artifacts"}
    modules = [module for name, module in list(sys.modules.items()) if name.split(".")[0] == "trackio"]
    before = [(module, name, vars(module)[name]) for module in modules for name in constants if name in vars(module)]
    for module, name, _ in before:
        setattr(module, name, constants[name])
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
