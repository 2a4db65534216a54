"""Find near duplicates: by the words of texts, by thumbnails of images.

Legend: N rows, S shingles (three words in a row) of a text, H hashes, F features.
"""

import re
import unicodedata
from functools import lru_cache

import numpy as np

from hf_finetune.doctor.classes import Numbers
from hf_finetune.doctor.examples import Examples
from hf_finetune.doctor.texts import LONG_TEXT, WORD

# White space, and punctuation of ASCII, Latin-1, typography and CJK, but no emoji or combining marks.
_BETWEEN_WORDS = re.compile(r"[\s!-/:-@\[-`{-~\xa1-\xbf\u2000-\u206f\u3000-\u303f]+")
_ASCII_BETWEEN_WORDS = {c: " " for c in range(128) if _BETWEEN_WORDS.match(chr(c))}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Near duplicates have this Jaccard similarity of shingles; with fewer shingles than SHORTEST, they have the same words.
SHARED, SHORTEST, LONGEST = 0.8, 8, 2_000
# MinHash (Broder 1997): 98% of the texts with a similarity of 0.8 agree in one of 8 bands of 4 hashes.
BANDS, OF_A_BAND = 8, 4
# Thumbnails of near duplicates differ by at most this many levels of 255 (root mean square). An image saved again as
# JPEG of quality 85 differs by 2.6 (median, emoji of 64 pixels); of 1.1 million pairs of different emoji the nearest
# differ by 4.7. BLOCK: rows compared at a time.
LEVELS, BLOCK = 4.0, 2_048


def plain_words(text: str) -> str:
    """Normalize case, punctuation and white space: "Well,  DONE!" becomes "well done"."""
    if text.isascii():  # the same, and ten times faster
        return " ".join(text.lower().translate(_ASCII_BETWEEN_WORDS).split())
    return _BETWEEN_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def words_in(plain: str) -> list[str]:
    """Return the words of a text that `plain_words` has normalized."""
    if plain.isascii() and not _CONTROL.search(plain):
        return plain.split(" ") if plain else []
    return WORD.findall(plain)


def near_duplicate_texts(examples: Examples, compared: np.ndarray) -> list[int | None]:
    """Return for each row the first row with nearly the same words, which may be itself; None without words.

    Args:
        compared: sorted indices of the rows to compare; the result is None for the others.
    """
    numbers = Numbers()

    @lru_cache(maxsize=1)
    def plain(i: int) -> str:
        return "\n".join(plain_words(side[i]) for side in examples.sides)

    @lru_cache(maxsize=4096)
    def shingles(i: int) -> np.ndarray:
        words = [word for side in plain(i).split("\n") for word in words_in(side[:LONG_TEXT])][:LONGEST]
        ids = np.fromiter(map(numbers.__getitem__, words), np.uint64, len(words))
        return np.unique((ids[:-2] * _FACTORS[0]) ^ (ids[1:-1] * _FACTORS[1]) ^ (ids[2:] * _FACTORS[2]))

    firsts: list[int | None] = [None] * len(examples)
    same: dict[str, int] = {}
    bands: dict[tuple[int, bytes], int] = {}
    for i in compared.tolist():
        first = same.setdefault(plain(i), i) if plain(i).strip() else None
        if first == i and len(shingles_S := shingles(i)) >= SHORTEST:
            hashes_H = ((shingles_S[:, None] * _HASHES[0] + _HASHES[1]) >> np.uint64(32)).min(axis=0)
            keys = [(b, hashes_H[b * OF_A_BAND : (b + 1) * OF_A_BAND].tobytes()) for b in range(BANDS)]
            others = sorted({bands.setdefault(key, i) for key in keys} - {i})
            near = next((j for j in others if _jaccard(shingles(j), shingles_S) >= SHARED), None)
            first = i if near is None else firsts[near]
        firsts[i] = first
    return firsts


# Random odd factors of the hash functions.
_random = np.random.default_rng(0)
_FACTORS = _random.integers(2**63, size=3, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_HASHES = _random.integers(2**63, size=(2, BANDS * OF_A_BAND), dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def _jaccard(one: np.ndarray, other: np.ndarray) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


def near_duplicate_images(thumbnails_NF: np.ndarray, compared: np.ndarray) -> list[int | None]:
    """Return for each row the first row with nearly the same thumbnail, directly or through others, or itself.

    Args:
        thumbnails_NF: uint8.
        compared: sorted indices of the rows to compare; the result is None for the others.
    """
    pixels_NF = thumbnails_NF[compared].astype(np.float32)
    pixels_NF -= pixels_NF.mean(axis=0)
    squares_N = np.einsum("nf,nf->n", pixels_NF, pixels_NF)
    limit = LEVELS**2 * pixels_NF.shape[1]
    first_N = np.arange(len(compared))
    for start in range(0, len(compared), BLOCK):
        block = slice(start, start + BLOCK)
        for before in range(0, start + 1, BLOCK):
            other = slice(before, before + BLOCK)
            distances = squares_N[block, None] + squares_N[None, other] - 2 * pixels_NF[block] @ pixels_NF[other].T
            near = distances <= limit
            if before == start:
                near = np.tril(near, k=-1)
            # Blocks are in order: the first match of a row is its earliest.
            unmatched = first_N[block] == np.arange(start, start + len(near))
            matched = unmatched & near.any(axis=1)
            first_N[block] = np.where(matched, before + near.argmax(axis=1), first_N[block])
    for i in range(len(first_N)):
        # Follow chains of matches to their first row.
        first_N[i] = first_N[first_N[i]]
    firsts: list[int | None] = [None] * len(thumbnails_NF)
    for row, first in zip(compared.tolist(), compared[first_N].tolist(), strict=True):
        firsts[row] = first
    return firsts
