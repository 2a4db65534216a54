"""From canonical rows to tensors: one class for texts and one for images, with the same methods.

Legend: B rows, T tokens, H height, W width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import BaseImageProcessor, PreTrainedTokenizerBase

from hf_finetune.data import image_cache, image_processing
from hf_finetune.data.image_decoding import EncodedImage, decode
from hf_finetune.data.tokens import TokenLists, is_token_column, pack, pad

# Columns of rows, by name.
Columns = dict[str, Any]


@dataclass(frozen=True)
class TextInputs:
    """Texts, or pairs of texts, as padded token ids."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int

    @property
    def columns(self) -> list[str]:
        """Columns that `collate` reads."""
        return list(self.tokenizer.model_input_names)

    def encode(self, rows: Dataset) -> Dataset:
        """Tokenize once: add `input_ids` (and `token_type_ids` where the model has them) and `length`."""
        return rows.map(self._token_lists, batched=True, load_from_cache_file=False)

    def encode_in_memory(self, rows: Dataset) -> Dataset:
        """As `encode`, with the token columns alone: for rows that are looked at once, in a third of the time."""
        return Dataset.from_dict(
            self._token_lists({n: rows[n][:] for n in ("text", "text_pair") if n in rows.column_names})
        )

    def _token_lists(self, batch: dict[str, list]) -> dict[str, list]:
        encoded = self.encode_batch(batch)
        names = [n for n in self.tokenizer.model_input_names if n != "attention_mask"]
        return {**{n: encoded[n] for n in names}, "length": [len(ids) for ids in encoded["input_ids"]]}

    def encode_batch(self, batch: dict[str, list], **options: Any) -> dict[str, list]:
        """Token columns of texts and, where `text_pair` is there and not None, pairs of texts."""
        pairs = batch.get("text_pair")
        return self.tokenizer(
            batch["text"], pairs, truncation=True, max_length=self.max_length, return_attention_mask=False, **options
        )

    def truncated_share(self, encoded: Dataset, sample: int = 2000) -> float:
        """Share of rows that are longer than `max_length`, counted on at most `sample` rows that fill it."""
        full = np.flatnonzero(np.asarray(encoded["length"][:]) >= self.max_length)
        if len(full) == 0:
            return 0.0
        probes = full[:sample]
        batch = encoded.select(probes).to_dict()
        whole = self.tokenizer(batch["text"], batch.get("text_pair"), return_attention_mask=False, verbose=False)
        longer = sum(len(ids) > self.max_length for ids in whole["input_ids"])
        return len(full) / len(encoded) * longer / len(probes)

    def lengths(self, encoded: Dataset) -> np.ndarray | None:
        """Tokens of each row, shape (rows,)."""
        return np.asarray(encoded["length"][:], dtype=np.int64)

    def collate(self, batch: dict[str, list]) -> dict[str, torch.Tensor]:
        """Pad encoded rows to the longest of them: input_ids (B, T), token_type_ids if there are any.

        attention_mask (B, T) is with them where a row is shorter than another; see `data.tokens.pad`.
        """
        columns, tokenizer = self._token_columns(batch), self.tokenizer
        fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        if not columns.keys() <= fill.keys():
            # LUKE's entities, for example: only their own tokenizer knows how they are filled up.
            return dict(tokenizer.pad(columns, return_tensors="pt"))
        padded = pad(columns, fill, left=tokenizer.padding_side == "left")
        if "attention_mask" not in tokenizer.model_input_names:
            padded.pop("attention_mask", None)
        return padded

    def pack(self, batch: dict[str, list]) -> dict[str, torch.Tensor | int]:
        """Encoded rows one behind the other in one long row, see `data.tokens.pack`."""
        return pack(self._token_columns(batch))

    def _token_columns(self, batch: dict[str, list]) -> dict[str, list]:
        return {n: batch[n] for n in self.tokenizer.model_input_names if n in batch}


