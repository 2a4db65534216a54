import json
from pathlib import Path

import numpy as np
import onnxruntime

FOLDER = Path(__file__).parent
SETTINGS = json.loads((FOLDER / "export.json").read_text(encoding="utf-8"))
session = onnxruntime.InferenceSession(str(FOLDER / "model.onnx"))
NAMES = [each.name for each in session.get_inputs()]


def compute(columns: dict) -> np.ndarray:
    """Return the logits of a batch by ONNX Runtime."""
    return session.run(None, columns)[0]
