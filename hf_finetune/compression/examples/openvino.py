import json
from pathlib import Path

import numpy as np
import openvino

FOLDER = Path(__file__).parent
SETTINGS = json.loads((FOLDER / "export.json").read_text(encoding="utf-8"))
# Without it, OpenVINO computes in bfloat16 wherever the CPU can.
PRECISION = {"INFERENCE_PRECISION_HINT": "bf16" if SETTINGS["weights"] == "bfloat16" else "f32"}
model = openvino.compile_model(FOLDER / "model.xml", "CPU", PRECISION)
NAMES = [each.get_any_name() for each in model.inputs]


def compute(columns: dict) -> np.ndarray:
    """Return the logits of a batch by OpenVINO."""
    return model(columns)[0]
