"""Check the sizes of the classes, and find words that predict a class alone.

Legend: N rows, C classes, V words.
"""

from array import array
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import sparse
from scipy.special import betainc

from hf_finetune.doctor.findings import Examples, Finding, diagnose
from hf_finetune.utils.messages import listed

FEW_ROWS, UNEVEN = 10, 10.0
"""Least number of rows of a class; largest ratio of class sizes."""
# A telltale word has at least this recall and precision for a class, at this level of significance.
RECALL, PRECISION, CHANCE = 0.5, 0.95, 0.01
# With many classes that is natural ("visa" in questions on visas), unless the recall is this high, or the word decides
# this share of all rows.
NEARLY_ALL, DECIDED = 0.9, 0.1


def count_classes(examples: Examples) -> dict[str, np.ndarray]:
    """Count the rows of each class, shape (C,), by split."""
    return {
        split: np.bincount(examples.labels_N[examples.split_N == number], minlength=len(examples.names))
        for number, split in enumerate(examples.splits)
    }


def examine_balance(names: Sequence[str], counts: dict[str, np.ndarray]) -> list[Finding]:
    """Check the sizes of the classes.

    Args:
        counts: see `count_classes`.
    """
    train = counts["train"]
    few = [c for c in np.argsort(train, kind="stable").tolist() if train[c] < FEW_ROWS]
    missing = {split: [names[c] for c in np.flatnonzero(rows_C == 0).tolist()] for split, rows_C in counts.items()}
    least, most = int(train.argmin()), int(train.argmax())
    uneven = train[most] > UNEVEN * max(1, train[least])
    return [
        diagnose(
            "few_rows", len(names), details=[f"{names[c]}: {train[c]} training rows" for c in few], limit=FEW_ROWS
        ),
        diagnose(
            "missing_classes",
            len(names) * len(counts),
            count=sum(map(len, missing.values())),
            details=[f"{split}: {listed(absent)}" for split, absent in missing.items() if absent],
        ),
        diagnose(
            "uneven_classes",
            len(names),
            count=int(uneven),
            largest=names[most],
            most=train[most],
            smallest=names[least],
            least=train[least],
        ),
    ]


def find_telltales(
    has_NV: sparse.csr_array, words: Sequence[str], labels_N: np.ndarray, names: Sequence[str], *, marks: str
) -> list[Finding]:
    """Find words, or other marks, of most rows of a class and of hardly any other rows.

    The precision is tested against the class's share of the rows, with Bonferroni correction for all words and
    classes.

    Args:
        has_NV: whether a row has a word.
        marks: kind of marks, for the summary: "words".
    """
    classes, (rows, vocabulary) = len(names), has_NV.shape
    if rows == 0 or vocabulary == 0:
        return []
    of_class_CN = sparse.csr_array((np.ones(rows), (labels_N, np.arange(rows))), shape=(classes, rows))
    both_CV = (of_class_CN @ (has_NV > 0).astype(np.float64)).toarray()
    rows_V, rows_C = both_CV.sum(axis=0), np.bincount(labels_N, minlength=classes)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall_CV, precision_CV = both_CV / rows_C[:, None], both_CV / rows_V
    # Binomial probability of at least this many rows of the class among random rows.
    c, v = np.nonzero((recall_CV >= RECALL) & (precision_CV >= PRECISION))
    chance = betainc(both_CV[c, v], rows_V[v] - both_CV[c, v] + 1, rows_C[c] / rows)
    beyond = chance * vocabulary * classes < CHANCE
    c, v = c[beyond], v[beyond]
    order = np.argsort(-recall_CV[c, v], kind="stable")
    telltales = list(zip(c[order].tolist(), v[order].tolist(), strict=True))
    details = [
        f"{words[v]}: in {both_CV[c, v]:,.0f} of {rows_C[c]:,} rows of {names[c]} and "
        f"{rows_V[v] - both_CV[c, v]:,.0f} of {rows - rows_C[c]:,} others"
        for c, v in telltales
    ]
    severe = any(recall_CV[at] >= NEARLY_ALL or both_CV[at] >= DECIDED * rows for at in telltales)
    return [diagnose("telltales", vocabulary, details=details, severity="look" if severe else None, marks=marks)]


def mark_table(marks: Iterable[Iterable[str]]) -> tuple[sparse.csr_array, list[str]]:
    """Return the marks of each row as a table (N, V), and their names."""
    numbers: dict[str, int] = {}
    columns, ends = array("q"), array("q", [0])
    for row in marks:
        columns.extend(numbers.setdefault(mark, len(numbers)) for mark in dict.fromkeys(row))
        ends.append(len(columns))
    places, starts = np.frombuffer(columns, np.int64), np.frombuffer(ends, np.int64)
    table = sparse.csr_array((np.ones(len(places), np.float32), places, starts), shape=(len(ends) - 1, len(numbers)))
    return table, list(numbers)
