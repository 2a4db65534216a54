"""Weights & Biases: an offline run in DIR/logs/wandb, which `wandb sync` sends."""

from __future__ import annotations

import os
from collections.abc import Mapping
from html import escape
from typing import Any

from hf_finetune.training.trackers.base import CLASS_COLUMNS, PROJECT, TRAIN, Results, Session, Tracker
from hf_finetune.utils.files import make_folder


class WeightsAndBiases(Tracker):
    """WANDB_MODE=online sends the values at once; the other variables of wandb hold, too.

    A stage is a run of its own, because the steps of a run must grow.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._runs: dict[str, Any] = {}
        make_folder(session.folder)
        self._run(TRAIN)  # it takes a second, which is none of the training's

    def _run(self, stage: str) -> Any:
        import wandb

        if stage not in self._runs:
            suffix = "" if stage == TRAIN else f"-{stage}"
            self._runs[stage] = wandb.init(
                dir=self.session.folder,
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=self.session.name + suffix,
                id=self.session.id + suffix,
                config=dict(self.session.config),
                mode=os.environ.get("WANDB_MODE", "offline"),
                resume="allow",
                # A run of the user's own in this process goes on.
                reinit="create_new",
                # Without command, code, user and paths of this machine.
                settings=wandb.Settings(
                    silent=True, console="off", x_disable_meta=True, disable_git=True, disable_code=True
                ),
            )
        return self._runs[stage]

    def log(self, stage: str, values: Mapping[str, float], step: int) -> None:
        self._run(stage).log({**values, f"{stage}/global_step": step}, step=step)

    def log_results(self, results: Results) -> None:
        import wandb

        plots = {f"plots/{name}": wandb.Image(str(path)) for name, path in results.plots.items()}
        # wandb.Table is an artifact, of which wandb keeps a part in the home directory until it is sent.
        table = wandb.Html(_html(results), inject=False)
        self._run(TRAIN).log({**results.metrics, "per_class": table, **plots}, step=results.step)

    def close(self, *, succeeded: bool) -> None:
        for run in self._runs.values():
            run.finish(exit_code=0 if succeeded else 1)


def _html(results: Results) -> str:
    rows = [CLASS_COLUMNS, *results.classes]
    cells = ("".join(f"<td>{escape('' if cell is None else str(cell))}</td>" for cell in row) for row in rows)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"
