"""How the rows are spread over the classes, and words that give a class away.

Legend: N rows, C classes, V words.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import sparse
from scipy.special import betainc

from hf_finetune.doctor.findings import Finding, Material
from hf_finetune.utils.messages import listed

FEW_ROWS, UNEVEN = 10, 10.0
"""Rows that a class should have; how much larger the largest class than the smallest may be."""
# A word gives a class away that occurs in so much of it, and of whose rows so many are of it, beyond chance among all words
# and classes with this probability.
RECALL, PRECISION, CHANCE = 0.5, 0.95, 0.01
# In one of many classes that is natural ("visa" in questions on visas), until nearly all of its rows have the word, or it
# decides so many of all rows.
NEARLY_ALL, DECIDED = 0.9, 0.1


def balance(material: Material) -> tuple[list[Finding], dict[str, dict[str, int]]]:
    """Findings on the sizes of the classes, and their rows by class and split."""
    names, classes = material.names, len(material.names)
    counts = {
        split: np.bincount(material.labels_N[material.split_N == number], minlength=classes)
        for number, split in enumerate(material.splits)
    }
    train, findings = counts["train"], []
    few = [c for c in np.argsort(train, kind="stable") if train[c] < FEW_ROWS]
    if few:
        findings.append(
            Finding(
                "few_rows",
                "look",
                f"{len(few)} of {classes} classes have fewer than {FEW_ROWS} training rows",
                "label more rows of them, or join them to others",
                len(few),
                classes,
                details=tuple(f"{names[c]}: {train[c]} training rows" for c in few),
            )
        )
    missing = [(split, c) for split in counts for c in range(classes) if counts[split][c] == 0]
    if missing:
        findings.append(
            Finding(
                "missing_classes",
                "look",
                "classes without a row in a split: nothing is measured of them there",
                "move or label rows, so that every split has every class",
                len(missing),
                classes * len(counts),
                details=tuple(
                    f"{split}: {listed([names[c] for s, c in missing if s == split])}"
                    for split in dict.fromkeys(split for split, _ in missing)
                ),
            )
        )
    least, most = int(train.argmin()), int(train.argmax())
    if train[most] > UNEVEN * max(1, train[least]):
        findings.append(
            Finding(
                "uneven_classes",
                "note",
                f"{names[most]} has {train[most]:,} training rows, {names[least]} {train[least]:,}",
                "judge by macro F1; try class weights (--objective.class-weights) or --batching.sampling",
                1,
                classes,
            )
        )
    table = {name: {split: int(counts[split][c]) for split in counts} for c, name in enumerate(names)}
    return findings, table


def telltales(
    has_NV: sparse.csr_array, words: Sequence[str], labels_N: np.ndarray, names: Sequence[str], *, what: str
) -> list[Finding]:
    """Words, or other marks, that nearly all rows of a class and hardly any others have.

    Against chance: with the class's share of the rows as the probability, a word is that pure in fewer than CHANCE of the
    data sets of this size, counting all words and classes (Bonferroni).

    Args:
        has_NV: whether a row has a word.
        what: what they are: "words".
    """
    classes, (rows, vocabulary) = len(names), has_NV.shape
    if rows == 0 or vocabulary == 0:
        return []
    of_class_CN = sparse.csr_array((np.ones(rows), (labels_N, np.arange(rows))), shape=(classes, rows))
    both_CV = (of_class_CN @ (has_NV > 0).astype(np.float64)).toarray()
    rows_V, rows_C = both_CV.sum(axis=0), np.bincount(labels_N, minlength=classes)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall_CV, precision_CV = both_CV / rows_C[:, None], both_CV / rows_V
    # Probability of so many rows of the class or more among those of the word, were they drawn at random.
    chance_CV = np.ones_like(both_CV)
    c, v = np.nonzero((recall_CV >= RECALL) & (precision_CV >= PRECISION))
    chance_CV[c, v] = betainc(both_CV[c, v], rows_V[v] - both_CV[c, v] + 1, rows_C[c] / rows)
    found = [(int(a), int(b)) for a, b in zip(c, v, strict=True) if chance_CV[a, b] * vocabulary * classes < CHANCE]
    if not found:
        return []
    found.sort(key=lambda place: -recall_CV[place])
    details = tuple(
        f"{words[v]}: in {both_CV[c, v]:,.0f} of {rows_C[c]:,} rows of {names[c]} and {rows_V[v] - both_CV[c, v]:,.0f} of "
        f"{rows - rows_C[c]:,} others"
        for c, v in found
    )
    return [
        Finding(
            "telltales",
            "look" if any(recall_CV[at] >= NEARLY_ALL or both_CV[at] >= DECIDED * rows for at in found) else "note",
            f"{what} that almost give a class away by themselves: {len(found)}",
            "see whether they are there only because of how the data were made; if so, remove them",
            len(found),
            vocabulary,
            details=details,
        )
    ]


def of_marks(marks: Iterable[Iterable[str]]) -> tuple[sparse.csr_array, list[str]]:
    """Marks of each row as a table (N, V), and their names."""
    numbers: dict[str, int] = {}
    columns, ends = array("q"), array("q", [0])
    for row in marks:
        columns.extend(numbers.setdefault(mark, len(numbers)) for mark in dict.fromkeys(row))
        ends.append(len(columns))
    places, starts = np.frombuffer(columns, np.int64), np.frombuffer(ends, np.int64)
    table = sparse.csr_array((np.ones(len(places), np.float32), places, starts), shape=(len(ends) - 1, len(numbers)))
    return table, list(numbers)
