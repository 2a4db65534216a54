"""From canonical rows to tensors: one class for texts and one for pictures, with the same two methods.

Legend: B rows, T tokens, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import BaseImageProcessor, PreTrainedTokenizerBase

from hf_finetune.data.image import decode


@dataclass(frozen=True)
class TextInputs:
    """Texts, or pairs of texts, as padded token ids."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int

    def encode(self, rows: Dataset) -> Dataset:
        """Tokenise once: adds `input_ids` (and `token_type_ids` where the model has them) and `length`; drops nothing."""
        names = [n for n in self.tokenizer.model_input_names if n != "attention_mask"]

        def tokenise(batch: dict[str, list]) -> dict[str, list]:
            encoded = self._tokenise(batch)
            return {**{n: encoded[n] for n in names}, "length": [len(ids) for ids in encoded["input_ids"]]}

        return rows.map(tokenise, batched=True, load_from_cache_file=False)

    def _tokenise(self, batch: dict[str, list], **options: Any) -> dict[str, list]:
        pairs = batch.get("text_pair")
        return self.tokenizer(
            batch["text"], pairs, truncation=True, max_length=self.max_length, return_attention_mask=False, **options
        )

    def truncated_share(self, encoded: Dataset, sample: int = 2000) -> float:
        """Share of rows that do not fit in `max_length`, counted on the rows that fill it (at most `sample` of them)."""
        full = np.flatnonzero(np.asarray(encoded["length"][:]) >= self.max_length)
        if len(full) == 0:
            return 0.0
        looked_at = full[:sample]
        batch = encoded.select(looked_at).to_dict()
        whole = self.tokenizer(batch["text"], batch.get("text_pair"), return_attention_mask=False, verbose=False)
        longer = sum(len(ids) > self.max_length for ids in whole["input_ids"])
        return len(full) / len(encoded) * longer / len(looked_at)

    def lengths(self, encoded: Dataset) -> np.ndarray | None:
        """Tokens of each row, shape (rows,)."""
        return np.asarray(encoded["length"][:], dtype=np.int64)

    def collate(self, batch: dict[str, list]) -> dict[str, torch.Tensor]:
        """Pad encoded rows to the longest of them: input_ids and attention_mask (B, T), token_type_ids if there are any."""
        names = [n for n in self.tokenizer.model_input_names if n in batch]
        return dict(self.tokenizer.pad({n: batch[n] for n in names}, return_tensors="pt"))


@dataclass(frozen=True)
class ImageInputs:
    """Pictures as the checkpoint's own processor makes them: resized, scaled, normalised."""

    processor: BaseImageProcessor

    def encode(self, rows: Dataset) -> Dataset:
        """Pictures are decoded batch by batch: nothing to do beforehand."""
        return rows

    def lengths(self, encoded: Dataset) -> np.ndarray | None:
        """Every picture is of one size: None."""
        return None

    def collate(self, batch: dict[str, list]) -> dict[str, torch.Tensor]:
        """Decode and transform: pixel_values (B, 3, H, W), float32."""
        pictures = [decode(image) for image in batch["image"]]
        return {"pixel_values": self.processor(pictures, return_tensors="pt")["pixel_values"]}


Inputs = TextInputs | ImageInputs


class Rows(torch.utils.data.Dataset):
    """Encoded rows for a torch DataLoader: a list of indices gives one dict of columns, without a detour over rows."""

    def __init__(self, encoded: Dataset, columns: list[str]) -> None:
        self.encoded = encoded.select_columns([c for c in columns if c in encoded.column_names])

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.encoded[index]

    def __getitems__(self, indices: list[int]) -> dict[str, list]:
        return self.encoded[[int(i) for i in indices]]


def columns_of(inputs: Inputs, *, labels: bool) -> list[str]:
    """Columns that a batch needs."""
    own = inputs.tokenizer.model_input_names if isinstance(inputs, TextInputs) else ["image"]
    return [*own, "label"] if labels else list(own)


def with_labels(
    collate: Callable[[dict[str, list]], dict[str, torch.Tensor]], batch: dict[str, list]
) -> dict[str, Any]:
    """A batch for training: the model's inputs and `labels` (B,), int64."""
    return {**collate(batch), "labels": torch.tensor(batch["label"], dtype=torch.long)}
