"""Which task the labels of a column are for."""

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any

from hf_finetune.data.columns import WORDS
from hf_finetune.data.config import Source, TaskName
from hf_finetune.data.labels import literal_list
from hf_finetune.data.layout import Split
from hf_finetune.data.targets.base import Targets
from hf_finetune.data.targets.multi_label import SEPARATORS, MultiLabel, is_marked, is_separator
from hf_finetune.data.targets.ordinal import Ordinal
from hf_finetune.data.targets.regression import Regression, finite_number
from hf_finetune.data.targets.single_label import SingleLabel
from hf_finetune.data.targets.tokens import Tokens
from hf_finetune.data.words import is_spans
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import Notes

ROWS_TO_INFER = 10_000
"""Labels that are read to infer the task."""
ROWS_TO_COMPARE = 100
"""Rows whose lists are compared to find the words beside their tags."""
TARGETS: tuple[type[Targets], ...] = (SingleLabel, Ordinal, MultiLabel, Regression, Tokens)


def targets_of(task: TaskName, separator: str | None = None, order: tuple[str, ...] = ()) -> Targets:
    """Return how the labels of a task are read."""
    if task == "multi-label":
        return MultiLabel(separator or ",")
    if task == "ordinal":
        return Ordinal(order)
    return next(kind for kind in TARGETS if kind.task == task)()


def infer_task(split: Split, columns: Mapping[str, str], source: Source, notes: Notes) -> Targets:
    """Return how the labels of a column are read: as requested, else by its content, which is noted.

    Lists are tags, beside a list of words the tags of words; numbers with fractions are numbers; several columns are
    tags, or numbers where most cells are neither 0 nor 1; everything else are classes.

    Args:
        columns: those of the split, by canonical name.

    Raises:
        InputError: a separator or an order for another task; or words that are read as a text.
    """
    requested, separator, order = source.task, source.label_separator, source.label_order
    column, text = columns["label"], columns.get("text")
    has_words = text is not None and split.columns[text].kind == "list"
    if has_words and requested not in (None, "tokens"):
        raise InputError(
            f"--task {requested}: column {text!r} of {split.place} holds lists of words, expected text; name another "
            "by --text COL, or use --task tokens"
        )
    if order and (requested not in (None, "ordinal") or separator is not None):
        with_what = f"--task {requested}" if requested else "--label-separator"
        raise InputError(f"--label-order {','.join(order)}: expected none with {with_what}; use --task ordinal")
    if separator is not None and (requested not in (None, "multi-label") or not is_separator(separator)):
        expected = f"none with --task {requested}" if is_separator(separator) else SEPARATORS
        raise InputError(f"--label-separator {separator!r}: expected {expected}")
    if "text_pair" in columns and (has_words or requested == "tokens"):
        raise InputError(f"--text-pair {columns['text_pair']}: expected none with tags of words; leave it out")
    if requested is None and not order and (has_words or _has_spans(split, column)):
        what = f"{text!r} and {column!r} hold words and tags" if has_words else f"{column!r} holds spans"
        notes.add(f"task: tokens, as column{'s' if has_words else ''} {what}; another one by --task")
        return Tokens()
    if requested is not None or separator is not None or order:
        return targets_of(requested or ("ordinal" if order else "multi-label"), separator, order)
    if split.columns[column].kind == "columns":
        return _infer_of_columns(split, column, notes)
    if split.columns[column].kind == "list":
        notes.add(f"task: multi-label, as column {column!r} holds lists; another one by --task")
        return MultiLabel()
    if not split.columns[column].names and _has_fractions(split, column):
        notes.add(
            f"task: regression, as column {column!r} holds numbers with fractions; --task single-label makes each "
            "number a class"
        )
        return Regression()
    return SingleLabel()


