"""Convert canonical rows to model inputs: `TextInputs` and `ImageInputs`, with the same methods.

Legend: B rows, T tokens, H height, W width.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from transformers import BaseImageProcessor, PreTrainedTokenizerBase

from hf_finetune.data import image_cache, image_processing
from hf_finetune.data.config import Kind
from hf_finetune.data.image_decoding import EncodedImage, decode_pieces
from hf_finetune.data.labels import has_words, label_array
from hf_finetune.data.ragged import Ragged, flat
from hf_finetune.data.tokens import (
    LONG_TEXT,
    TokenLists,
    beginnings,
    count_tokens,
    is_token_column,
    pack,
    pad,
    runs_of_texts,
)
from hf_finetune.utils import hashing
from hf_finetune.utils.panics import tokenize

# Columns of rows, by name.
Columns = dict[str, Any]


@dataclass(frozen=True)
class Truncation:
    """Texts that are cut off at the maximum length."""

    max_length: int
    """In tokens."""
    share: float
    """Of the texts."""
    length: int
    """Tokens that hold `holds` of the texts: 99% of them, or as many as the model can read."""
    holds: float
    cost: float
    """Tokens of all texts at `length`, relative to those at `max_length`; time grows at least as much."""

    @property
    def proposal(self) -> str:
        """What a longer maximum length would hold and cost, for messages."""
        if self.length <= self.max_length:
            return f"{self.max_length} tokens are the most that this checkpoint reads"
        return f"--max-length {self.length} would hold {self.holds:.1%} of them, at {self.cost:.1f} times the tokens"


@dataclass(frozen=True)
class TextInputs:
    """Texts, or pairs of texts, as padded token ids."""

    kind: ClassVar[Kind] = "text"
    encoding: ClassVar[str] = "tokenize"
    """What `encode` does, for the progress."""
    caches_rows: ClassVar[bool] = False
    """Whether `encode` writes to the disk cache."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int

    @property
    def columns(self) -> list[str]:
        """Columns that `collate` reads."""
        return list(self.tokenizer.model_input_names)

    def for_inference(self) -> TextInputs:
        """Return these inputs without caching of encoded rows."""
        return self

    def encode(self, rows: Dataset) -> Dataset:
        """Tokenize once: add `input_ids` (and `token_type_ids` where the model has them) and `length`."""
        return rows.map(self._token_lists, batched=True, load_from_cache_file=False)

    def encode_in_memory(self, rows: Dataset) -> Dataset:
        """Return the token columns alone. For rows that are read once: takes a third of the time of `encode`."""
        return Dataset.from_dict(
            self._token_lists({n: rows[n][:] for n in ("text", "text_pair", "row") if n in rows.column_names})
        )

    def _token_lists(self, batch: dict[str, list]) -> dict[str, list]:
        names = [n for n in self.tokenizer.model_input_names if n != "attention_mask"]
        lists: dict[str, list] = {name: [] for name in names}
        for run in runs_of_texts(batch["text"]):
            part = {n: batch[n][run] for n in ("text", "text_pair", "row") if batch.get(n) is not None}
            encoded = self.encode_batch(part)
            for name in names:
                lists[name] += encoded[name]
        return {**lists, "length": [len(ids) for ids in lists["input_ids"]]}

    def encode_batch(self, batch: dict[str, list], **options: Any) -> dict[str, list]:
        """Tokenize the texts of a batch, or its pairs where `text_pair` is present and not None.

        Raises:
            InputError: see `utils.panics.tokenize`.
        """
        tokenizer, rows, pairs = self.tokenizer, batch.get("row"), batch.get("text_pair")
        return tokenize(
            tokenizer,
            beginnings(tokenizer, batch["text"], self.max_length, rows=rows),
            None if pairs is None else beginnings(tokenizer, pairs, self.max_length, rows=rows),
            name=tokenizer.name_or_path,
            rows=rows,
            **{"truncation": True, "max_length": self.max_length, "return_attention_mask": False, **options},
        )

    def truncation(
        self,
        encoded: Dataset,
        sample: int = 2000,
        *,
        limit: int | None = None,
        coverage: float = 0.99,
        characters_counted: int = 5_000_000,
    ) -> Truncation:
        """Estimate how many rows are longer than `max_length`, from at most `sample` rows of full length.

        Args:
            limit: the most tokens that the model reads. None: unlimited.
            coverage: share of the texts that the proposed length holds.
            characters_counted: of long rows, fewer are counted.
        """
        lengths_N = np.asarray(encoded["length"][:])
        full = np.flatnonzero(lengths_N >= self.max_length)
        if len(full) == 0:
            return Truncation(self.max_length, 0.0, self.max_length, 1.0, 1.0)
        batch = encoded.select(full[:sample]).to_dict()
        characters = np.cumsum([min(len(text), LONG_TEXT) for text in batch["text"]])
        probes = full[: max(1, int(np.searchsorted(characters, characters_counted, side="right")))]
        pairs = batch.get("text_pair")
        pairs = None if pairs is None else pairs[: len(probes)]
        untruncated_N = count_tokens(self.tokenizer, batch["text"][: len(probes)], pairs)
        longer = int((untruncated_N > self.max_length).sum())
        share = len(full) / len(encoded) * longer / len(probes)
        # The probes stand for all rows of full length.
        whole = np.concatenate([lengths_N[lengths_N < self.max_length], untruncated_N]).astype(np.int64)
        weight = np.ones(len(whole))
        weight[len(whole) - len(probes) :] = len(full) / len(probes)
        order = np.argsort(whole, kind="stable")
        enough = np.searchsorted(np.cumsum(weight[order]), coverage * len(lengths_N) - 1e-9)
        length = max(self.max_length, min(int(whole[order][enough]), limit or sys.maxsize))
        now, then = ((weight * np.minimum(whole, most)).sum() for most in (self.max_length, length))
        holds = float(weight[whole <= length].sum() / len(lengths_N))
        return Truncation(self.max_length, share, length, holds, float(then / now))

    def truncated_share(self, encoded: Dataset, sample: int = 2000) -> float | None:
        """Estimate the share of rows longer than `max_length`, see `truncation`."""
        return self.truncation(encoded, sample).share

    def lengths(self, encoded: Dataset) -> np.ndarray | None:
        """Return the number of tokens of each row, shape (rows,)."""
        return np.asarray(encoded["length"][:], dtype=np.int64)

    def cache_key(self, encoded: Dataset) -> str:
        """Identify what the model reads of encoded rows: a hash of their tokens."""
        return hashing.of_columns(encoded)

    def collate(self, batch: dict[str, list]) -> dict[str, torch.Tensor]:
        """Pad encoded rows to the longest of them: input_ids (B, T), token_type_ids if there are any.

        attention_mask (B, T) is added where a row is shorter than another; see `data.tokens.pad`.
        """
        columns, tokenizer = self._token_columns(batch), self.tokenizer
        fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        if not columns.keys() <= fill.keys():
            # Columns that only their own tokenizer can pad, such as LUKE's entities.
            return dict(tokenizer.pad(columns, return_tensors="pt"))
        padded = pad(columns, fill, left=tokenizer.padding_side == "left")
        if "attention_mask" not in tokenizer.model_input_names:
            padded.pop("attention_mask", None)
        return padded

    def pack(self, batch: dict[str, list]) -> dict[str, torch.Tensor | int]:
        """Concatenate encoded rows into one row without padding, see `data.tokens.pack`."""
        return pack(self._token_columns(batch))

    def _token_columns(self, batch: dict[str, list]) -> dict[str, list]:
        return {n: batch[n] for n in self.tokenizer.model_input_names if n in batch}

    def save(self, folder: Path) -> None:
        """Save the tokenizer."""
        self.tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class ImageInputs:
    """Images as the checkpoint's own processor makes them: resized, scaled, normalized."""

    kind: ClassVar[Kind] = "image"
    encoding: ClassVar[str] = "decode the images"

    processor: BaseImageProcessor
    decode_once: bool = False
    """Cache decoded pixels on disk, see `data.image_cache`. For images that are read more than once."""
    cache_gb: float = 8.0
    """Budget of the disk cache in gigabytes (10^9 bytes)."""

    @property
    def columns(self) -> list[str]:
        """Columns that `collate` reads."""
        return ["image"]

    @property
    def caches_rows(self) -> bool:
        """Whether `encode` writes to the disk cache."""
        return self.decode_once

    def for_inference(self) -> ImageInputs:
        """Return these inputs without caching of encoded rows."""
        return replace(self, decode_once=False)

    def encode(self, rows: Dataset) -> Dataset:
        """Cache decoded images if `decode_once` is set and the processor allows it; else `collate` decodes them."""
        return image_cache.decode_once(rows, self.processor, budget_gb=self.cache_gb) if self.decode_once else rows

    def encode_in_memory(self, rows: Dataset) -> Dataset:
        """Return the rows as they are: `collate` decodes their images."""
        return rows

    def truncated_share(self, encoded: Dataset) -> float | None:
        """Return None: images are not truncated."""
        return None

    def lengths(self, encoded: Dataset) -> np.ndarray | None:
        """Return None: all images have one size."""
        return None

    def cache_key(self, encoded: Dataset) -> str:
        """Identify how rows become tensors; the images themselves are identified by the data's fingerprint."""
        return f"{self.processor.to_json_string()} {self.decode_once}"

    def collate(self, batch: Columns) -> dict[str, torch.Tensor]:
        """Normalize cached pixels, or decode and process: pixel_values (B, 3, H, W), float32.

        A column `pixels` (B, 3, H, W), uint8, takes precedence over `image`: output of `pixels` after augmentation.

        Raises:
            InputError: the processor makes images of several sizes.
        """
        pixels = batch["pixels"] if "pixels" in batch else image_cache.cached_pixels(batch["image"])
        if pixels is not None:
            return {"pixel_values": image_processing.normalize(self.processor, pixels)}
        pieces = decode_pieces(batch["image"])
        return {"pixel_values": image_processing.in_pieces(image_processing.process, self.processor, pieces)}

    def pixels(self, images: Sequence[EncodedImage]) -> torch.Tensor:
        """Return resized images before rescaling and normalization: (B, 3, H, W), uint8.

        Only for a processor that passes `image_processing.splits_in_two`.
        """
        pixels = image_cache.cached_pixels(images)
        if pixels is not None:
            return pixels
        return image_processing.in_pieces(image_processing.resize, self.processor, decode_pieces(images))

    def save(self, folder: Path) -> None:
        """Save the image processor."""
        self.processor.save_pretrained(folder)


