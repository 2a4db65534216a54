"""What a hash depends on, and what it does not."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets

from hf_finetune.utils import hashing


def test_files_are_concatenated(tmp_path: Path) -> None:
    for name, content in (("a", b"one"), ("b", b"two")):
        (tmp_path / name).write_bytes(content)
    assert hashing.of_files(tmp_path / "a", tmp_path / "b") == hashlib.sha256(b"onetwo").hexdigest()


def test_json_ignores_the_order_of_keys() -> None:
    one = hashing.of_json({"a": 1, "b": [1.5, None]})
    assert one == hashing.of_json({"b": [1.5, None], "a": 1}) != hashing.of_json({"a": 1, "b": [1.5, 0]})
    assert one == hashlib.sha256(b'{"a": 1, "b": [1.5, null]}').hexdigest()


def test_tensors() -> None:
    by_hand = hashlib.sha256(b"w torch.float32 (1, 2)" + np.array([1, 2], np.float32).tobytes()).hexdigest()
    tensor = torch.tensor([[1.0, 2.0]])
    assert hashing.of_tensors({"w": tensor}) == by_hand
    others = [{"v": tensor}, {"w": tensor.T}, {"w": tensor.half()}, {"w": tensor + 1e-6}, {"w": tensor.flip(-1)}]
    assert by_hand not in map(hashing.of_tensors, others)


def test_columns_ignore_their_chunks() -> None:
    rows = Dataset.from_dict({"input_ids": [[1, 2], [3], [4, 5, 6]], "label": [0, 1, 0]})
    expected = hashing.of_columns(rows)
    pieces = concatenate_datasets([rows.select([0]), rows.select([1, 2])])
    assert hashing.of_columns(pieces) == hashing.of_columns(rows.select_columns(["label", "input_ids"])) == expected
    moved = Dataset.from_dict({"input_ids": [[1], [2, 3], [4, 5, 6]], "label": [0, 1, 0]})
    assert expected not in (hashing.of_columns(moved), hashing.of_columns(rows.select([1, 0, 2])))
