"""Check the sizes of the classes, and find words that predict a class alone.

Legend: N rows, C classes, V words.
"""

from array import array
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import sparse
from scipy.special import betainc

from hf_finetune.doctor.examples import Examples
from hf_finetune.doctor.findings import Finding, diagnose
from hf_finetune.utils.messages import listed

FEW_ROWS, UNEVEN = 10, 10.0
"""Least number of rows of a class; largest ratio of class sizes."""
# A telltale word has at least this recall and precision for a class, at this level of significance.
RECALL, PRECISION, CHANCE = 0.5, 0.95, 0.01
# With many classes that is natural ("visa" in questions on visas), unless the recall is this high, or the word decides
# this share of all rows.
NEARLY_ALL, DECIDED = 0.9, 0.1


def count_classes(examples: Examples) -> dict[str, np.ndarray]:
    """Count the rows of each class or tag, shape (C,), by split."""
    return {
        split: np.asarray(examples.has_label_NC[examples.split_N == number].sum(axis=0)).ravel().astype(np.int64)
        for number, split in enumerate(examples.splits)
    }


def examine_balance(names: Sequence[str], counts: dict[str, np.ndarray], noun: str) -> list[Finding]:
    """Check the sizes of the classes.

    Args:
        counts: see `count_classes`.
        noun: classes or tags.
    """
    train = counts["train"]
    few = [c for c in np.argsort(train, kind="stable").tolist() if train[c] < FEW_ROWS]
    missing = {split: [names[c] for c in np.flatnonzero(rows_C == 0).tolist()] for split, rows_C in counts.items()}
    least, most = int(train.argmin()), int(train.argmax())
    uneven = train[most] > UNEVEN * max(1, train[least])
    return [
        diagnose(
            "few_rows",
            len(names),
            details=[f"{names[c]}: {train[c]} training rows" for c in few],
            limit=FEW_ROWS,
            noun=noun,
        ),
        diagnose(
            "missing_classes",
            len(names) * len(counts),
            count=sum(map(len, missing.values())),
            details=[f"{split}: {listed(absent)}" for split, absent in missing.items() if absent],
            noun=noun,
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
    has_NV: sparse.csr_array, words: Sequence[str], has_label_NC: sparse.csr_array, names: Sequence[str], *, marks: str
) -> list[Finding]:
    """Find words, or other marks, of most rows of a class and of hardly any other rows.

    The precision is tested against the class's share of the rows, with Bonferroni correction for all words and
    classes.

    Args:
        has_NV: whether a row has a word.
        has_label_NC: whether a row has a class or tag.
        marks: kind of marks, for the summary: "words".
    """
    classes, (rows, vocabulary) = len(names), has_NV.shape
    if rows == 0 or vocabulary == 0:
        return []
    # A dense table of 10,000 classes and 50,000 words would take 4 GB: only the pairs that occur are kept.
    both_CV = (has_label_NC.T @ (has_NV > 0).astype(np.float64)).tocsr()
    both_CV.sort_indices()
    both_CV = both_CV.tocoo()
    c, v, both = both_CV.row, both_CV.col, both_CV.data
    rows_V = np.asarray((has_NV > 0).sum(axis=0)).ravel()
    rows_C = np.asarray(has_label_NC.sum(axis=0)).ravel().astype(np.int64)
    likely = (both / rows_C[c] >= RECALL) & (both / rows_V[v] >= PRECISION)
    c, v, both = c[likely], v[likely], both[likely]
    # Binomial probability of at least this many rows of the class among random rows.
    chance = betainc(both, rows_V[v] - both + 1, rows_C[c] / rows)
    beyond = chance * vocabulary * classes < CHANCE
    c, v, both = c[beyond], v[beyond], both[beyond]
    order = np.argsort(-both / rows_C[c], kind="stable")
    c, v, both = c[order], v[order], both[order]
    details = [
        f"{words[v]}: in {count:,.0f} of {rows_C[c]:,} rows of {names[c]} and "
        f"{rows_V[v] - count:,.0f} of {rows - rows_C[c]:,} others"
        for c, v, count in zip(c.tolist(), v.tolist(), both.tolist(), strict=True)
    ]
    severe = bool(np.any((both / rows_C[c] >= NEARLY_ALL) | (both >= DECIDED * rows)))
    return [diagnose("telltales", vocabulary, details=details, severity="look" if severe else None, marks=marks)]


class Numbers(dict[str, int]):
    """Number marks in order of appearance: `numbers[mark]`."""

    def __missing__(self, mark: str) -> int:
        self[mark] = number = len(self)
        return number


def mark_table(marks: Iterable[Iterable[str]]) -> tuple[sparse.csr_array, list[str]]:
    """Return the marks of each row as a table (N, V), and their names."""
    numbers = Numbers()
    columns, ends = array("q"), array("q", [0])
    for row in marks:
        columns.extend(map(numbers.__getitem__, dict.fromkeys(row)))
        ends.append(len(columns))
    places, starts = np.frombuffer(columns, np.int64), np.frombuffer(ends, np.int64)
    table = sparse.csr_array((np.ones(len(places), np.float32), places, starts), shape=(len(ends) - 1, len(numbers)))
    return table, list(numbers)
