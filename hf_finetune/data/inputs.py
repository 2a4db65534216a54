"""Convert canonical rows to model inputs: `TextInputs` and `ImageInputs`, with the same methods.

Legend: B rows, T tokens, H height, W width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from datasets.fingerprint import generate_random_fingerprint
from transformers import BaseImageProcessor, PreTrainedTokenizerBase

from hf_finetune.data import image_cache, image_processing
from hf_finetune.data.config import Kind
from hf_finetune.data.image_decoding import EncodedImage, decode_pieces
from hf_finetune.data.labels import has_words, label_array
from hf_finetune.data.long.base import LongTexts, Reader, Texts
from hf_finetune.data.long.config import TRUNCATE
from hf_finetune.data.long.sliding import VOTES
from hf_finetune.data.long.windows import Windowed, split_windows
from hf_finetune.data.ragged import Ragged, flat
from hf_finetune.data.rows import in_memory
from hf_finetune.data.tokens import TokenLists, is_token_column, pack, pad, runs_of_texts
from hf_finetune.data.truncation import Truncation, WholeLengths, truncation, whole_lengths
from hf_finetune.utils import hashing

# Columns of rows, by name.
Columns = dict[str, Any]


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
    long: LongTexts = TRUNCATE
    """What is read of longer texts. Pairs are always truncated."""

    @property
    def columns(self) -> list[str]:
        """Columns that `collate` reads."""
        return list(self.tokenizer.model_input_names)

    def for_inference(self) -> TextInputs:
        """Return these inputs without caching of encoded rows."""
        return self

    def truncating(self) -> TextInputs:
        """Return the same inputs, with long texts cut off."""
        return replace(self, long=TRUNCATE)

    @property
    def windows(self) -> int:
        """Windows of a row at most: rows of the tensors that `collate` makes of it."""
        return self.long.windows

    @property
    def reader(self) -> Reader:
        """How many tokens are read at once."""
        return Reader(self.max_length, self.tokenizer.num_special_tokens_to_add())

    def encode(self, rows: Dataset) -> Dataset:
        """Tokenize once: add `input_ids` (and `token_type_ids` where the model has them) and `length`."""
        # Else datasets hashes the whole vocabulary, a tenth of a second each time, for a cache that is not read.
        fingerprint = generate_random_fingerprint()
        return rows.map(self._token_lists, batched=True, load_from_cache_file=False, new_fingerprint=fingerprint)

    def encode_in_memory(self, rows: Dataset) -> Dataset:
        """Return the token columns alone. For rows that are read once: takes a third of the time of `encode`."""
        names = [n for n in ("text", "text_pair", "row") if n in rows.column_names]
        return in_memory(self._token_lists({n: rows[n][:] for n in names}))

    def _token_lists(self, batch: dict[str, list]) -> dict[str, list]:
        names = [n for n in self.tokenizer.model_input_names if n != "attention_mask"]
        lists: dict[str, list] = {name: [] for name in names}
        for run in runs_of_texts(batch["text"]):
            part = {n: batch[n][run] for n in ("text", "text_pair", "row") if batch.get(n) is not None}
            encoded = self.encode_batch(part)
            for name in names:
                lists[name] += encoded[name]
        return {**lists, "length": [len(ids) for ids in lists["input_ids"]]}

    def encode_batch(self, batch: dict[str, list], **options: Any) -> Mapping[str, list]:
        """Tokenize the texts of a batch, or its pairs where `text_pair` is present and not None.

        Raises:
            InputError: see `utils.panics.tokenize`.
        """
        texts = Texts(batch["text"], batch.get("text_pair"), batch.get("row"))
        long = self.long if texts.pairs is None else TRUNCATE
        return long.encode(self.tokenizer, texts, self.max_length, **options)

    def one_way(self, rows: Dataset) -> str | None:
        """Return why there is only one way to read long texts of these rows, for messages. None: `long` has several."""
        return "pairs of texts can only be truncated" if "text_pair" in rows.column_names else None

    def truncation(self, encoded: Dataset, sample: int = 2000, *, limit: int | None = None) -> Truncation:
        """Estimate how many rows are cut off, and the length that would hold nearly all, see `data.truncation`."""
        lengths, pairs = self.whole_lengths(encoded, sample), "text_pair" in encoded.column_names
        return truncation(lengths, self.long, self.reader, limit=limit, pairs=pairs)

    def whole_lengths(self, encoded: Dataset, sample: int = 2000) -> WholeLengths:
        """Estimate the lengths of whole texts, of `sample` cut-off ones at most, see `data.truncation`."""
        return whole_lengths(self.tokenizer, encoded, self.long, self.reader, sample=sample)

    def truncated_share(self, encoded: Dataset, sample: int = 2000) -> float | None:
        """Estimate the share of rows longer than `max_length`, see `truncation`."""
        return self.truncation(encoded, sample).share

    def lengths(self, encoded: Dataset) -> np.ndarray | None:
        """Return the number of tokens of each row, shape (rows,)."""
        return np.asarray(encoded["length"][:], dtype=np.int64)

    def row_keys(self, encoded: Dataset) -> list[str]:
        """Identify what the model reads of each encoded row: a hash of its tokens."""
        return hashing.of_rows(encoded.select_columns([c for c in self.columns if c in encoded.column_names]))

    def collate(self, batch: dict[str, list]) -> dict[str, torch.Tensor]:
        """Pad encoded rows to the longest of them: input_ids (B, T), token_type_ids if there are any.

        attention_mask (B, T) is added where a row is shorter than another; see `data.tokens.pad`. Where long texts are
        read in windows, these are the rows of the tensors, and `long.shares` names the tensor of their shares (B, K).
        """
        columns = self._token_columns(batch)
        if (shares := self.long.shares) is None:
            return self._pad(columns)
        assert isinstance(self.long, Windowed), "other ways read one window"
        windows, shares_BK = split_windows(columns, self.max_length, self.long.weights)
        return {**self._pad(windows), shares: shares_BK}

    def _pad(self, columns: dict[str, list]) -> dict[str, torch.Tensor]:
        tokenizer = self.tokenizer
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
    windows: ClassVar[int] = 1

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

    def row_keys(self, encoded: Dataset) -> list[str]:
        """Identify what the model reads of each row: a hash of its image, or of the place of its file or its cached
        pixels, and of how it becomes a tensor. The data's fingerprint identifies the content of files."""
        processing = f"{self.processor.to_json_string()} {self.decode_once}"
        images = (image for part in image_cache.images_of(encoded) for image in part)
        return [hashing.of_json([processing, image["path"], hashing.of_bytes(image["bytes"])]) for image in images]

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
    values = np.asarray(flat(batch["label"]))
    labels = torch.as_tensor(values, dtype=torch.long if values.ndim == 1 else torch.float32)
    return {**collate(batch), "labels": labels}


def without_votes(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of the network, which knows nothing of votes."""
    return {name: value for name, value in batch.items() if name != VOTES}
