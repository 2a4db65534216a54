"""Schemes of tags that mark entities: BIO and BIOES, also as IOB2 and BILOU."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_TAG = re.compile(r"[BIESLU]-.+")
# BILOU calls the end of an entity L, and an entity of one word U.
_SAME = {"L": "E", "U": "S"}
OUTSIDE = "O"


@dataclass(frozen=True)
class TagScheme:
    """What the tags of a data set say of entities."""

    prefixes: tuple[str, ...]
    """B, I, E, S or O of each tag."""
    types: tuple[str, ...]
    """Entity of each tag; empty for O."""

    @property
    def name(self) -> str:
        """BIO or BIOES."""
        return "BIOES" if {"E", "S"} & set(self.prefixes) else "BIO"

    @property
    def entities(self) -> tuple[str, ...]:
        """The kinds of entities, in order."""
        return tuple(sorted({kind for kind in self.types if kind}))

    def allowed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return which tag may follow which, shape (C, C); which may begin a sentence, (C,); and which may end it.

        An entity goes on only within itself; with BIOES it also has to end. Where the tags lack the end of a kind of
        entity, any tag may follow.
        """
        tags = list(zip(self.prefixes, self.types, strict=True))
        ending = {kind for prefix, kind in tags if prefix == "E"}

        def is_open(prefix: str, kind: str) -> bool:
            return prefix in ("B", "I") and kind in ending

        def follows(tag: tuple[str, str], before: tuple[str, str]) -> bool:
            goes_on = tag[0] in ("I", "E")
            if goes_on:
                return before[0] in ("B", "I") and before[1] == tag[1]
            return not is_open(*before)

        pairs_CC = np.array([[follows(tag, before) for tag in tags] for before in tags])
        begins_C = np.array([prefix not in ("I", "E") for prefix, _ in tags])
        ends_C = np.array([not is_open(*tag) for tag in tags])
        return pairs_CC, begins_C, ends_C


def scheme_of(tags: Sequence[str]) -> TagScheme | None:
    """Return the scheme of tags that mark entities, or None for other tags."""
    marks = [tag for tag in tags if tag != OUTSIDE]
    if not marks or not all(_TAG.fullmatch(tag) for tag in marks):
        return None
    prefixes = [OUTSIDE if tag == OUTSIDE else _SAME.get(tag[0], tag[0]) for tag in tags]
    return TagScheme(tuple(prefixes), tuple("" if tag == OUTSIDE else tag[2:] for tag in tags))
