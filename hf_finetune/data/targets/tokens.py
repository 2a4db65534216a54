"""Labels that are a tag for each word.

Legend: N rows, C tags.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from hf_finetune.data import splits
from hf_finetune.data.labels import SURROGATE, label_name, name_values, order_classes, warn_of_similar
from hf_finetune.data.ragged import Ragged
from hf_finetune.data.tag_scheme import scheme_of
from hf_finetune.data.targets.base import LabelColumn, Settled, Targets
from hf_finetune.data.words import TaggedSentence, is_spans, tags_of_spans
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import Notes, counted, did_you_mean, listed

_IGNORED = -100
"""What training scripts write for the further pieces of a word, and for special tokens."""
_WHOLE_WORDS = "expected the words of before they were tokenized, and their tags"


class WordTags:
    """Assign ids to the tags of words: those of known tags, or new ids in order of appearance.

    Args:
        known, owner, values: see `Targets.reader`.
    """

    cell: ClassVar[pa.DataType] = pa.list_(pa.int64())
    fault: ClassVar[str] = "not tags of words"

    def __init__(self, known: Sequence[str] | None, owner: str, values: Mapping[str, str] | None) -> None:
        self.ids = {name: i for i, name in enumerate(known or ())}
        self._by_value = {value: self.ids[name] for value, name in (values or {}).items() if name in self.ids}
        self.closed, self.owner = known is not None, owner

    def read(self, value: TaggedSentence | None, names: Sequence[str]) -> list[int] | None:
        """Return the id of each word's tag, or None if there are no tags, or no sentence.

        Raises:
            ValueError: the tags are not as many as the words, a tag is empty or unknown, or a span does not fit.
        """
        if value is None:
            return None
        words, tags = value.sentence.bounds[::2], value.tags
        if tags is None or (isinstance(tags, float) and tags != tags) or (isinstance(tags, str) and not tags.strip()):
            return None
        if isinstance(tags, str):
            tags = tags.split()
        if not isinstance(tags, Sequence | np.ndarray):
            raise ValueError(f"expected a tag for each word, or spans, got {type(tags).__name__}")
        if is_spans(tags):
            tags, names = tags_of_spans(value.sentence, list(tags)), ()
        elif not len(tags) and value.of_text:  # of spans, there are none
            tags, names = ["O"] * len(words), ()
        if len(tags) != len(words):
            raise ValueError(
                f"{counted(len(words), 'word')} and {counted(len(tags), 'tag')}, expected a tag for each word"
            )
        return [self._id(tag, names, number) for number, tag in enumerate(tags, start=1)]

    def _id(self, tag: Any, names: Sequence[str], number: int) -> int:
        if isinstance(tag, list | tuple | dict):
            raise ValueError(f"the tag of word {number} is a {type(tag).__name__}, expected text or a whole number")
        if tag == _IGNORED and not names:
            raise ValueError(f"the tag of word {number} is {_IGNORED}, which marks pieces of words; {_WHOLE_WORDS}")
        name = label_name(tag, names, tag=f"the tag of word {number}")
        if name is None:
            raise ValueError(f"the tag of word {number} is empty")
        if SURROGATE.search(name):
            raise ValueError(f"the tag of word {number}, {name[:40]!r}, holds half a surrogate pair")
        if name not in self.ids and self.closed:
            if (known := self._by_value.get(name)) is not None:
                return known
            raise ValueError(
                f"the tag {name!r} of word {number} is not among the {len(self.ids)} tags of {self.owner} "
                f"({listed(list(self.ids))}){did_you_mean(name, self.ids)}"
            )
        return self.ids.setdefault(name, len(self.ids))


class Tokens(Targets):
    """A tag for each word of a row."""

    task = "tokens"
    column_kinds = ("list", "string")
    expected = "a list with a tag for each word, or with spans {start, end, label}"
    stratum = "tag"
    reads_words = True

    def reader(
        self, labels: Sequence[str] | None = None, owner: str = "", values: Mapping[str, str] | None = None
    ) -> WordTags:
        """Return a reader of the tags of words."""
        return WordTags(labels, owner, values)

    def settle(self, reader: WordTags, cells: pa.ChunkedArray, column: LabelColumn, notes: Notes) -> Settled:
        """Order the tags: as declared, numerically or alphabetically."""
        values: dict[str, str] = {}
        if column.label_names:
            values = name_values(reader.ids, column.label_names, column.place, column.name)
        names = [values.get(name, name) for name in reader.ids]
        labels = order_classes(names, column.label_names or column.declared)
        if len(labels) < 2:
            raise InputError(f"{column.place}: every word has the tag {labels[0]!r}; expected at least two tags")
        tags = Ragged.of_column(cells)
        if len(labels) > max(column.most_classes, len(tags.values) // 10):
            raise InputError(
                f"{column.place}: column {column.name!r} holds {len(labels):,} tags, expected at most "
                f"{column.most_classes:,}; name another column by --label, or raise --data.limits.classes"
            )
        warn_of_similar(labels, column.place, column.name)
        ids = np.array([labels.index(name) for name in names])
        scheme = scheme_of(labels)
        kind = "tags" if scheme is None else f"{scheme.name} tags of the entities {listed(list(scheme.entities))}"
        notes.add(f"{len(labels)} {kind}; {len(tags.values):,} words in {len(tags):,} training rows")
        return Settled(labels, tags.like(ids[tags.values]).to_arrow(pa.int64()), values)

    def hold_out(
        self, labels: np.ndarray, first_N: np.ndarray, *, fraction: float, seed: tuple[int, int]
    ) -> np.ndarray:
        """Return the mask of the rows to hold out, with each tag by its share of rows, see `splits.hold_out_tags`."""
        return splits.hold_out_tags(_presence(labels), first_N, fraction=fraction, seed=seed)

    def subsample(self, labels: np.ndarray, *, count: int, seed: tuple[int, int]) -> np.ndarray:
        """Return the mask of `count` rows that have all tags by their share of rows."""
        return splits.subsample_tags(_presence(labels), count=count, seed=seed)

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """Return one group of all rows: a row has several tags."""
        return np.zeros(len(labels), dtype=np.int64)


def _presence(labels: Any) -> np.ndarray:
    """Return whether a row has each tag, shape (N, C), int8."""
    hot_NC = np.zeros((len(labels), int(labels.values.max()) + 1), dtype=np.int8)
    hot_NC[labels.row_of_value, labels.values] = 1
    return hot_NC
