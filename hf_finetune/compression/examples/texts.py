"""Classify texts by the exported model beside this file, with tokenizers, numpy and what computes it alone.

python example.py "works as it should" "broke after a day"
"""

import sys

import numpy as np
from tokenizers import Encoding, Tokenizer

from hf_finetune.compression.examples.onnx import FOLDER, NAMES, SETTINGS, compute

MOST, LONG = SETTINGS["max_length"], SETTINGS["long"] or {}
tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def windows(text: str | tuple[str, str]) -> list:
    """Return what is read of a text, or of a pair (first, second): one window, or several of a long text."""
    if isinstance(text, str) and "head" in LONG:
        tokenizer.no_truncation()
        first, last = tokenizer.encode(text), tokenizer.encode(text)
        if len(first) > MOST:
            first.truncate(LONG["head"])
            last.truncate(MOST - LONG["head"], direction="left")
            first = Encoding.merge([first, last], growing_offsets=False)
        return [first]
    tokenizer.enable_truncation(MOST, stride=LONG.get("stride", 0))
    if not isinstance(text, str):
        return [tokenizer.encode(*text)]
    encoded = tokenizer.encode(text)
    return [encoded, *encoded.overflowing][: LONG.get("most", 1)]


def shares_of(texts: list) -> np.ndarray:
    """Return how much each window counts in its text: shape (N, most windows), else 0."""
    weights = np.zeros((len(texts), max(map(len, texts))), np.float32)
    for row, read in zip(weights, texts, strict=True):
        row[: len(read)] = [sum(each.attention_mask) if LONG.get("by_tokens") else 1 for each in read]
    return weights / weights.sum(1, keepdims=True)


def logits(texts: list) -> np.ndarray:
    """Return the logits of texts, or of pairs (first, second): shape (N, classes); of words (N, tokens, tags)."""
    read = [windows(text) for text in texts]
    rows, shares = [window for text in read for window in text], shares_of(read)
    longest = max(len(row.ids) for row in rows)
    for row in rows:
        row.pad(longest, **SETTINGS["padding"])
    columns = {
        "input_ids": np.array([row.ids for row in rows], np.int64),
        "attention_mask": np.array([row.attention_mask for row in rows], np.int64),
        "token_type_ids": np.array([row.type_ids for row in rows], np.int64),
        "chunks": shares,
    }
    values = compute({name: column for name, column in columns.items() if name in NAMES})
    if len(rows) == len(texts) or "chunks" in NAMES:
        return values
    # The prediction of a long text is the mean of its windows.
    parts = np.split(values, np.cumsum([len(text) for text in read])[:-1])
    return np.stack([share[: len(part)] @ part for share, part in zip(shares, parts, strict=True)])


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
        found = []
        for text, tags in zip(texts, values.argmax(-1), strict=True):
            (row,) = windows(text)
            row.pad(len(tags), **SETTINGS["padding"])
            tokens = zip(row.tokens, tags, row.special_tokens_mask, strict=True)
            found.append([(token, labels[tag]) for token, tag, special in tokens if not special])
        return found
    return [labels[i] for i in values.argmax(-1)]


if __name__ == "__main__":
    for text, answer in zip(sys.argv[1:], answers(sys.argv[1:]), strict=True):
        print(f"{text}: {answer}")
