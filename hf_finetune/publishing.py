"""A finished run to the Hub and back: what is pulled must answer as what was pushed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from datasets import Dataset
from peft import PeftModel

from hf_finetune import parity
from hf_finetune.apply import Classifier, load_trained
from hf_finetune.artefacts import HEAD_FILE, artefacts_in
from hf_finetune.hub.push import Pushed, push


def publish(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    include_predictions: bool = False,
) -> Pushed:
    """Push a finished run in one commit, pull it back, and hold the pulled model's logits against the local one's.

    Raises:
        InputError: no token, no such run, no right to write.
        GateError: the pulled copy differs in a byte or in its logits.
    """

    def same_logits(pulled: Path) -> None:
        held, sent = artefacts_in(folder), artefacts_in(pulled)
        local = load_trained(str(folder))
        rows = _probe_rows(local)
        kind = next(iter(held))
        head = pulled / HEAD_FILE if kind == "encoder" else None
        # What was pulled may name its checkpoint otherwise, by its Hub id: the adapter is what is compared.
        base = local.model.get_base_model().name_or_path if isinstance(local.model, PeftModel) else None
        checked = parity.check_artefacts(
            [parity.Artefact("pull", sent[kind], base=base, head=head)],
            rows=rows,
            expected_NC=parity.reference_logits(local.model, local.inputs, local.inputs.encode(rows)),
            labels=local.labels,
            task="text-classification" if local.kind == "text" else "image-classification",
        )
        parity.refuse_failed(checked)

    return push(
        folder,
        repo_id,
        private=private,
        revision=revision,
        create_pr=create_pr,
        include_predictions=include_predictions,
        check=same_logits,
    )


def _probe_rows(classifier: Classifier) -> Dataset:
    """Rows to compare two copies of a model on when its data are not at hand: its own label names, or noise."""
    if classifier.kind == "text":
        return Dataset.from_dict({"text": [f"{a} {b}" for a in classifier.labels[:8] for b in classifier.labels[:8]]})
    from PIL import Image

    rng = np.random.default_rng(0)
    pictures = []
    for size in (32, 64, 96, 128):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(file, "PNG")
        pictures.append({"bytes": file.getvalue(), "path": None})
    return Dataset.from_dict({"image": pictures})
