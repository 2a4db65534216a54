"""What a finished run's folder holds that can be used, and a repository to which it was pushed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

ArtifactKind = Literal["model", "encoder", "adapter"]
HEAD_FILE = "head.safetensors"
ADAPTER_FILE = "adapter_model.safetensors"
# Refused when a run is planned, and again when it is pushed.
ALONE_AFTER_A_RUN = (
    "adapter/ would be pushed, which needs what the run {!r} left, and no repository is known to hold that; push that "
    "run, and train on it with --model YOUR-NAME/ITS-NAME, or name it by --base-model"
)


def artifacts_in(folder: Path) -> dict[ArtifactKind, Path]:
    """The artifacts of a run and their folders, that which labels new rows first.

    model: a whole stock classifier, in model/ or, in a repository, at the root. encoder: a stock encoder, whose head is
    head.safetensors beside its folder; only where no stock class can hold both. adapter: what PEFT puts on the
    checkpoint that it was trained on; alone where it cannot be merged."""
    found: dict[ArtifactKind, Path] = {}
    for place in (folder / "model", folder):
        if "model" not in found and (place / "config.json").is_file():
            found["model"] = place
    if (folder / "encoder" / "config.json").is_file() and (folder / HEAD_FILE).is_file():
        found["encoder"] = folder / "encoder"
    if (folder / "adapter" / "adapter_config.json").is_file():
        found["adapter"] = folder / "adapter"
    return found
