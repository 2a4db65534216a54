import inspect
import json
from pathlib import Path

import numpy as np
import torch
import transformers

FOLDER = Path(__file__).parent
SETTINGS = json.loads((FOLDER / "export.json").read_text(encoding="utf-8"))
AUTO = {
    "text-classification": transformers.AutoModelForSequenceClassification,
    "token-classification": transformers.AutoModelForTokenClassification,
    "image-classification": transformers.AutoModelForImageClassification,
}
# dtype="auto" also computes in bfloat16: faster where the CPU has AMX or AVX-512 BF16, and rounded a little more.
model = AUTO[SETTINGS["hub_task"]].from_pretrained(FOLDER, dtype=torch.float32).eval()
NAMES = [name for name in inspect.signature(model.forward).parameters]


def compute(columns: dict) -> np.ndarray:
    """Return the logits of a batch by transformers."""
    with torch.inference_mode():
        return model(**{name: torch.from_numpy(column) for name, column in columns.items()}).logits.numpy()
