"""Choose the columns of text, image and class: those the user names, else the obvious ones."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hf_finetune.data.config import FEATURE, Kind
from hf_finetune.data.readers.conll_file import SUFFIXES as CONLL
from hf_finetune.data.readers.table import Column
from hf_finetune.errors import InputError, NoLabels
from hf_finetune.utils.messages import did_you_mean, plural, quoted

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
# Well-known names, in tiers of falling priority: `text` before `review`.
Tiers = tuple[tuple[str, ...], ...]
_LONG_TEXTS = ("sentence", "content", "review", "document", "question", "tweet", "utterance", "body", "message")
TEXTS: Tiers = (("text",), (*_LONG_TEXTS, "comment", "post"), ("sequence", "seq"))
LABELS: Tiers = (
    ("label",),
    ("labels", "class", "category", "target", "intent", "topic", "sentiment", "emotion"),
    ("tags", "score", "rating", "stars"),
    ("ner_tags",),
    ("pos_tags", "upos"),
)
WORDS: Tiers = (("tokens", "words"),)
IMAGES: Tiers = (("image",), ("img", "picture", "photo", "file_name"))
FILE_NAME = "file_name"
"""The column of a metadata file that names the images, as `datasets` has it."""
Cells = Callable[[Sequence[str]], Mapping[str, Sequence[Any]]]
"""Returns the first cells of columns, by which one of several is chosen; none if they cannot be read."""
IDENTIFIER = re.compile(r"(?!-?\d+\.\d+$)[\w.:/@+#-]{1,64}", re.ASCII)
"""A value that may be an id: a short word of ASCII, and no number with a fraction."""
# Row numbers, as data sets and table tools call them.
IGNORED = ("", "id", "idx", "index", "guid", "unnamed: 0", "__index_level_0__")

# By canonical name: flag, purpose, expected content, and the kinds of column that have it.
_FLAGS = {"text": "--text", "text_pair": "--text-pair", "image": "--image", "label": "--label"}
_PURPOSE = {"text": "text", "image": "image", "label": "class of each row"}
_EXPECTED = {
    "text": "text",
    "text_pair": "text",
    "image": "images or their paths",
    "label": "classes, tags or numbers",
    FEATURE: "numbers or names",
}
_KINDS = {
    # Lists are those of words, which `targets.choose.infer_task` refuses for other tasks.
    "text": ("string", "list"),
    "text_pair": ("string",),
    "image": ("image", "string"),
    "label": ("string", "number", "class", "list", "columns"),
    FEATURE: ("string", "number", "class"),
}


def choose_columns(
    columns: dict[str, Column],
    requested: Mapping[str, str | None],
    *,
    kind: Kind,
    need_label: bool,
    place: str,
    cells: Cells | None = None,
) -> dict[str, str]:
    """Map `text` and `text_pair`, or `image`, and `label` to columns of the source.

    Columns that are not requested are inferred: pairs only by well-known names; text, image and class by well-known
    names, else as the only candidate. Of several candidates, ids are no texts and no classes, and values that repeat
    are no texts.

    Args:
        requested: column names by canonical name; None: not requested.
        place: the source, for messages.
        cells: None: the content of the columns decides nothing.

    Returns:
        The columns by canonical name; no `label` if it is neither needed nor obvious.

    Raises:
        InputError: a column is missing, of the wrong type, or not obvious.
    """
    named = {name: column for name, column in requested.items() if column is not None}
    choice = _Choice(columns, place, named, cells or (lambda names: {}))
    choice.check_requested()
    choice.infer_label(ambiguous_is_error=need_label)
    if kind == "text":
        choice.infer_text()
    else:
        choice.infer_image()
    if need_label:
        choice.infer_label_from_rest()
    for name, column in choice.chosen.items():
        _check_kind(name, column, columns[column], place)
    features = [name for name in choice.chosen if name.startswith(FEATURE)]
    return {name: choice.chosen[name] for name in (*_FLAGS, *features) if name in choice.chosen}


def choose_inputs(
    columns: dict[str, Column], known: dict[str, str], *, kind: Kind, place: str, cells: Cells | None = None
) -> dict[str, str]:
    """Map `text` and `text_pair`, or `image`, to columns of unlabeled rows.

    Args:
        known: the columns of the labeled rows, by canonical name; used if they exist, else the obvious ones.
        place, cells: see `choose_columns`.

    Raises:
        InputError: a column is not obvious, or the column of second texts is missing.
    """
    names = [name for name in _FLAGS if name in known and name != "label"]
    requested = {name: known[name] if name == "text_pair" or known[name] in columns else None for name in names}
    try:
        chosen = choose_columns(columns, requested, kind=kind, need_label=False, place=place, cells=cells)
    except InputError as error:
        raise InputError(
            f"{place}: expected {' and '.join(repr(known[name]) for name in names)} as in the labeled rows, or columns "
            f"that are obvious; it has {quoted(columns)}"
        ) from error
    return {name: chosen[name] for name in names}


def require_columns(chosen: dict[str, str], columns: dict[str, Column], *, place: str, like: str) -> None:
    """Check that another split has the columns that were chosen for the training rows.

    Raises:
        InputError: a column is missing or of the wrong type.
    """
    for name, column in chosen.items():
        if column not in columns:
            hint = did_you_mean(column, columns)
            raise InputError(f"{place}: no column {column!r}, which {like} has{hint}; it has {quoted(columns)}")
        _check_kind(name, column, columns[column], place)


@dataclass
class _Choice:
    """The columns of a source, and those chosen so far."""

    columns: dict[str, Column]
    place: str
    chosen: dict[str, str]
    cells: Cells

    def check_requested(self) -> None:
        for name, column in self.chosen.items():
            if column not in self.columns:
                raise InputError(
                    f"{_flag(name)} {column}: {self.place} has no such column{did_you_mean(column, self.columns)}; "
                    f"it has {quoted(self.columns)}"
                )
        if len(set(self.chosen.values())) < len(self.chosen):
            flags = " and ".join(dict.fromkeys(map(_flag, self.chosen)))
            raise InputError(f"{flags}: the same column is named twice; {self.place} has {quoted(self.columns)}")

    def infer_label(self, *, ambiguous_is_error: bool) -> None:
        """Choose the label by name, or as the only column that declares classes."""
        if "label" in self.chosen:
            return
        candidates = [column for column in self._free() if self.columns[column].kind != "image"]
        classes = self._free("class")
        label = self._by_name("label", candidates, LABELS, ambiguous_is_error=ambiguous_is_error)
        if label or len(classes) == 1:
            self.chosen["label"] = label or classes[0]

    def infer_text(self) -> None:
        """Choose the text, and the second text of pairs."""
        if "text" in self.chosen:
            return
        texts = self._free("string")
        lower = {column.lower(): column for column in texts}
        if "text_pair" in self.chosen:
            firsts = {lower[a] for a, b in PAIRS if b == self.chosen["text_pair"].lower() and a in lower}
            if len(firsts) == 1:
                self.chosen["text"] = firsts.pop()
                return
        else:
            pairs = [(lower[a], lower[b]) for a, b in PAIRS if a in lower and b in lower]
            if len(pairs) > 1:
                raise self._not_obvious("text", [column for pair in pairs for column in pair])
            if pairs:
                self.chosen["text"], self.chosen["text_pair"] = pairs[0]
                return
        prose = [c for c in texts if not self.columns[c].numeric and not self.columns[c].names_images]
        if not prose and (words := self._free("list")):
            self.chosen["text"] = self._by_name("text", words, WORDS) or self._only("text", words, ())
            return
        self.chosen["text"] = self._by_name("text", texts, TEXTS) or self._only("text", prose, ("text",))

    def infer_image(self) -> None:
        """Choose the image by name, or as the only one."""
        if "image" not in self.chosen:
            named = [c for c in self._free("string") if self.columns[c].names_images or c.lower() == FILE_NAME]
            images = self._free("image") or named
            self.chosen["image"] = self._by_name("image", images, IMAGES) or self._only("image", images)

    def infer_label_from_rest(self) -> None:
        """Choose the label as the only column left."""
        if "label" not in self.chosen:
            label = self._only("label", self._free(), ("text", "class"))
            if self.columns[label].kind == "image":
                raise self._not_obvious("label", [label])
            self.chosen["label"] = label

    def _free(self, kind: str | None = None) -> list[str]:
        """Return the columns that are not chosen yet and hold no row numbers."""
        taken = self.chosen.values()
        free = [column for column in self.columns if column not in taken and column.lower() not in IGNORED]
        return [column for column in free if kind in (None, self.columns[column].kind)]

    def _by_name(
        self, name: str, candidates: list[str], tiers: Tiers, *, ambiguous_is_error: bool = True
    ) -> str | None:
        """Return the candidate with a well-known name, of the first tier that has one."""
        for tier in tiers:
            matches = [column for column in candidates if column.lower() in tier]
            if len(matches) == 1:
                return matches[0]
            if matches and ambiguous_is_error:
                flag = _FLAGS[name]
                raise InputError(f"{self.place}: the {name} could be column {quoted(matches)}; name it by {flag} COL")
        return None

    def _only(self, name: str, candidates: list[str], contents: Sequence[str] = ()) -> str:
        """Return the only candidate, of several the only one with such content."""
        if len(candidates) > 1 and contents:
            cells = self.cells(candidates)
            fitting = [column for column in candidates if column in cells and _content(cells[column]) in contents]
            candidates = fitting if len(fitting) == 1 else candidates
        if len(candidates) != 1:
            raise self._not_obvious(name, candidates)
        return candidates[0]

    def _not_obvious(self, name: str, candidates: list[str]) -> InputError:
        purpose = _PURPOSE[name]
        if candidates:
            problem = f"the column of the {purpose} is not obvious, it could be {quoted(candidates)}"
        else:
            problem = (
                f"no column holds the {purpose}; there {plural(len(self.columns), 'is', 'are')} {quoted(self.columns)}"
            )
        if name == "label" and [*self.columns] == ["tokens"] and self.place.lower().endswith(CONLL):
            return InputError(f"{self.place}: expected a word and its tag on each line, divided by a tab or a space")
        known = {n for names in (*PAIRS, *TEXTS, *LABELS, *IMAGES, *WORDS, IGNORED) for n in names}
        is_csv = self.place.lower().endswith((".csv", ".tsv"))
        no_header = is_csv and not known.intersection(column.lower() for column in self.columns)
        header = "; the first line must name the columns" if no_header else ""
        kind = NoLabels if name == "label" else InputError
        return kind(f"{self.place}: {problem}; name it by {_FLAGS[name]} COL{header}")


def _content(cells: Iterable[Any]) -> Literal["text", "class", "id"]:
    """Return what the cells of a column look like: ids never repeat, each class has two rows on average."""
    values = [str(cell).strip() for cell in cells if cell is not None]
    distinct = {value for value in values if value}
    if 2 * len(distinct) <= len(values):
        return "class"
    return "id" if len(distinct) == len(values) and all(map(IDENTIFIER.fullmatch, distinct)) else "text"


def _flag(name: str) -> str:
    return "--features" if name.startswith(FEATURE) else _FLAGS[name]


def _check_kind(name: str, column: str, actual: Column, place: str) -> None:
    if name.startswith(FEATURE):
        name = FEATURE
    is_empty_label = name == "label" and actual.type in ("nothing", "null")
    if actual.kind not in _KINDS[name] and not is_empty_label:
        raise InputError(
            f"{place}: column {column!r} holds {actual.type}, expected {_EXPECTED[name]}; "
            f"name another by {_flag(name)} COL"
        )