def _infer_of_columns(split: Split, column: str, notes: Notes) -> Targets:
    """Return the task of several columns, by their first cells. A lone 2 among marks is refused later, with its row."""
    rows = (value for chunk in split.chunks([column]) for value in chunk.columns[column])
    marks, numbers = 0, 0
    for row in islice(rows, ROWS_TO_INFER):
        for name, cell in row.items():
            try:
                is_marked(name, cell)
                marks += 1
            except ValueError:
                try:
                    numbers += finite_number(cell, name) is not None
                except ValueError:
                    marks += 1
    if numbers > marks:
        notes.add(f"task: regression, as the columns {column} hold numbers; tags are 0 or 1, by --task multi-label")
        return Regression()
    notes.add(f"task: multi-label, as the columns {column} hold 0 or 1; numbers by --task regression")
    return MultiLabel()


def words_column(split: Split, label: str, taken: Collection[str]) -> str | None:
    """Return the column of the words beside a column of their tags: lists of texts, as long as those of the labels.

    Args:
        taken: columns that it is not.
    """
    lists = [name for name, column in split.columns.items() if column.kind == "list" and name not in taken]
    if split.columns[label].kind != "list" or not lists:
        return None
    rows = next(split.chunks([label, *lists], ROWS_TO_COMPARE))
    tags = rows.columns[label]
    fitting = [name for name in lists if _are_words(rows.columns[name], tags)]
    named = [name for name in fitting if name.lower() in WORDS[0]]
    return next(iter(named or (fitting if len(fitting) == 1 else [])), None)


def _are_words(words: list[Any], tags: list[Any]) -> bool:
    pairs = [(a, b) for a, b in zip(words, tags, strict=True) if a is not None and b is not None]
    same = all(len(a) == len(b) and all(isinstance(word, str) for word in a) for a, b in pairs)
    # Lists of a single tag say nothing.
    return same and any(len(a) > 1 for a, _ in pairs)


def _has_spans(split: Split, column: str) -> bool:
    """Return whether the first labels are character spans, see `words.is_spans`."""
    if split.columns[column].kind not in ("list", "string"):
        return False
    rows = (value for chunk in split.chunks([column]) for value in chunk.columns[column])
    most = split.limits.text_characters
    cells = (cell for cell in islice(rows, ROWS_TO_COMPARE) if not isinstance(cell, str) or len(cell) <= most)
    first = next((cell for cell in map(literal_list, cells) if isinstance(cell, list) and cell), None)
    return first is not None and is_spans(first) and {"start", "end"} <= first[0].keys()


def _has_fractions(split: Split, column: str) -> bool:
    """Return whether the first labels are numbers, and some of them have fractions."""
    rows = (value for chunk in split.chunks([column]) for value in chunk.columns[column])
    fractions = False
    for value in islice(rows, ROWS_TO_INFER):
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            return False
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return False
        # An infinite number is refused later, with its row.
        fractions = fractions or (math.isfinite(number) and not number.is_integer())
    return fractions


def check_label_kind(targets: Targets, column: str, split: Split, names: Sequence[str] = (), owner: str = "") -> None:
    """Check that the label column of a split can hold the labels of a task.

    Args:
        names: tags or targets for which there are columns, if each has its own. Those of an absent one are not known.
        owner: what has them, for messages.

    Raises:
        InputError: naming what is expected, or the absent column.
    """
    actual = split.columns[column]
    if actual.kind == "columns" and (missing := [name for name in names if name not in actual.names]):
        raise InputError(f"{split.place}: no column {missing[0]!r}, which {owner} has; name all of them by --label")
    if actual.kind not in targets.column_kinds and actual.type not in ("nothing", "null"):
        others = [kind.task for kind in TARGETS if actual.kind in kind.column_kinds]
        remedy = f", or use --task {' or '.join(others)}" if others else ""
        raise InputError(
            f"{split.place}: column {column!r} holds {actual.type}, expected {targets.expected} for {targets.task}; "
            f"name another by --label COL{remedy}"
        )
