"""Which column is the text, the picture, the class: as named by the user, else the obvious one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Literal

from hf_finetune.data.files import Column
from hf_finetune.errors import InputError

PAIRS = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("sentence_a", "sentence_b"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("text1", "text2"),
    ("text_1", "text_2"),
    ("text_a", "text_b"),
    ("query", "document"),
    ("query", "passage"),
)
TEXTS = (
    ("text",),
    (
        "sentence",
        "content",
        "review",
        "document",
        "question",
        "tweet",
        "utterance",
        "body",
        "message",
        "comment",
        "post",
    ),
)
LABELS = (
    ("label",),
    ("labels", "class", "category", "target", "intent", "topic", "sentiment", "emotion"),
)
IMAGES = (("image",), ("img", "picture", "photo"))
# Numbers of rows, under the names that data sets and table tools give them.
IGNORED = ("", "id", "idx", "index", "guid", "unnamed: 0", "__index_level_0__")

_FLAGS = {"text": "--text", "text_pair": "--text-pair", "image": "--image", "label": "--label"}


def choose_columns(
    columns: dict[str, Column],
    asked: dict[str, str | None],
    *,
    kind: Literal["text", "image"],
    need_label: bool,
    place: str,
) -> dict[str, str]:
    """Map `text` and `text_pair`, or `image`, and `label` to columns of the source.

    What is asked for is taken. The rest is inferred: pairs by the well-known names alone, text, picture and class by
    name (`text` before `review`), else because no other column can be it.

    Args:
        asked: column names by canonical name, None where the user named none.
        place: the source, for messages.

    Returns:
        The columns by canonical name; no `label` if it was neither needed nor obvious.

    Raises:
        InputError: for a name that is not there, a column of the wrong type, or one that is not obvious.
    """
    chosen = {name: column for name, column in asked.items() if column is not None}
    for name, column in chosen.items():
        if column not in columns:
            raise InputError(
                f"{_FLAGS[name]} {column}: {place} has no such column{did_you_mean(column, columns)}; "
                f"it has {_quoted(columns)}"
            )
    if len(set(chosen.values())) < len(chosen):
        flags = " and ".join(_FLAGS[name] for name in chosen)
        raise InputError(f"{flags}: the same column cannot serve for two; {place} has {_quoted(columns)}")
    free = [c for c in columns if c not in chosen.values() and c.lower() not in IGNORED]

    def unused(candidates: Iterable[str]) -> list[str]:
        return [c for c in candidates if c not in chosen.values()]

    if "label" not in chosen:
        classes = [c for c in free if columns[c].kind == "class"]
        label = _by_name(
            [c for c in free if columns[c].kind != "image"], LABELS, "label", place if need_label else None
        )
        if label or len(classes) == 1:
            chosen["label"] = label or classes[0]
    if kind == "text":
        _choose_text(columns, chosen, unused(free), text_asked=asked.get("text") is not None, place=place)
    elif "image" not in chosen:
        pictures = unused(c for c in free if columns[c].kind == "image")
        image = _by_name(pictures, IMAGES, "image", place) or (pictures[0] if len(pictures) == 1 else None)
        if image is None:
            raise _not_obvious("image", pictures, columns, place)
        chosen["image"] = image
    if "label" not in chosen and need_label:
        left = unused(free)
        if len(left) != 1 or columns[left[0]].kind == "image":
            raise _not_obvious("label", left, columns, place)
        chosen["label"] = left[0]
    for name, column in chosen.items():
        _check_kind(name, column, columns[column], place)
    return {name: chosen[name] for name in ("text", "text_pair", "image", "label") if name in chosen}


def choose_inputs(
    columns: dict[str, Column], known: dict[str, str], *, kind: Literal["text", "image"], place: str
) -> dict[str, str]:
    """Map `text` and `text_pair`, or `image`, to columns of rows whose labels are not looked at.

    Args:
        known: the columns of the labelled rows, by canonical name; taken where they are there, else the obvious ones.
        place: the source, for messages.

    Raises:
        InputError: a column is not obvious, or the second text of pairs is not there under its name.
    """
    names = [name for name in ("text", "text_pair", "image") if name in known]
    asked = {name: known[name] if name == "text_pair" or known[name] in columns else None for name in names}
    try:
        chosen = choose_columns(columns, asked, kind=kind, need_label=False, place=place)
    except InputError as error:
        raise InputError(
            f"{place}: expected {' and '.join(repr(known[name]) for name in names)} as in the labelled rows, or columns "
            f"that are obvious; it has {_quoted(columns)}"
        ) from error
    return {name: chosen[name] for name in names}


def _choose_text(
    columns: dict[str, Column], chosen: dict[str, str], free: list[str], *, text_asked: bool, place: str
) -> None:
    """Add the text, and the second of a pair, to what is chosen."""
    if text_asked:
        return
    texts = [c for c in free if columns[c].kind == "string"]
    lower = {c.lower(): c for c in texts}
    if "text_pair" in chosen:
        firsts = [lower[a] for a, b in PAIRS if b == chosen["text_pair"].lower() and a in lower]
        if len(set(firsts)) == 1:
            chosen["text"] = firsts[0]
            return
    else:
        pairs = [(lower[a], lower[b]) for a, b in PAIRS if a in lower and b in lower]
        if len(pairs) > 1:
            raise _not_obvious("text", [c for pair in pairs for c in pair], columns, place)
        if pairs:
            chosen["text"], chosen["text_pair"] = pairs[0]
            return
    named = _by_name(texts, TEXTS, "text", place)
    wordy = [c for c in texts if not columns[c].numeric]
    if named is None and len(wordy) != 1:
        raise _not_obvious("text", wordy, columns, place)
    chosen["text"] = named or wordy[0]


def _by_name(candidates: list[str], tiers: tuple[tuple[str, ...], ...], name: str, place: str | None) -> str | None:
    """The candidate of a well-known name, the earlier tier first; with a place, several of one tier are refused."""
    for tier in tiers:
        found = [c for c in candidates if c.lower() in tier]
        if len(found) == 1:
            return found[0]
        if found and place is not None:
            raise InputError(f"{place}: the {name} could be column {_quoted(found)}; name it by {_FLAGS[name]} COL")
    return None


def _not_obvious(name: str, candidates: list[str], columns: dict[str, Column], place: str) -> InputError:
    what = {"text": "text", "image": "picture", "label": "class of each row"}[name]
    if candidates:
        found = f"which column holds the {what} is not obvious, it could be {_quoted(candidates)}"
    else:
        found = f"no column holds the {what}; there {'is' if len(columns) == 1 else 'are'} {_quoted(columns)}"
    known = {n for names in (*PAIRS, *TEXTS, *LABELS, *IMAGES, IGNORED) for n in names}
    no_header = place.lower().endswith((".csv", ".tsv")) and not known.intersection(c.lower() for c in columns)
    header = "; the first line must name the columns" if no_header else ""
    return InputError(f"{place}: {found}; name it by {_FLAGS[name]} COL{header}")


def _check_kind(name: str, column: str, found: Column, place: str) -> None:
    if name == "label":
        if found.kind == "list":
            raise InputError(
                f"{place}: column {column!r} holds lists: multi-label is not supported yet, expected one class a row"
            )
        wanted, good = (
            "classes (text or whole numbers)",
            found.kind in ("string", "number", "class") or found.type in ("nothing", "null"),
        )
    elif name == "image":
        wanted, good = "pictures", found.kind == "image"
    else:
        wanted, good = "text", found.kind == "string"
    if not good:
        raise InputError(
            f"{place}: column {column!r} holds {found.type}, expected {wanted}; name another by {_FLAGS[name]} COL"
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` if something like it is known."""
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f", did you mean {by_lower[close[0]]!r}?" if close else ""


def listed(names: Sequence[str], most: int = 5) -> str:
    """Names in a row, the many cut short, on one line whatever is in them."""
    return ", ".join(" ".join(name.splitlines()) for name in names[:most]) + (
        f" and {len(names) - most} more" if len(names) > most else ""
    )


def _quoted(names: Iterable[str]) -> str:
    return listed([repr(n) for n in names], most=12)


def require_columns(chosen: dict[str, str], columns: dict[str, Column], *, place: str, like: str) -> None:
    """Hold a further split to the columns that were chosen on the training rows.

    Raises:
        InputError: for a column that is not there or of the wrong type.
    """
    for name, column in chosen.items():
        if column not in columns:
            raise InputError(
                f"{place}: no column {column!r}, which {like} has{did_you_mean(column, columns)}; "
                f"it has {_quoted(columns)}"
            )
        _check_kind(name, column, columns[column], place)
