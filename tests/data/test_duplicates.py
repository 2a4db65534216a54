"""Row digests, exact duplicates, the fingerprint."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, concatenate_datasets

from hf_finetune.data.duplicates import fingerprint, first_sources, row_digests


def test_digests_of_texts_and_pairs() -> None:
    assert row_digests(pa.table({"text": ["é"], "label": [1]})) == [hashlib.sha256("é".encode()).digest()]
    pairs = row_digests(pa.table({"text": ["ab", "a", "ab"], "text_pair": ["c", "bc", "c"]}))
    assert pairs[0] == pairs[2] != pairs[1]


def test_digests_of_images_are_of_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    rows = [{"bytes": b"x", "path": "one"}, {"bytes": None, "path": str(tmp_path / "a")}]
    assert len(set(row_digests(pa.table({"image": rows})))) == 1


def test_sources_of_rows_that_are_written_several_times() -> None:
    rows = Dataset.from_dict({"text": ["a", "b", "a", "c"], "label": [0, 1, 0, 1], "row": [3, 4, 7, 9]})
    assert first_sources(rows).tolist() == [0, 1, 0, 3]
    # A changed copy of row 7, whose text is row 3's.
    copy = Dataset.from_dict({"text": ["A"], "label": [0], "row": [7]})
    assert first_sources(concatenate_datasets([rows, copy])).tolist() == [0, 1, 0, 3, 0]


def test_fingerprint() -> None:
    a, b = hashlib.sha256(b"a").digest(), hashlib.sha256(b"b").digest()
    one = fingerprint(("x", "y"), {"train": ([a, b], np.array([0, 1]))})
    by_hand = b'["x", "y"]' + b"train 2" + a + b + (0).to_bytes(8, "little") + (1).to_bytes(8, "little")
    assert one == hashlib.sha256(by_hand).hexdigest()
    others = [
        fingerprint(("x", "z"), {"train": ([a, b], np.array([0, 1]))}),
        fingerprint(("x", "y"), {"train": ([a, b], np.array([1, 1]))}),
        fingerprint(("x", "y"), {"train": ([b, a], np.array([0, 1]))}),
        fingerprint(("x", "y"), {"train": ([a], np.array([0])), "test": ([b], np.array([1]))}),
    ]
    assert len({one, *others}) == 5
