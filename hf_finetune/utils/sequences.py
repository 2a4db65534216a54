"""Sequences of DNA, RNA and protein: their letters, as read from files, and the reverse complement."""

import re
from collections.abc import Sequence
from typing import Any, Literal

SequenceKind = Literal["dna", "rna", "protein"]

LETTERS: dict[SequenceKind, str] = {"dna": "ACGT", "rna": "ACGU", "protein": "ACDEFGHIKLMNPQRSTVWY"}
"""The letters that name one base or one amino acid."""
AMBIGUOUS: dict[SequenceKind, str] = {"dna": "NRYSWKMBDHV", "rna": "NRYSWKMBDHV", "protein": "XBZJUO"}
"""Codes of IUPAC for one of several (N: any base, X: any amino acid), and the two rare amino acids U and O."""
ANY: dict[SequenceKind, str] = {"dna": "N", "rna": "N", "protein": "X"}
NAMES: dict[SequenceKind, str] = {"dna": "DNA", "rna": "RNA", "protein": "proteins"}

_OUTSIDE = {kind: re.compile(f"[^{LETTERS[kind]}{AMBIGUOUS[kind]}]") for kind in LETTERS}
_UNCLEAR = {kind: re.compile(f"[{AMBIGUOUS[kind]}]") for kind in LETTERS}
_COMPLEMENT = str.maketrans("ACGTURYSWKMBDHVN", "TGCAAYRSWMKVHDBN")
# Fewer letters of every text may be a word or a code.
LOOKS_FROM = 20
TEXTS_LOOKED_AT = 100


class SequenceReader:
    """Reads the sequences of a column, and counts the letters that are not capital ones."""

    def __init__(self, kind: SequenceKind) -> None:
        self.kind, self.lower = kind, 0

    @classmethod
    def of(cls, kind: SequenceKind | None) -> "SequenceReader | None":
        """Return a reader for this alphabet, or None for texts of a language."""
        return None if kind is None else cls(kind)

    def read(self, text: str) -> str:
        """Return a sequence in capital letters without white space, the T of RNA as U, no stop at a protein's end.

        Raises:
            ValueError: it has no letters, or one of another alphabet.
        """
        bare = "".join(text.split())
        sequence = bare.upper()
        if sequence != bare:
            self.lower += sum(map(str.islower, bare))
        if self.kind == "rna":
            sequence = sequence.replace("T", "U")
        if self.kind == "protein":
            sequence = sequence.removesuffix("*")
        if outside := _OUTSIDE[self.kind].search(sequence):
            raise ValueError(_explained(self.kind, outside[0], outside.start(), sequence))
        if not sequence and bare:
            raise ValueError("the sequence has no letters")
        return sequence


def _explained(kind: SequenceKind, letter: str, at: int, sequence: str) -> str:
    other = next((each for each in LETTERS if each != kind and not _OUTSIDE[each].search(sequence)), None)
    code = "X" if kind == "protein" else "N or another IUPAC code"
    hint = f"; is it {other}? --sequence {other}" if other else ""
    return f"letter {at + 1} is {letter!r}, which {NAMES[kind]} do not have: expected {LETTERS[kind]}, {code}{hint}"


def describe(texts: Sequence[str], kind: SequenceKind, lower: int) -> str:
    """Return what was read: the number of letters, and those that are not plain ones.

    Args:
        texts: as `SequenceReader` returns them.
        lower: letters that were small ones.
    """
    unclear = [len(_UNCLEAR[kind].findall(text)) for text in texts]
    note = f"{NAMES[kind]}: {sum(map(len, texts)):,} letters in {len(texts):,} sequences"
    if any(unclear):
        rows = sum(map(bool, unclear))
        note += f"; {sum(unclear):,} of them, in {rows:,} sequences, are {ANY[kind]} or other ambiguity codes"
    if lower:
        note += f"; {lower:,} small letters (soft-masked) are read as capital ones"
    return note


def looks_like(texts: Sequence[str]) -> SequenceKind | None:
    """Return the alphabet that texts appear to be of, by the first `TEXTS_LOOKED_AT`; None for a language."""
    first = texts[:TEXTS_LOOKED_AT]
    bare = ["".join(text.split()).upper() for text in first]
    if not bare or min(map(len, bare)) < LOOKS_FROM:
        return None
    for kind in ("dna", "rna"):
        if all(set(sequence) <= {*LETTERS[kind], "N"} for sequence in bare):
            return kind
    # A word of capital letters is in the alphabet of proteins, too, but a text has spaces or small letters.
    return "protein" if are_sequences(first) else None


def are_sequences(texts: Sequence[Any]) -> bool:
    """Return whether texts consist of capital letters alone, as `SequenceReader` returns them."""
    return len(texts) > 0 and all(text.isascii() and text.isalpha() and text.isupper() for text in texts)


def reverse_complement(sequence: str) -> str:
    """Return the other strand of DNA or RNA, in its own direction. Ambiguity codes have complements, too."""
    other = sequence.translate(_COMPLEMENT)[::-1]
    return other.replace("T", "U") if "U" in sequence else other
