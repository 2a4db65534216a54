"""Read token ids directly from Arrow buffers, and batch them as tensors.

Legend: B rows of a batch, T tokens of its longest row, S tokens of all its rows together.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_finetune.utils.panics import tokenize

# Characters that are tokenized at a time, in texts of a batch: a million of them take 300 to 600 MB.
CHARACTERS_AT_ONCE = 500_000
# A text is tokenized to this length in characters, or to this many for each token that is read, unless that gives fewer
# tokens than are read and some to spare. A million Chinese letters take a tokenizer 2 s and 600 MB.
LONG_TEXT, CHARACTERS_OF_A_TOKEN, SPARE_TOKENS = 10_000, 64, 64


class TokenLists:
    """A column of integer lists as numpy views of its Arrow buffers, without copies.

    Reading 32 rows takes 0.02 ms, with `datasets` about 1 ms.
    """

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._values = [chunk.values.to_numpy() for chunk in column.chunks]
        self._offsets = [chunk.offsets.to_numpy() for chunk in column.chunks]
        self._ends = np.cumsum([len(chunk) for chunk in column.chunks])

    def take(self, indices: Sequence[int]) -> list[np.ndarray]:
        """Return one array of ids for each index, shape (tokens of the row,)."""
        chunks = np.searchsorted(self._ends, indices, side="right")
        lists = []
        for index, chunk in zip(indices, chunks.tolist(), strict=True):
            offsets = self._offsets[chunk]
            # Counted from the end of the chunk, which is at _ends[chunk].
            at = index - int(self._ends[chunk]) + len(offsets) - 1
            lists.append(self._values[chunk][offsets[at] : offsets[at + 1]])
        return lists


def runs_of_texts(texts: Sequence[str]) -> list[slice]:
    """Divide a batch into runs of at most `CHARACTERS_AT_ONCE`, or one text."""
    runs, start, total = [], 0, 0
    for i, text in enumerate(texts):
        if i > start and total + min(len(text), LONG_TEXT) > CHARACTERS_AT_ONCE:
            runs.append(slice(start, i))
            start, total = i, 0
        total += min(len(text), LONG_TEXT)
    return [*runs, slice(start, len(texts))]


def beginnings(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int, *, rows: Sequence[int] | None = None
) -> list[str]:
    """Return the texts, very long ones without their end: the first `max_length` tokens are the same.

    Args:
        rows: see `utils.panics.tokenize`.
    """
    most = max(LONG_TEXT, CHARACTERS_OF_A_TOKEN * max_length)
    long = [i for i, text in enumerate(texts) if text is not None and len(text) > most]
    if not long or tokenizer.truncation_side != "right":
        return texts
    begun = [texts[i][:most] for i in long]
    needed = max_length + SPARE_TOKENS
    options: dict[str, Any] = {"truncation": True, "max_length": needed, "add_special_tokens": False}
    name, rows = tokenizer.name_or_path, None if rows is None else [rows[i] for i in long]
    encoded = tokenize(tokenizer, begun, name=name, rows=rows, return_attention_mask=False, **options)
    enough = {i: text for i, text, ids in zip(long, begun, encoded["input_ids"], strict=True) if len(ids) == needed}
    return [enough.get(i, text) for i, text in enumerate(texts)]


def both_ends(texts: list[str], max_length: int) -> list[str]:
    """Return the texts, very long ones without their middle: the `max_length` tokens at each end are the same."""
    most = max(LONG_TEXT, CHARACTERS_OF_A_TOKEN * max_length)
    return [text if len(text) <= 2 * most else f"{text[:most]} {text[-most:]}" for text in texts]


def count_tokens(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], pairs: Sequence[str] | None = None
) -> np.ndarray:
    """Return the number of tokens of each text or pair, int64; of a very long one an estimate by its beginning."""
    sides = [texts] if pairs is None else [texts, pairs]
    begun = [[text[:LONG_TEXT] for text in side] for side in sides]
    encoded = tokenize(tokenizer, *begun, name=tokenizer.name_or_path, return_attention_mask=False, verbose=False)
    counts = np.array([len(ids) for ids in encoded["input_ids"]], dtype=np.int64)
    whole, read = (np.array([sum(map(len, row)) for row in zip(*part, strict=True)]) for part in (sides, begun))
    return counts * whole // np.maximum(read, 1)


def is_token_column(kind: pa.DataType) -> bool:
    """Return whether an Arrow type is a list of integers."""
    return (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_integer(kind.value_type)


def used_token_ids(encoded: Dataset) -> np.ndarray:
    """Return the sorted distinct token ids of all rows, int64."""
    column = encoded.with_format("arrow")[:].column("input_ids")
    return np.unique(np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks])).astype(np.int64)


def pad(
    columns: Mapping[str, Sequence[Any]], fill: Mapping[str, int], *, left: bool = False
) -> dict[str, torch.Tensor]:
    """Pad lists of ids to tensors (B, T), with an `attention_mask` (B, T) unless all rows have the same length.

    Without a mask, transformers skips masking, and on a GPU a check of the mask that waits for the device.

    Args:
        columns: token columns of B rows each, like `input_ids`.
        fill: padding id of each column.
        left: pad on the left.
    """
    lengths = np.array([len(ids) for ids in next(iter(columns.values()))])
    longest = int(lengths.max())
    if (lengths == longest).all():
        return {name: _joined(rows).view(len(lengths), longest) for name, rows in columns.items()}
    places = np.arange(longest)
    real = places >= longest - lengths[:, None] if left else places < lengths[:, None]
    padded = {}
    for name, rows in columns.items():
        ids = np.full(real.shape, fill[name], dtype=np.int64)
        ids[real] = np.concatenate(rows)
        padded[name] = torch.from_numpy(ids)
    return {**padded, "attention_mask": torch.from_numpy(real.astype(np.int64))}


def pack(columns: Mapping[str, Sequence[Any]]) -> dict[str, torch.Tensor | int]:
    """Concatenate lists of ids without padding, for a model prepared by `models.kernels.unpadded`.

    Returns:
        The columns and `position_ids` (1, S), which restart at 0 in every row; `cu_seq_lens_q` and `cu_seq_lens_k`
        (B + 1,), int32, the row boundaries; `max_length_q` and `max_length_k`, the tokens of the longest row. The last
        four are those of `transformers.FlashAttentionKwargs`.
    """
    lengths = np.array([len(ids) for ids in next(iter(columns.values()))])
    ends = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(ends[-1]) - np.repeat(ends[:-1], lengths)
    bounds, longest = torch.from_numpy(ends.astype(np.int32)), int(lengths.max())
    return {
        **{name: _joined(rows)[None] for name, rows in columns.items()},
        "position_ids": torch.from_numpy(positions)[None],
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def _joined(rows: Sequence[Any]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(rows).astype(np.int64, copy=False))
