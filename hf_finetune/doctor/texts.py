"""Texts that look wrong: damaged characters, markup, hardly any words or far too many."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from hf_finetune.data.text_pieces import UNSPACED
from hf_finetune.doctor.findings import Finding, Material, Suspect, of_rows

WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+(?:['’][^\W{UNSPACED}]+)*")
# Characters that a byte above 127 becomes when it is read as cp1252, or as Latin-1 where that has none.
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

# A text of one word is odd where half of the texts have so many; one of so many times the usual length always is.
USUAL_WORDS, LONG_TIMES, LONG_WORDS = 5, 10, 100
# Share of cut-off texts from which on it should be looked at.
MANY_CUT_OFF = 0.1


def count_words(text: str) -> int:
    """Words, without punctuation; in scripts without spaces, characters."""
    return len(WORD.findall(text))


def damaged(text: str) -> str | None:
    """What is broken in the characters of a text, or None.

    UTF-8 that was read as cp1252 or Latin-1 is found by reading it back: a run of characters above 127 that are one byte
    each there, and together UTF-8.
    """
    if "\ufffd" in text:
        return "replacement character \ufffd"
    if (found := _CONTROL.search(text)) is not None:
        return f"control character {found[0]!r}"
    if text.isascii():
        return None
    for run in _HIGH_RUN.findall(text):
        try:
            bytes(_HIGH_BYTES[c] for c in run).decode("utf-8")
        except UnicodeDecodeError:
            continue
        return f"UTF-8 that was read as another encoding: {run[:20]!r}"
    return None


def markup(text: str) -> str | None:
    """A piece of HTML in a text, or None."""
    if "<" not in text and "&" not in text:
        return None
    found = _TAG.search(text) or _ENTITY.search(text)
    return None if found is None else f"HTML: {found[0][:30]!r}"


def only_urls(text: str) -> str | None:
    """Whether a text is nothing but web addresses."""
    return "nothing but web addresses" if _URLS.fullmatch(text) else None


def texts(
    material: Material,
    *,
    max_length: int,
    count_tokens: Callable[[list[int]], list[int]] | None,
    sample: np.ndarray,
) -> tuple[list[Finding], dict[str, Any]]:
    """Findings on texts, and the statistics of their lengths.

    Args:
        max_length: tokens that the network reads of a text.
        count_tokens: tokens of the rows at these places, special ones included. None: there is no tokenizer.
        sample: rows whose tokens are counted.
    """
    sides = [material.texts] if material.pairs is None else [material.texts, material.pairs]
    rows = len(material)

    def that(look: Callable[[str], str | None]) -> list[Suspect]:
        reasons = ((i, next((r for side in sides if (r := look(side[i]))), None)) for i in range(rows))
        return [Suspect(i, reason) for i, reason in reasons if reason is not None]

    words_N = np.sum([[count_words(text) for text in side] for side in sides], axis=0)
    findings = [
        *of_rows(
            "damaged_characters",
            "look",
            that(damaged),
            rows,
            "texts have damaged characters",
            "read the source again in its own encoding (--data.encoding), or repair the texts",
        ),
        *of_rows("markup", "look", that(markup), rows, "texts hold HTML", "strip tags and entities"),
        *of_rows(
            "only_urls",
            "look",
            that(only_urls),
            rows,
            "texts are nothing but web addresses",
            "remove them, or fetch the text",
        ),
        *_lengths(words_N),
    ]
    statistics: dict[str, Any] = {"words": _quantiles(words_N)}
    if count_tokens is None:
        cut, looked_at = np.flatnonzero(words_N > max_length), rows
        how = f"texts have more words than the {max_length} tokens that are read, so at least these are cut off"
        reasons = {int(i): f"{words_N[i]} words, {max_length} tokens are read" for i in cut}
    else:
        tokens = np.array(count_tokens(sample.tolist()), dtype=np.int64)
        statistics["tokens"] = _quantiles(tokens)
        cut, looked_at = sample[tokens > max_length], len(sample)
        how = f"texts are longer than the {max_length} tokens that are read; the rest is cut off"
        reasons = {
            int(i): f"{n} tokens, {max_length} are read" for i, n in zip(sample, tokens, strict=True) if n > max_length
        }
    statistics["cut_off_share"] = len(cut) / max(1, looked_at)
    findings += of_rows(
        "cut_off",
        "look" if len(cut) > MANY_CUT_OFF * looked_at else "note",
        [Suspect(i, reason) for i, reason in reasons.items()],
        looked_at,
        how,
        "raise --max-length if what matters stands there",
    )
    return findings, statistics


def _lengths(words_N: np.ndarray) -> list[Finding]:
    usual = float(np.median(words_N))
    short = np.flatnonzero(words_N <= 1) if usual >= USUAL_WORDS else []
    long = np.flatnonzero(words_N > max(LONG_WORDS, LONG_TIMES * usual))
    half = f"half of the texts have {usual:g} words or more"
    return [
        *of_rows(
            "very_short",
            "note",
            [Suspect(int(i), "one word" if words_N[i] else "no word") for i in short],
            len(words_N),
            f"texts have one word or none; {half}",
            "see whether they say anything of their class",
        ),
        *of_rows(
            "very_long",
            "note",
            [Suspect(int(i), f"{words_N[i]} words") for i in long],
            len(words_N),
            f"texts have more than {max(LONG_WORDS, LONG_TIMES * usual):g} words; {half}",
            "see whether several texts ran together",
        ),
    ]


def _quantiles(values: np.ndarray) -> dict[str, float]:
    points = zip(("least", "median", "p95", "most"), np.quantile(values, (0, 0.5, 0.95, 1)), strict=True)
    return {name: round(float(value), 1) for name, value in points}
