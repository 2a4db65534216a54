"""Rows that are there twice: exactly or nearly, within train or on both sides, with one label or with two."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from hf_finetune.doctor.findings import Finding, Material, Suspect, of_rows


def repeats(material: Material, near: Sequence[Hashable | None]) -> list[Finding]:
    """Rows that repeat others.

    Args:
        near: what nearly equal rows share, None for rows that were not compared; see `alike`.
    """
    exact = material.digests
    what = "text" if material.of_texts else "picture"
    same, similar = _compared(material, exact, near)
    train, evals = int((material.split_N == 0).sum()), int((material.split_N > 0).sum())
    trained = material.split_N == 0
    conflicts = _conflicts(material, exact)
    twice, leaked = [s for s in same if trained[s.index]], [s for s in same if not trained[s.index]]
    near_twice, near_leaked = [s for s in similar if trained[s.index]], [s for s in similar if not trained[s.index]]
    compared = np.array([key is not None for key in near], dtype=bool)
    alike = "nearly the same words" if material.of_texts else "nearly the same pixels"
    return [
        *of_rows(
            "leaked",
            "serious",
            leaked,
            evals,
            "evaluation rows are in train too, exactly alike: scores on them are too good",
            "take them out of train, or out of the evaluation rows",
        ),
        *of_rows(
            "conflicts",
            "serious",
            conflicts,
            len(material),
            f"rows have a {what} that occurs with another label as well",
            "decide on one label, or remove them: no model can have both right",
        ),
        *of_rows(
            "near_leaked",
            "serious",
            near_leaked,
            int((compared & ~trained).sum()),
            f"evaluation rows have {alike} as a row of train{_otherwise(material, near_leaked)}",
            "take one of the two out: scores on such rows are too good",
        ),
        *of_rows(
            "duplicates",
            "look",
            twice,
            train,
            "training rows repeat an earlier one exactly",
            "keep one of each, unless repetition is meant as weight",
        ),
        *of_rows(
            "near_duplicates",
            "look",
            near_twice,
            int((compared & trained).sum()),
            f"training rows have {alike} as an earlier one{_otherwise(material, near_twice)}",
            "keep one of each; where their labels differ, decide on one",
        ),
    ]


def _otherwise(material: Material, suspects: Sequence[Suspect]) -> str:
    """How many are labelled otherwise than what they are like."""
    count = sum(material.labels_N[s.index] != material.labels_N[s.other] for s in suspects if s.other is not None)
    return f", {count:,} of them with another label" if count else ""


def _compared(
    material: Material, exact: Sequence[bytes], near: Sequence[Hashable | None]
) -> tuple[list[Suspect], list[Suspect]]:
    """Rows that are exactly, and rows that are only nearly, what an earlier row of train is."""
    first: dict[bytes, int] = {}
    first_near: dict[Hashable, int] = {}
    same, alike = [], []
    for i in range(len(material)):
        trained = material.split_N[i] == 0
        if exact[i] in first:
            same.append(Suspect(i, f"exact copy of {material.place(first[exact[i]])}", first[exact[i]]))
            continue
        if trained:
            first[exact[i]] = i
        key = near[i]
        if key is None:
            continue
        if key in first_near:
            other = first_near[key]
            differs = material.labels_N[i] != material.labels_N[other]
            labels = f", which is labelled {material.name(other)}, this one {material.name(i)}" if differs else ""
            alike.append(Suspect(i, f"nearly a copy of {material.place(other)}{labels}", other))
        elif trained:
            first_near[key] = i
    return same, alike


def _conflicts(material: Material, exact: Sequence[bytes]) -> list[Suspect]:
    """Rows whose input has another label elsewhere, in any split; those of one input stand together."""
    groups: dict[bytes, list[int]] = {}
    for i, key in enumerate(exact):
        groups.setdefault(key, []).append(i)
    found = []
    for rows in groups.values():
        if len(set(material.labels_N[rows].tolist())) < 2:
            continue
        for i in rows:
            other = next(j for j in rows if material.labels_N[j] != material.labels_N[i])
            reason = f"labelled {material.name(i)}, in {material.place(other)} {material.name(other)}"
            found.append(Suspect(i, reason, other))
    return found