@dataclass(frozen=True)
class ImageInputs:
    """Images as the checkpoint's own processor makes them: resized, scaled, normalized."""

    processor: BaseImageProcessor
    decode_once: bool = False
    """Cache decoded pixels on the disk, see `data.image_cache`; for images that are looked at more than once."""
    cache_gb: float = 8.0
    """Gigabytes (10^9 bytes) that they may take there."""

    @property
    def columns(self) -> list[str]:
        """Columns that `collate` reads."""
        return ["image"]

    def encode(self, rows: Dataset) -> Dataset:
        """Decode once, where that is requested and possible; else images are decoded batch by batch."""
        return image_cache.decode_once(rows, self.processor, budget_gb=self.cache_gb) if self.decode_once else rows

    def lengths(self, encoded: Dataset) -> np.ndarray | None:
        """Every image is of one size: None."""
        return None

    def collate(self, batch: Columns) -> dict[str, torch.Tensor]:
        """Read what was decoded before, or decode and transform: pixel_values (B, 3, H, W), float32.

        Images that come as `pixels` (B, 3, H, W), uint8, are what `pixels` gave, changed.

        Raises:
            InputError: the processor makes images of several sizes.
        """
        pixels = batch["pixels"] if "pixels" in batch else image_cache.cached_pixels(batch["image"])
        if pixels is not None:
            return {"pixel_values": image_processing.normalize(self.processor, pixels)}
        images = [decode(image) for image in batch["image"]]
        return {"pixel_values": image_processing.process(self.processor, images)}

    def pixels(self, images: Sequence[EncodedImage]) -> torch.Tensor:
        """Images as they are before they are rescaled and normalized: (B, 3, H, W), uint8.

        Only for a processor of which `image_processing.splits_in_two` is true.
        """
        pixels = image_cache.cached_pixels(images)
        return pixels if pixels is not None else image_processing.resize(self.processor, [decode(i) for i in images])


Inputs = TextInputs | ImageInputs


class EpochRows(torch.utils.data.Dataset, ABC):
    """Rows for a torch DataLoader that may look different in each epoch, see `batching.EpochLoader`."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose rows come next."""
        self.epoch = epoch

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitems__(self, indices: Sequence[int]) -> Columns:
        """One dict of columns."""


class Rows(EpochRows):
    """Encoded rows, the same in every epoch: a list of indices gives one dict of columns, without a detour over rows.

    Columns of token ids, and the labels beside them, are read from Arrow's buffers without `datasets` in between.
    """

    def __init__(self, encoded: Dataset, columns: list[str]) -> None:
        self.encoded = encoded.select_columns([c for c in columns if c in encoded.column_names])
        self._tokens: dict[str, TokenLists] = {}
        self._labels: np.ndarray | None = None
        schema = self.encoded.features.arrow_schema
        names = [c for c in self.encoded.column_names if c != "label"]
        if names and all(is_token_column(schema.field(n).type) for n in names):
            table = self.encoded.with_format("arrow")[:]
            self._tokens = {n: TokenLists(table.column(n)) for n in names}
            if "label" in self.encoded.column_names:
                self._labels = table.column("label").to_numpy()

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
    """Columns that a batch needs."""
    return [*inputs.columns, "label"] if labels else inputs.columns


def sample_rows(
    inputs: Inputs, encoded: Dataset, most: int, *, seed: int, among: np.ndarray | None = None
) -> np.ndarray:
    """Numbers of up to `most` rows that stand for all: drawn by the seed, texts of like length beside one another.

    Args:
        among: the rows that can be drawn. None: all.
    """
    candidates = np.arange(len(encoded)) if among is None else among
    chosen = candidates[np.sort(np.random.default_rng(seed).permutation(len(candidates))[:most])]
    lengths = inputs.lengths(encoded)
    return chosen if lengths is None else chosen[np.argsort(lengths[chosen], kind="stable")]


def with_labels(collate: Callable[[Columns], dict[str, torch.Tensor]], batch: Columns) -> dict[str, torch.Tensor]:
    """A batch for training: the model's inputs and `labels` (B,), int64."""
    return {**collate(batch), "labels": torch.as_tensor(batch["label"], dtype=torch.long)}
