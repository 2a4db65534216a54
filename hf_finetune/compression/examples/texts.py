"""Classify texts by model.onnx, with onnxruntime, tokenizers and numpy alone.

python example.py "works as it should" "broke after a day"
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

FOLDER = Path(__file__).parent
SETTINGS = json.loads((FOLDER / "export.json").read_text(encoding="utf-8"))
session = onnxruntime.InferenceSession(str(FOLDER / "model.onnx"))
tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
tokenizer.enable_truncation(SETTINGS["max_length"])
tokenizer.enable_padding(**SETTINGS["padding"])


def logits(texts: list) -> np.ndarray:
    """Return the logits of texts, or of pairs (first, second): shape (N, classes); of words (N, tokens, tags)."""
    encoded = tokenizer.encode_batch(texts)
    columns = {
        "input_ids": [each.ids for each in encoded],
        "attention_mask": [each.attention_mask for each in encoded],
        "token_type_ids": [each.type_ids for each in encoded],
    }
    return session.run(None, {i.name: np.array(columns[i.name], np.int64) for i in session.get_inputs()})[0]


def answers(texts: list) -> list:
    """Return the class, the tags, the numbers, or the tag of each token."""
    values, labels = logits(texts), SETTINGS["labels"]
    if SETTINGS["activation"] == "identity":
        return [dict(zip(labels, map(float, row), strict=True)) for row in values]
    if SETTINGS["thresholds"]:
        cuts = np.array([SETTINGS["thresholds"][name] for name in labels])
        return [
            [name for name, p in zip(labels, row, strict=True) if p >= 0] for row in 1 / (1 + np.exp(-values)) - cuts
        ]
    if values.ndim == 3:
        rows = zip(tokenizer.encode_batch(texts), values.argmax(-1), strict=True)
        return [
            [
                (token, labels[i])
                for token, i, special in zip(row.tokens, ids, row.special_tokens_mask, strict=True)
                if not special
            ]
            for row, ids in rows
        ]
    return [labels[i] for i in values.argmax(-1)]


if __name__ == "__main__":
    for text, answer in zip(sys.argv[1:], answers(sys.argv[1:]), strict=True):
        print(f"{text}: {answer}")