Inputs = TextInputs | ImageInputs


class EpochRows(torch.utils.data.Dataset, ABC):
    """Rows for a torch DataLoader that may differ from epoch to epoch, see `batching.EpochLoader`."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Select the epoch whose rows are read next."""
        self.epoch = epoch

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitems__(self, indices: Sequence[int]) -> Columns:
        """Return a batch as one dict of columns."""


class Rows(EpochRows):
    """Encoded rows, the same in every epoch.

    Token columns and labels are read directly from Arrow buffers, which is much faster than through `datasets`.
    """

    def __init__(self, encoded: Dataset, columns: list[str]) -> None:
        self.encoded = encoded.select_columns([c for c in columns if c in encoded.column_names])
        self._tokens: dict[str, TokenLists] = {}
        self._labels: np.ndarray | Ragged | None = None
        schema = self.encoded.features.arrow_schema
        names = [c for c in self.encoded.column_names if c != "label"]
        if names and all(is_token_column(schema.field(n).type) for n in names):
            table = self.encoded.with_format("arrow")[:]
            self._tokens = {n: TokenLists(table.column(n)) for n in names}
            if "label" in self.encoded.column_names:
                self._labels = label_array(table.column("label"), of_words=has_words(names))

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> Columns:
        return self.encoded[index]

    def __getitems__(self, indices: Sequence[int]) -> Columns:
        numbers = [int(i) for i in indices]
        if not self._tokens:
            return self.encoded[numbers]
        batch: Columns = {name: column.take(numbers) for name, column in self._tokens.items()}
        return batch if self._labels is None else {**batch, "label": self._labels[numbers]}


def columns_of(inputs: Inputs, *, labels: bool) -> list[str]:
    """Return the columns that a batch needs."""
    return [*inputs.columns, "label"] if labels else inputs.columns


def sample_rows(
    inputs: Inputs, encoded: Dataset, most: int, *, seed: int, among: np.ndarray | None = None
) -> np.ndarray:
    """Draw the indices of up to `most` random rows, sorted by length.

    Args:
        among: the rows to draw from. None: all.
    """
    candidates = np.arange(len(encoded)) if among is None else among
    chosen = candidates[np.sort(np.random.default_rng(seed).permutation(len(candidates))[:most])]
    lengths = inputs.lengths(encoded)
    return chosen if lengths is None else chosen[np.argsort(lengths[chosen], kind="stable")]


def with_labels(collate: Callable[[Columns], dict[str, torch.Tensor]], batch: Columns) -> dict[str, torch.Tensor]:
    """Return a training batch: the model inputs and `labels`, (B,), int64, or (B, C), float32; of words (W,), int64."""
    labels = np.asarray(flat(batch["label"]))
    dtype = torch.long if labels.ndim == 1 else torch.float32
    return {**collate(batch), "labels": torch.as_tensor(labels, dtype=dtype)}
