"""Check texts: damaged characters, markup, too few or too many words.

Legend: N rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from hf_finetune.data.text_pieces import UNSPACED
from hf_finetune.doctor.examples import Examples
from hf_finetune.doctor.findings import Finding, Severity, Suspect, diagnose

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Quantiles or a number, by name.
Statistics = dict[str, dict[str, float] | float]

WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+(?:['’][^\W{UNSPACED}]+)*")
# Tables for `str.translate`: what is no letter, digit or "_" becomes a space, in ASCII.
_SPACES = {c: " " for c in range(128) if not re.match(r"\w", chr(c))}
_JOINED = re.compile(r"\w'(?=\w)", re.ASCII)
# The characters of bytes above 127 in cp1252, or in Latin-1 if cp1252 has none.
_HIGH_BYTES = {bytes([b]).decode("cp1252", "replace").replace("\ufffd", chr(b)): b for b in range(0x80, 0x100)}
_HIGH_BYTES |= {chr(b): b for b in range(0x80, 0x100)}
_HIGH_RUN = re.compile(f"[{re.escape(''.join(_HIGH_BYTES))}]{{2,}}")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_TAG = re.compile(
    r"</?(?:a|b|i|u|p|br|hr|em|strong|div|span|font|img|ul|ol|li|table|tr|td|th|h[1-6]|html|body|head|script|style|"
    r"blockquote|pre|code|center|title|meta|link|input|form)(?:\s[^<>]*)?/?>|<!--|<!doctype",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{2,5}|#x[0-9a-f]{2,4});", re.IGNORECASE)
_URLS = re.compile(r"\s*(?:(?:https?://|www\.)\S+\s*)+")

# A text of one word is unusual if the median is USUAL_WORDS; so is one of LONG_TIMES the median and LONG_WORDS words.
USUAL_WORDS, LONG_TIMES, LONG_WORDS = 5, 10, 100
# Characters of a text whose words are looked at.
LONG_TEXT = 100_000
# Share of truncated texts above which they should be checked.
MANY_CUT_OFF = 0.1


def count_words(text: str) -> int:
    """Return the number of words, as `len(WORD.findall(text))`, which is ten times slower for ASCII.

    Of a text of more than `LONG_TEXT` characters it is estimated by its beginning.
    """
    if len(text) > LONG_TEXT:
        return count_words(text[:LONG_TEXT]) * len(text) // LONG_TEXT
    if not text.isascii():
        return len(WORD.findall(text))
    # An apostrophe between two letters joins them to one word.
    return len(text.translate(_SPACES).split()) - (len(_JOINED.findall(text)) if "'" in text else 0)


def _damage(text: str) -> str | None:
    """Return what is wrong with the characters of a text, or None.

    UTF-8 that was decoded as cp1252 or Latin-1 is a run of characters whose bytes in that encoding are valid UTF-8.
    """
    if "\ufffd" in text:
        return "replacement character \ufffd"
    if (control := _CONTROL.search(text)) is not None:
        return f"control character {control[0]!r}"
    for run in [] if text.isascii() else _HIGH_RUN.findall(text):
        try:
            bytes(_HIGH_BYTES[c] for c in run).decode("utf-8")
        except UnicodeDecodeError:
            continue
        return f"UTF-8 that was decoded as another encoding: {run[:20]!r}"
    return None


def _markup(text: str) -> str | None:
    """Return a piece of HTML in a text, or None."""
    if "<" not in text and "&" not in text:
        return None
    piece = _TAG.search(text) or _ENTITY.search(text)
    return None if piece is None else f"HTML: {piece[0][:30]!r}"


def _only_urls(text: str) -> str | None:
    return "nothing but web addresses" if _URLS.fullmatch(text) else None


CHECKS: dict[str, Callable[[str], str | None]] = {
    "damaged_characters": _damage,
    "markup": _markup,
    "only_urls": _only_urls,
}
"""Functions that return why a text has a defect, or None."""


def examine_texts(
    examples: Examples, *, max_length: int, tokenizer: PreTrainedTokenizerBase | None, sample: np.ndarray
) -> tuple[list[Finding], Statistics]:
    """Check texts, and return findings and the statistics of their lengths.

    Args:
        max_length: length in tokens to which texts are truncated.
        tokenizer: counts tokens. None: words are counted.
        sample: rows whose tokens are counted.
    """
    findings = []
    for defect, check in CHECKS.items():
        reasons = [next(filter(None, map(check, texts)), None) for texts in zip(*examples.sides, strict=True)]
        suspects = [Suspect(i, reason) for i, reason in enumerate(reasons) if reason is not None]
        findings.append(diagnose(defect, len(examples), suspects))
    words_N = np.sum([[count_words(text) for text in side] for side in examples.sides], axis=0)
    cut_off, statistics = _cut_off(examples, words_N, max_length, tokenizer, sample)
    return [*findings, *_unusual_lengths(words_N), cut_off], {"words": quantiles(words_N), **statistics}


def _cut_off(
    examples: Examples,
    words_N: np.ndarray,
    max_length: int,
    tokenizer: PreTrainedTokenizerBase | None,
    sample: np.ndarray,
) -> tuple[Finding, Statistics]:
    statistics: Statistics = {}
    if tokenizer is None:
        sample, lengths, unit = np.arange(len(examples)), words_N, "words"
        more = f"more words than the {max_length} tokens that are read: at least so many are truncated"
    else:
        sides = [[side[i] for i in sample.tolist()] for side in examples.sides]
        from hf_finetune.data.tokens import count_tokens

        lengths, unit = count_tokens(tokenizer, *sides), "tokens"
        statistics["tokens"] = quantiles(lengths)
        more = f"more than the {max_length} tokens that are read; the rest is truncated"
    read = f"{max_length} {'tokens ' if unit == 'words' else ''}are read"
    pairs = zip(sample.tolist(), lengths.tolist(), strict=True)
    suspects = [Suspect(i, f"{length} {unit}, {read}") for i, length in pairs if length > max_length]
    statistics["cut_off_share"] = len(suspects) / max(1, len(sample))
    severity: Severity | None = "look" if len(suspects) > MANY_CUT_OFF * len(sample) else None
    return diagnose("cut_off", len(sample), suspects, severity=severity, more=more), statistics


def _unusual_lengths(words_N: np.ndarray) -> list[Finding]:
    usual = float(np.median(words_N))
    limit = max(LONG_WORDS, LONG_TIMES * usual)
    words = words_N.tolist()
    short = [Suspect(i, "one word" if n else "no word") for i, n in enumerate(words) if n <= 1 and usual >= USUAL_WORDS]
    long = [Suspect(i, f"{n} words") for i, n in enumerate(words) if n > limit]
    return [
        diagnose("very_short", len(words), short, usual=usual),
        diagnose("very_long", len(words), long, usual=usual, limit=limit),
    ]


def quantiles(values: np.ndarray) -> dict[str, float]:
    points = zip(("least", "median", "p95", "most"), np.quantile(values, (0, 0.5, 0.95, 1)), strict=True)
    return {name: round(float(value), 1) for name, value in points}
