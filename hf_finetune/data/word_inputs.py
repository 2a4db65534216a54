"""Sentences as padded token ids, with the place of each word's first piece.

A text that is longer than the maximum length becomes several windows, which share words as context: each word is scored
in one of them, with tokens on both sides of it. An encoded row is a window.

Legend: N rows, W words, B windows of a batch, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from hf_finetune.data.inputs import TextInputs
from hf_finetune.data.ragged import Ragged, flat
from hf_finetune.data.rows import in_memory
from hf_finetune.data.tokens import runs_of_texts
from hf_finetune.data.truncation import Truncation
from hf_finetune.data.words import word_bounds
from hf_finetune.errors import InputError
from hf_finetune.utils.panics import tokenize

CONTEXT = 0.25
"""Share of a window's tokens on each side of the words that it scores."""
PLACES = "places"
"""Column of encoded rows: the tokens that score words, their first pieces."""
_SOURCE = "source"
"""Column of encoded rows: the number of the row that a window is of."""
OF_WINDOWS = (PLACES, _SOURCE)
"""Columns that other forms of the same encoded rows need, too."""
WORD_PLACES = "word_places"
"""Model input: places (W,) of the words of a batch in its B x T tokens, see `models.heads.words`."""


@dataclass(frozen=True)
class WordInputs(TextInputs):
    """Sentences as padded token ids, see `data.words`.

    A word is scored at its first piece, the first token that overlaps it; at the token before it if its letters are
    none to the tokenizer.
    """

    def __post_init__(self) -> None:
        if not self.tokenizer.is_fast:
            raise InputError(
                f"{self.tokenizer.name_or_path}: its tokenizer does not tell the letters of a token, which tags of "
                "words need; use a checkpoint with a tokenizer.json"
            )

    @property
    def columns(self) -> list[str]:
        """Columns that `collate` reads."""
        return [*super().columns, PLACES]

    def encode(self, rows: Dataset) -> Dataset:
        """Tokenize once, into windows: the columns of `TextInputs.encode`, `places`, `source`, `text`, `row`, `label`.

        Rows without `bounds` have the words of `words.word_bounds`.
        """
        return rows.map(
            self._windows,
            batched=True,
            with_indices=True,
            remove_columns=rows.column_names,
            load_from_cache_file=False,
        )

    def encode_in_memory(self, rows: Dataset) -> Dataset:
        """Return what `encode` does, without `text`, `row` and `label`."""
        columns = rows.select_columns([n for n in ("text", "bounds", "row") if n in rows.column_names])
        windows = self._windows(columns.with_format("arrow")[:].to_pydict(), range(len(rows)))
        return in_memory({name: values for name, values in windows.items() if name not in ("text", "row")})

    def _windows(self, batch: dict[str, list], indices: Any) -> dict[str, list]:
        windows: dict[str, list] = {}
        numbers = list(indices)
        for run in runs_of_texts(batch["text"]):
            part = {name: values[run] for name, values in batch.items()}
            for name, values in self._windows_of_run(part, numbers[run]).items():
                windows.setdefault(name, []).extend(values)
        return windows

    def _windows_of_run(self, batch: dict[str, list], numbers: list[int]) -> dict[str, list]:
        texts, labels = batch["text"], batch.get("label")
        bounds = [np.array(words) for words in batch.get("bounds", map(word_bounds, texts))]
        rows = batch.get("row", numbers)
        whole = self._tokens(texts, rows)
        names = [name for name in self.tokenizer.model_input_names if name != "attention_mask"]
        parts: list[_Window] = []
        columns: dict[str, list] = {name: [] for name in (*names, PLACES)}

        def add(windows: list[_Window], encoded: Any, at: int) -> None:
            for number, window in enumerate(windows, start=at):
                parts.append(window)
                for name in names:
                    columns[name].append(encoded[name][number])
                firsts = _first_pieces(np.array(encoded["offset_mapping"][number]), window.words)
                columns[PLACES].append(firsts[window.skipped : window.skipped + window.last - window.first].tolist())

        for i, (text, words) in enumerate(zip(texts, bounds, strict=True)):
            ids = len(whole["input_ids"][i])
            if ids <= self.max_length:
                add([_Window(i, 0, len(words) // 2, text, words)], whole, i)
                continue
            windows = self._cut(i, text, words, _first_pieces(np.array(whole["offset_mapping"][i]), words), ids)
            add(windows, self._tokens([w.text for w in windows], [rows[i]] * len(windows), truncation=True), 0)
        return {
            **columns,
            "length": [len(ids) for ids in columns["input_ids"]],
            _SOURCE: [numbers[part.row] for part in parts],
            "text": [part.text for part in parts],
            "row": [rows[part.row] for part in parts],
            **({} if labels is None else {"label": [labels[p.row][p.first : p.last] for p in parts]}),
        }

    def _tokens(self, texts: list[str], rows: list[int], **options: Any) -> Any:
        tokenizer = self.tokenizer
        length: dict[str, Any] = {"max_length": self.max_length} if options else {"verbose": False}
        options = {**length, **options, "return_offsets_mapping": True, "return_attention_mask": False}
        return tokenize(tokenizer, texts, name=tokenizer.name_or_path, rows=rows, **options)

    def _cut(self, row: int, text: str, words: np.ndarray, firsts: np.ndarray, tokens: int) -> list[_Window]:
        """Cut a text into windows of whole words."""
        room = self.max_length - self.tokenizer.num_special_tokens_to_add()
        context = int(CONTEXT * room)
        # Tokens of each word and of what follows up to the next one.
        ends = np.cumsum(np.maximum(np.diff(np.append(firsts, tokens)), 1))
        windows, first = [], 0
        while first < len(ends):
            before = ends[first - 1] if first else 0
            start = min(first, int(np.searchsorted(ends, before - context)) + 1) if before > context else 0
            begin = ends[start - 1] if start else 0
            stop = max(first + 1, int(np.searchsorted(ends, begin + room, side="right")))
            last = stop if stop >= len(ends) else int(np.searchsorted(ends, ends[stop - 1] - context, side="right"))
            last = min(max(last, first + 1), stop)
            low, high = words[2 * start], words[2 * stop - 1]
            inner = words[2 * start : 2 * stop] - low
            windows.append(_Window(row, first, last, text[low:high], inner, first - start))
            first = last
        return windows

    def one_way(self, rows: Dataset) -> str | None:
        """Return why there is only one way to read long texts."""
        return "tags of words are read in windows that score every word"

    def truncation(self, encoded: Dataset, sample: int = 2000, **options: Any) -> Truncation:
        """Return that no text is truncated: long ones become windows."""
        return Truncation(self.max_length, 0.0, self.max_length, 1.0, 1.0)

    def collate(self, batch: dict[str, list]) -> dict[str, torch.Tensor]:
        """Pad as `TextInputs.collate`, and add the places of words, see `WORD_PLACES`."""
        padded = super().collate(batch)
        left = self.tokenizer.padding_side == "left"
        return {**padded, **word_places(batch, padded["input_ids"].shape[1], lengths=batch["input_ids"], left=left)}


@dataclass(frozen=True)
class _Window:
    """A part of a text, and the words of its row that it scores."""

    row: int
    first: int
    last: int
    """The word behind the last one."""
    text: str
    words: np.ndarray
    """Bounds of all its words in its text."""
    skipped: int = 0
    """Words of context before the first one."""


def _first_pieces(offsets_T2: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Return the first token of each word, shape (W,).

    Args:
        offsets_T2: start and end of each token in the text; of special tokens 0 and 0.
        words: bounds, see `words.Sentence`.
    """
    starts, ends = offsets_T2.reshape(-1, 2).T
    real = np.flatnonzero(ends > starts)
    if not len(real):
        return np.zeros(len(words) // 2, dtype=np.int64)
    # Tokens are in the order of the text: the first one that ends behind the word's start.
    at = np.searchsorted(ends[real], words[::2], side="right")
    overlaps = (at < len(real)) & (starts[real[np.minimum(at, len(real) - 1)]] < words[1::2])
    return real[np.where(overlaps, at, np.maximum(at - 1, 0))]


def word_places(
    batch: dict[str, list], width: int, *, lengths: list[Any], left: bool = False
) -> dict[str, torch.Tensor]:
    """Return the model input `WORD_PLACES` of a batch, nothing if it has no words.

    Args:
        width: tokens T of the padded rows.
        lengths: something as long as each row.
        left: whether they are padded on the left.
    """
    if PLACES not in batch:
        return {}
    shifts = [width * i + (width - len(row) if left else 0) for i, row in enumerate(lengths)]
    places = [np.asarray(row) + shift for row, shift in zip(batch[PLACES], shifts, strict=True)]
    return {WORD_PLACES: torch.from_numpy(np.concatenate(places).astype(np.int64))}


def word_counts(encoded: Dataset) -> np.ndarray | None:
    """Return the number of words that each encoded row scores, shape (rows,); None if it has one label a row."""
    if PLACES not in encoded.column_names:
        return None
    return Ragged.of_column(encoded.select_columns([PLACES]).with_format("arrow")[:][PLACES]).lengths


def words_per_row(rows: Dataset) -> np.ndarray | None:
    """Return the number of words of each canonical row, shape (N,); None if it has one label a row."""
    if "bounds" not in rows.column_names:
        return None
    return Ragged.of_column(rows.select_columns(["bounds"]).with_format("arrow")[:]["bounds"]).lengths // 2


def by_row(encoded: Dataset, values: Any) -> Any:
    """Return values of encoded rows as those of the rows that they are of.

    Args:
        values: an array with an entry for each encoded row, which is returned as it is; or for each of their words.
    """
    counts = word_counts(encoded)
    if counts is None:
        return values
    source = np.asarray(encoded[_SOURCE][:])
    lengths = np.bincount(source, counts, minlength=int(source.max()) + 1) if len(source) else counts
    return Ragged.of(flat(values), lengths.astype(np.int64))


def sources(encoded: Dataset, indices: np.ndarray) -> np.ndarray:
    """Return the indices of the rows that encoded rows are of: the same, unless these are windows."""
    return np.asarray(encoded[_SOURCE][:])[indices] if _SOURCE in encoded.column_names else indices


def encoded_of(encoded: Dataset, indices: np.ndarray) -> np.ndarray:
    """Return the indices of the encoded rows of some rows, see `sources`."""
    if _SOURCE not in encoded.column_names:
        return indices
    return np.flatnonzero(np.isin(sources(encoded, np.arange(len(encoded))), indices))
