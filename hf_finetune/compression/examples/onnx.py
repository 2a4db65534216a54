import json
from pathlib import Path

import numpy as np
import onnxruntime

FOLDER = Path(__file__).parent
SETTINGS = json.loads((FOLDER / "export.json").read_text(encoding="utf-8"))
options = onnxruntime.SessionOptions()
# The kernel of this fusion takes several times as long as the operations that it replaces.
options.add_session_config_entry("optimization.disable_specified_optimizers", "SkipLayerNormFusion")
session = onnxruntime.InferenceSession(str(FOLDER / "model.onnx"), options)
NAMES = [each.name for each in session.get_inputs()]


def compute(columns: dict) -> np.ndarray:
    """Return the logits of a batch by ONNX Runtime."""
    return session.run(None, columns)[0]
