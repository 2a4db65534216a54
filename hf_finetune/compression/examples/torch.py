import json
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent
SETTINGS = json.loads((FOLDER / "export.json").read_text(encoding="utf-8"))
files = {"inputs.json": ""}
program = torch.export.load(FOLDER / "model.pt2", extra_files=files).module()
NAMES = json.loads(files["inputs.json"])


def compute(columns: dict) -> np.ndarray:
    """Return the logits of a batch by torch."""
    with torch.inference_mode():
        return program(inputs={name: torch.from_numpy(columns[name]) for name in NAMES}).numpy()
