"""TensorBoard: event files in DIR/logs/tensorboard, a folder for each stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from hf_finetune.training.trackers.base import CLASS_COLUMNS, TRAIN, Results, Session, Tracker


class TensorBoard(Tracker):
    """`tensorboard --logdir runs` shows all runs below a folder."""

    def __init__(self, session: Session) -> None:
        self._folder = session.folder / "tensorboard"
        self._writers: dict[str, Any] = {}
        text = yaml.safe_dump(dict(session.config), sort_keys=False, allow_unicode=True)
        self._recipe = f"```yaml\n{text}```"

    def _writer(self, stage: str, purge_step: int | None = None) -> Any:
        """Return the writer of a stage.

        Args:
            purge_step: for a new one; readers drop this step and later ones of earlier files.
        """
        from torch.utils.tensorboard import SummaryWriter

        if stage not in self._writers:
            self._writers[stage] = writer = SummaryWriter(str(self._folder / stage), purge_step=purge_step)
            writer.add_text("recipe", self._recipe)
        return self._writers[stage]

    def log(self, stage: str, values: Mapping[str, float], step: int) -> None:
        writer = self._writer(stage, purge_step=step)
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    def log_results(self, results: Results) -> None:
        import numpy as np
        from PIL import Image

        # Without `purge_step`: a resumed run may have had no step left.
        writer = self._writer(TRAIN)
        self.log(TRAIN, results.metrics, results.step)
        rows = [["" if cell is None else str(cell).replace("|", "\\|") for cell in row] for row in results.classes]
        table = [CLASS_COLUMNS, ["---"] * len(CLASS_COLUMNS), *rows]
        writer.add_text("per_class", "\n".join(f"| {' | '.join(row)} |" for row in table), results.step)
        for name, path in results.plots.items():
            with Image.open(path) as image:
                pixels_HWC = np.asarray(image.convert("RGB"))
            writer.add_image(f"plots/{name}", pixels_HWC, results.step, dataformats="HWC")

    def close(self, *, succeeded: bool) -> None:
        for writer in self._writers.values():
            writer.close()
