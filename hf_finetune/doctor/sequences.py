"""Check sequences: both strands of one piece, ambiguous letters, lengths, k-mers that tell the class.

Legend: N rows.
"""

from collections.abc import Iterator

import numpy as np

from hf_finetune.doctor.examples import Examples
from hf_finetune.doctor.findings import Finding, Severity, Suspect, diagnose
from hf_finetune.doctor.texts import LONG_TEXT, Statistics, quantiles
from hf_finetune.utils.sequences import AMBIGUOUS, SequenceKind, reverse_complement

# Share of ambiguous letters above which a sequence should be checked.
MUCH_AMBIGUITY = 0.1
# Letters of the marks that may tell a class.
KMER: dict[SequenceKind, int] = {"dna": 6, "rna": 6, "protein": 3}


def examine_sequences(examples: Examples, kind: SequenceKind) -> tuple[list[Finding], Statistics]:
    """Check sequences, and return findings and the statistics of their lengths."""
    lengths_N = np.sum([list(map(len, side)) for side in examples.sides], axis=0)
    usual = float(np.median(lengths_N))
    odd = [
        Suspect(i, f"{lengths_N[i]:,} letters")
        for i in np.flatnonzero((lengths_N < usual / 2) | (lengths_N > 2 * usual)).tolist()
    ]
    unclear = [
        Suspect(i, f"{share:.0%} of its letters")
        for i in range(len(examples))
        if (share := _ambiguous_share(examples.joined_text(i, ""), kind)) > MUCH_AMBIGUITY
    ]
    strands, severity = _other_strands(examples, kind)
    return [
        diagnose("other_strands", len(examples), strands, severity=severity),
        diagnose("ambiguous_letters", len(examples), unclear, limit=f"{MUCH_AMBIGUITY:.0%}"),
        diagnose("odd_lengths", len(examples), odd, usual=usual),
    ], {"letters": quantiles(lengths_N)}


def kmers_of(examples: Examples, rows: list[int], kind: SequenceKind) -> Iterator[set[str]]:
    """Yield the k-mers of each row."""
    k = KMER[kind]
    for i in rows:
        text = examples.joined_text(i, " ")[:LONG_TEXT]
        yield {text[start : start + k] for start in range(len(text) - k + 1)}


def _ambiguous_share(text: str, kind: SequenceKind) -> float:
    return sum(map(text.count, AMBIGUOUS[kind])) / max(1, len(text))


def _other_strands(examples: Examples, kind: SequenceKind) -> tuple[list[Suspect], Severity]:
    """Return rows that are the reverse complement of an earlier row; serious if one is trained and one is scored."""
    if kind == "protein" or len(examples.sides) > 1:
        return [], "look"
    texts, first = examples.sides[0], dict[str, int]()
    for i, text in enumerate(texts):
        first.setdefault(text, i)
    suspects = []
    for i, text in enumerate(texts):
        other = first.get(reverse_complement(text), i)
        if other < i:
            suspects.append(Suspect(i, f"reverse complement of {examples.place(other)}", other))
    leaked = any(examples.split_N[s.index] and not examples.split_N[s.other or 0] for s in suspects)
    return suspects, "serious" if leaked else "look"
