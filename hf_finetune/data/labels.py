"""Convert a source's labels to class ids, and order the classes.

Legend: N rows, C outputs.
"""

import ast
import logging
import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from hf_finetune.data.ragged import Ragged
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import counted, did_you_mean, listed

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger("hf_finetune")

SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a surrogate pair, which JSON may hold and UTF-8 cannot."""

# Class id of unlabeled rows, as in GLUE's test sets. Not -100: the Trainer does not count such rows when it averages a
# step's loss.
UNLABELED = -1
# With this many rows for each class on average, any number of classes is accepted.
ROWS_PER_CLASS = 10


def has_words(columns: Collection[str]) -> bool:
    """Return whether rows have a label for each word, by their columns: canonical rows, or encoded ones."""
    return "bounds" in columns or "places" in columns


def label_array(column: pa.Array | pa.ChunkedArray, *, of_words: bool = False) -> Any:
    """Return a column of labels as an array: (N,) for classes, (N, C) for tags and numbers; `Ragged` for words."""
    if not pa.types.is_nested(column.type):
        return column.to_numpy()
    if of_words:
        return Ragged.of_column(column)
    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return lists.flatten().to_numpy().reshape(len(lists), -1)


def labels_of(rows: "Dataset") -> Any:
    """Return the labels of canonical rows, see `label_array`."""
    column = rows.select_columns(["label"]).with_format("arrow")[:]["label"]
    return label_array(column, of_words=has_words(rows.column_names))


def is_labeled(labels: Any) -> np.ndarray:
    """Return which rows have a label, shape (N,): no class id or tag is -1, and no number is NaN."""
    if isinstance(labels, Ragged):
        return np.bincount(labels.row_of_value, labels.values == UNLABELED, minlength=len(labels)) == 0
    missing = np.isnan(labels) if labels.dtype.kind == "f" else labels == UNLABELED
    return ~(missing.any(axis=1) if missing.ndim == 2 else missing)


class ClassIds:
    """Assign class ids to labels: those of known classes, or new ids in order of appearance.

    Args:
        known: class names, in the order of the class ids; None: every label is accepted.
        owner: what has these classes, for messages.
        values: the names of labels that the source numbers, see `name_values`.
    """

    cell: ClassVar[pa.DataType] = pa.int64()
    fault: ClassVar[str] = "not a class"

    def __init__(
        self, known: Sequence[str] | None = None, owner: str = "", values: Mapping[str, str] | None = None
    ) -> None:
        self.ids = {name: i for i, name in enumerate(known or ())}
        # A model from before has classes called "0.0" or "True".
        self._plain_ids = {plain_name(name): i for name, i in self.ids.items()}
        self._plain_ids |= {value: self.ids[name] for value, name in (values or {}).items() if name in self.ids}
        self.closed, self.owner = known is not None, owner
        self.types: set[type] = set()
        self._cache: dict[tuple[type, Any], int | None] = {}

    def read(self, value: Any, names: Sequence[str]) -> int | None:
        """Return the class id of a source's label, or None if the label is missing.

        Args:
            names: the source's own class names, if the value is an index into them.

        Raises:
            ValueError: the label is no class, or not a known one.
        """
        if isinstance(value, list | dict):
            raise ValueError(
                f"the label is {shortened(value)}, expected one class; several tags a row need --task multi-label"
            )
        # The type is part of the key: 1 and True and 1.0 are equal.
        key = (type(value), value)
        if key not in self._cache:
            name = label_name(value, names)
            self._cache[key] = None if name is None else self._id(name, type(value))
        return self._cache[key]

    def _id(self, name: str, kind: type) -> int:
        if SURROGATE.search(name):
            raise ValueError(f"the label {name[:40]!r} holds half a surrogate pair")
        self.types.add(kind)
        if name not in self.ids and self.closed:
            if (known := self._plain_ids.get(plain_name(name))) is not None:
                return known
            raise ValueError(
                f"the label {name!r} is not among the {counted(len(self.ids), 'class', 'classes')} of {self.owner} "
                f"({listed(list(self.ids))}){did_you_mean(name, self.ids)}"
            )
        return self.ids.setdefault(name, len(self.ids))


def label_name(value: Any, names: Sequence[str] = (), *, tag: str | None = None) -> str | None:
    """Return the name of a class: a string as it is, a number by `str`, a boolean in lower case, an index by its name.

    Args:
        tag: what it is, for messages, if it is one tag of several: `the tag of word 3`.

    Returns:
        None for a missing label: null, NaN, white space, or -1 as an index.

    Raises:
        ValueError: a fraction, or an index without a name.
    """
    what = tag or "the label"
    match value:
        case None:
            return None
        case str():
            return None if not value or value.isspace() else value
        case int() if names:
            if not -1 <= value < len(names):
                raise ValueError(
                    f"{what} is {value}, but its {counted(len(names), 'class is', 'classes are')} numbered 0 to "
                    f"{len(names) - 1}"
                )
            return None if value == UNLABELED else names[value]
        case float():
            if math.isnan(value):
                return None
            if not value.is_integer():
                expected = "a class; numbers need --task regression" if tag is None else "text or a whole number"
                raise ValueError(f"{what} is {value}, expected {expected}")
            return str(int(value))
        case bool():
            return str(value).lower()
        case int():
            return str(value)
    raise ValueError(f"{what} is {shortened(value)}, expected a class (text or a whole number)")


def plain_name(name: str) -> str:
    """Return a class name with whole numbers written as such (`0` for `0.0`), and truth values in lower case."""
    if match := re.fullmatch(r"(-?\d{1,18})\.0+", name):
        return str(int(match[1]))
    return name.lower() if name.lower() in ("false", "true") else name


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Map class names to those that they have in every format of file, by `plain_name`.

    Text formats write numbers and truth values in several ways. Names change only where all of them are whole numbers,
    or truth values.
    """
    plain = {name: plain_name(name) for name in names}
    all_numbers = all(re.fullmatch(r"-?\d{1,18}", each) for each in plain.values())
    return plain if all_numbers or set(plain.values()) <= {"false", "true"} else {name: name for name in plain}


