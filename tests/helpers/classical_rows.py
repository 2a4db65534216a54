"""Rows of which classical models learn: the class is the sign of two of three, and the price that of the third."""

import numpy as np
from datasets import Dataset

LABELS = ("bad", "good", "odd")


def classical_rows(count: int = 90, seed: int = 0) -> Dataset:
    """Random words and a sign, with a column of numbers."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=count)
    signs = ("awful", "great", "great")
    texts = [" ".join([*rng.choice(list("abcdefgh"), size=4), signs[label]]) for label in labels]
    prices = [str(100 * (label == 2) + float(rng.normal())) for label in labels]
    return Dataset.from_dict({"text": texts, "label": labels, "row": range(count), "feature:price": prices})
