"""Find repeated rows: exact or near, within train or across splits, with one label or with several."""

from collections.abc import Hashable, Sequence

import numpy as np

from hf_finetune.doctor.examples import Examples
from hf_finetune.doctor.findings import Finding, Suspect, diagnose


def find_duplicates(examples: Examples, near: Sequence[Hashable | None]) -> list[Finding]:
    """Find rows that repeat others.

    Args:
        near: a key that near duplicates share, None for rows that were not compared; see `near_duplicates`.
    """
    trained_N = examples.split_N == 0
    compared_N = np.array([key is not None for key in near], dtype=bool)
    same, similar = _repeats(examples, near)
    conflicts = _conflicts(examples)

    def split(suspects: list[Suspect], *, trained: bool) -> list[Suspect]:
        return [suspect for suspect in suspects if trained_N[suspect.index] == trained]

    def otherwise(suspects: list[Suspect]) -> str:
        pairs = [(s.index, s.other) for s in suspects if s.other is not None]
        count = sum(examples.labels_differ(i, other) for i, other in pairs)
        return f", {count:,} of them with another label" if count else ""

    alike = "nearly the same words" if examples.kind == "text" else "nearly the same pixels"
    near_leaked, near_twice = split(similar, trained=False), split(similar, trained=True)
    compared_evals, compared_train = int((compared_N & ~trained_N).sum()), int((compared_N & trained_N).sum())
    return [
        diagnose("leaked", int((~trained_N).sum()), split(same, trained=False)),
        diagnose("conflicts", len(examples), conflicts, input=examples.kind),
        diagnose("near_leaked", compared_evals, near_leaked, alike=alike, otherwise=otherwise(near_leaked)),
        diagnose("duplicates", int(trained_N.sum()), split(same, trained=True)),
        diagnose("near_duplicates", compared_train, near_twice, alike=alike, otherwise=otherwise(near_twice)),
    ]


def _repeats(examples: Examples, near: Sequence[Hashable | None]) -> tuple[list[Suspect], list[Suspect]]:
    """Return exact copies, and near copies, of earlier training rows."""
    first: dict[bytes, int] = {}
    first_near: dict[Hashable, int] = {}
    same: list[Suspect] = []
    similar: list[Suspect] = []
    for i, (digest, key) in enumerate(zip(examples.digests, near, strict=True)):
        is_train = examples.split_N[i] == 0
        if digest in first:
            same.append(Suspect(i, f"exact copy of {examples.place(first[digest])}", first[digest]))
            continue
        if is_train:
            first[digest] = i
        if key is not None and key in first_near:
            other = first_near[key]
            labels = f", which is labeled {examples.label(other)}, this one {examples.label(i)}"
            labels = labels if examples.labels_differ(i, other) else ""
            similar.append(Suspect(i, f"nearly a copy of {examples.place(other)}{labels}", other))
        elif key is not None and is_train:
            first_near[key] = i
    return same, similar


def _conflicts(examples: Examples) -> list[Suspect]:
    """Return rows whose input occurs with another label in any split, grouped by input."""
    groups: dict[bytes, list[int]] = {}
    for i, digest in enumerate(examples.digests):
        groups.setdefault(digest, []).append(i)
    conflicts = []
    for rows in groups.values():
        # The first row with another label than the first row: a search for every row would be quadratic.
        second = next((j for j in rows[1:] if examples.labels_differ(j, rows[0])), None)
        if second is None:
            continue
        for i in rows:
            other = rows[0] if examples.labels_differ(i, rows[0]) else second
            reason = f"labeled {examples.label(i)}, in {examples.place(other)} {examples.label(other)}"
            conflicts.append(Suspect(i, reason, other))
    return conflicts