def name_values(values: Iterable[str], names: Sequence[str], place: str, column: str) -> dict[str, str]:
    """Map labels that are whole numbers or truth values to names in their order.

    Raises:
        InputError: the labels are text, there is another number of names, or a name is empty or repeated.
    """
    ordered = order_classes(values)
    flag = f"--label-names {','.join(names)}"
    if not all(re.fullmatch(r"-?\d{1,18}", value) for value in ordered) and not set(ordered) <= {"false", "true"}:
        raise InputError(
            f"{flag}: the labels in column {column!r} of {place} are text ({listed(ordered)}); leave it out"
        )
    if not all(map(str.strip, names)) or len(set(names)) < len(names):
        raise InputError(f"{flag}: expected a name of its own for each class")
    if len(names) != len(ordered):
        raise InputError(
            f"{flag}: {counted(len(names), 'name')}, but column {column!r} of {place} holds "
            f"{counted(len(ordered), 'class', 'classes')} ({listed(ordered)}); name each, in the order of the numbers"
        )
    return dict(zip(ordered, names, strict=True))


def order_classes(names: Iterable[str], declared: Sequence[str] = ()) -> tuple[str, ...]:
    """Order class names as the source declares, else numerically if all are integers, else alphabetically."""
    names = set(names)
    if names <= set(declared):
        return tuple(name for name in declared if name in names)
    if all(re.fullmatch(r"-?\d{1,18}", name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def may_be_ordered(labels: Sequence[str]) -> bool:
    """Return whether classes look like a scale: from 3 to 11 consecutive whole numbers."""
    if not 3 <= len(labels) <= 11 or not all(re.fullmatch(r"-?\d{1,18}", name) for name in labels):
        return False
    numbers = sorted(map(int, labels))
    return numbers == [*range(numbers[0], numbers[-1] + 1)]


def similar_labels(labels: Iterable[str]) -> list[list[str]]:
    """Return the groups of labels that differ only in case, in white space, or in the form of their characters."""
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(" ".join(unicodedata.normalize("NFKC", label).casefold().split()), []).append(label)
    return [group for group in groups.values() if len(group) > 1]


def near_labels(labels: Iterable[str]) -> list[tuple[str, str]]:
    """Return the pairs of labels that differ by one letter more, less, or exchanged with its neighbor.

    Such pairs are often a typing error or a plural. Numbers and short labels are not compared.
    """
    plain = {label: " ".join(unicodedata.normalize("NFKC", label).casefold().split()) for label in labels}
    words = {label: word for label, word in plain.items() if len(word) >= 4 and not re.search(r"\d", word)}
    by_word: dict[str, str] = {word: label for label, word in words.items()}
    pairs: dict[tuple[str, str], None] = {}
    for label, word in words.items():
        for i in range(len(word)):
            shorter = word[:i] + word[i + 1 :]
            exchanged = word[:i] + word[i : i + 2][::-1] + word[i + 2 :]
            for other in {shorter, exchanged} - {word}:
                if other in by_word:
                    first, second = sorted((label, by_word[other]))
                    pairs[first, second] = None
    return list(pairs)


def check_classes(labels: Sequence[str], rows: int, place: str, column: str, *, most: int = 1_000) -> None:
    """Warn if labels differ only in case or white space, or look like regression targets or ids.

    Text formats do not distinguish those from classes.

    Args:
        most: see `DataLimits.classes`.

    Raises:
        InputError: there is one class only, there are too many for the rows, or the labels are mostly distinct numbers
            with fractions.
    """
    warn_of_similar(labels, place, column)
    if len(labels) == 1:
        raise InputError(f"{place}: every row has the label {labels[0]!r}; expected at least two classes")
    many = len(labels) > max(2, rows // 2)
    try:
        fractions = sum(not float(name).is_integer() for name in labels)
    except (ValueError, OverflowError):
        fractions = 0
    if fractions and many:
        raise InputError(
            f"{place}: column {column!r} holds {len(labels)} different numbers with fractions in {rows} rows: "
            "expected classes; predict the numbers by --task regression, or name another column by --label"
        )
    if len(labels) > max(most, rows // ROWS_PER_CLASS):
        raise InputError(
            f"{place}: column {column!r} holds {len(labels):,} classes in {rows:,} rows, expected at most {most:,}, or "
            f"{ROWS_PER_CLASS} rows for each class; name another column by --label, or raise --data.limits.classes"
        )
    if fractions:
        logger.warning("%s: the labels in column %r are numbers with fractions; each number is a class", place, column)
    elif many:
        logger.warning("%s: column %r holds %d classes in %d rows; is it the label?", place, column, len(labels), rows)


def warn_of_similar(labels: Sequence[str], place: str, column: str) -> None:
    """Warn if labels differ only in case, white space, or the form of their characters."""
    if groups := similar_labels(labels):
        shown = "; ".join(listed([repr(label) for label in group]) for group in groups[:3])
        more = f" and {len(groups) - 3} more" if len(groups) > 3 else ""
        logger.warning(
            "%s: some labels in column %r differ only in case or white space, and each is a class of its own: %s%s; "
            "write each class in one way",
            *(place, column, shown, more),
        )


def literal_list(cell: Any) -> Any:
    """Return the list that a text of a csv file holds as Python or JSON write it; any other cell as it is.

    A million characters take up to 500 MB: longer texts are to be refused before.
    """
    if not isinstance(cell, str) or not ((text := cell.strip()).startswith("[") and text.endswith("]")):
        return cell
    try:
        value = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return cell
    return value if isinstance(value, list) else cell


def shortened(value: Any) -> str:
    """Return a value and its type, for messages."""
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:40] + '...'} ({type(value).__name__})"
