"""The gate: a saved artefact must give the logits of the model it was made from, loaded by someone else's code.

Legend: N rows, C classes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from hf_finetune.data.image_decoding import decode
from hf_finetune.data.inputs import Inputs, Rows, columns_of
from hf_finetune.errors import GateError
from hf_finetune.evaluation.logits import predict_logits
from hf_finetune.pipeline import parity_child
from hf_finetune.training.precision import exact_float32
from hf_finetune.utils.artifacts import Kind

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Artefact:
    """One folder to be loaded: a whole model, an encoder for a head, or an adapter on a base checkpoint."""

    name: str
    path: Path
    base: str | None = None
    """Checkpoint under an adapter; None: the folder is a whole model."""
    revision: str | None = None
    head: Path | None = None
    """head.safetensors of an encoder; None: the folder holds all of it."""

    @property
    def kind(self) -> Kind:
        """What the folder is."""
        return "adapter" if self.base is not None else "model" if self.head is None else "encoder"


def reference_logits(model: nn.Module, inputs: Inputs, encoded: Dataset) -> np.ndarray:
    """Logits (N, C) in exact float32, padded as the fresh process pads: consecutive rows, batch by batch."""
    rows = Rows(encoded, columns_of(inputs, labels=False))
    with exact_float32():
        return predict_logits(model, rows, inputs.collate, batch_size=parity_child.BATCH_ROWS)


def check_artefacts(
    artefacts: Sequence[Artefact],
    *,
    rows: Dataset,
    expected_NC: np.ndarray,
    labels: Sequence[str],
    task: str,
    trust_remote_code: bool = False,
    tolerance: float = TOLERANCE,
) -> dict[str, dict[str, Any]]:
    """Load every artefact in one fresh process and compare its logits with `expected_NC`.

    Args:
        rows: canonical rows (`text`, `text_pair`, `image`), N of them.
        expected_NC: see `reference_logits`, shape (N, C).
        labels: class names; `pipeline(task, folder)` must answer with the same ones.

    Returns:
        By artefact: `max_abs_difference`, `tolerance`, `rows`, `ok`; and `pipeline`: how many labels agree. When the
        fresh process cannot load or run one of them, by artefact: `ok`, which is false, and `error`.
    """
    with tempfile.TemporaryDirectory(prefix="hf_finetune_parity_") as name:
        folder = Path(name)
        job = folder / "job.json"
        job.write_text(
            json.dumps(
                {
                    "task": task,
                    "rows": _plain_rows(rows, folder),
                    "num_labels": len(labels),
                    "threads": torch.get_num_threads(),
                    "trust_remote_code": trust_remote_code,
                    "artefacts": [
                        {
                            "name": a.name,
                            "kind": a.kind,
                            "path": str(a.path),
                            "head": None if a.head is None else str(a.head),
                            "base": a.base,
                            "revision": a.revision,
                        }
                        for a in artefacts
                    ],
                }
            )
        )
        complaint = in_fresh_process(job)
        if complaint is not None:
            return {a.name: {"ok": False, "error": complaint} for a in artefacts}
        with np.load(job.with_suffix(".npz")) as archive:
            found = {a.name: archive[a.name] for a in artefacts}
        answered = json.loads((folder / "labels.json").read_text())

    report: dict[str, dict[str, Any]] = {}
    for artefact in artefacts:
        difference = float(np.abs(found[artefact.name] - expected_NC).max())
        # Not `difference > tolerance`: NaN must fail.
        ok = bool(difference <= tolerance)
        report[artefact.name] = {"max_abs_difference": difference, "tolerance": tolerance, "rows": len(rows), "ok": ok}
    if answered is not None:
        wanted = [labels[i] for i in expected_NC[: len(answered)].argmax(-1)]
        # Two classes closer than the tolerance may change places.
        margin = np.sort(expected_NC[: len(answered)], axis=-1)
        near = margin[:, -1] - margin[:, -2] <= 2 * tolerance if len(labels) > 1 else np.zeros(len(answered), bool)
        agree = sum(a == w or bool(n) for a, w, n in zip(answered, wanted, near, strict=True))
        report["pipeline"] = {"labels_agree": agree, "rows": len(answered), "ok": agree == len(answered)}
    return report


def in_fresh_process(job: Path) -> str | None:
    """Do the job of `parity_child` in a process of its own. What it failed with, in one line; None when it is done."""
    # -P: the script's folder, this package, does not become importable by accident.
    child = subprocess.run(
        [sys.executable, "-P", str(Path(parity_child.__file__)), str(job)], capture_output=True, text=True
    )
    return None if child.returncode == 0 else (child.stderr.strip().splitlines()[-1:] or ["no output"])[0]


def refuse_failed(report: dict[str, dict[str, Any]]) -> None:
    """Raise when a check of the report failed.

    Raises:
        GateError: naming the artefact and its difference.
    """
    for name, check in report.items():
        if "error" in check:
            raise GateError(f"parity: a fresh process could not load the saved folder: {check['error']}")
        if not check["ok"]:
            found = check.get("max_abs_difference", check.get("labels_agree"))
            raise GateError(f"parity: {name} does not reproduce the trained model: {found} over {check['rows']} rows")


def _plain_rows(rows: Dataset, folder: Path) -> list[dict[str, str]]:
    if "image" not in rows.column_names:
        columns = [c for c in ("text", "text_pair") if c in rows.column_names]
        return rows.select_columns(columns).to_list()
    plain = []
    for number, image in enumerate(rows["image"]):
        path = folder / f"{number}.png"
        decode(image).save(path)
        plain.append({"image": str(path)})
    return plain
