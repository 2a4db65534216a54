"""What two texts share, by hand."""

import numpy as np
import pytest
from datasets import Dataset
from scipy import sparse

from hf_finetune.features.baselines import linear_baseline
from hf_finetune.features.overlap import NAMES, overlap


def test_by_hand() -> None:
    """Two words of three, of which one is shared; the same words; nothing."""
    half = np.sqrt(0.5)
    first = sparse.csr_matrix(np.array([[half, half, 0], [1.0, 0, 0], [0, 0, 0]]))
    second = sparse.csr_matrix(np.array([[0, 1.0, 0], [1.0, 0, 0], [0, 0, 1.0]]))
    values = overlap(first, second).toarray()
    assert values[0, :3] == pytest.approx([0, np.sqrt(half), 0])
    expected = {
        "cosine": half,
        "jaccard": 1 / 2,
        "share of the first": 1 / 2,
        "share of the second": 1,
        "length": 1 / 2,
    }
    assert dict(zip(NAMES, values[0, 3:], strict=True)) == pytest.approx({**expected, "equal": 0})
    assert values[1, 3:] == pytest.approx([1, 1, 1, 1, 1, 1]) and values[2, 3:] == pytest.approx([0] * 6)


def test_a_linear_model_of_pairs_sees_whether_they_share_words() -> None:
    """Every word is as frequent in both classes: only what the texts share tells them apart."""
    rng = np.random.default_rng(0)

    def rows(count: int) -> Dataset:
        words = rng.permuted(np.tile(np.arange(40), (count, 1)), axis=1)
        labels = rng.integers(0, 2, count)
        texts = [" ".join(f"w{w}" for w in row[:5]) for row in words]
        # One half of the words of a pair of class 1 is shared.
        seconds = [
            " ".join(f"w{w}" for w in (row[2:7] if c else row[5:10])) for row, c in zip(words, labels, strict=True)
        ]
        return Dataset.from_dict({"text": texts, "text_pair": seconds, "label": labels})

    test = rows(200)
    baseline = linear_baseline(rows(400), test, num_labels=2)
    assert baseline.name == "tfidf+overlap+logistic"
    assert (baseline.scores_NC.argmax(axis=1) == np.asarray(test["label"])).mean() > 0.97
