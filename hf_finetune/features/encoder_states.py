"""Features of all layers of a checkpoint, pooled in several ways, from one forward pass.

Legend: N rows, B rows of a batch, T tokens, D width, L layers, P poolings, H height and W width of a feature map.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from hf_finetune.data.config import Kind
from hf_finetune.data.duplicates import dataset_digests
from hf_finetune.data.inputs import ImageInputs, Inputs, Rows, TextInputs, columns_of
from hf_finetune.errors import InputError
from hf_finetune.evaluation.logits import Collate, batches_by_tokens, to_device
from hf_finetune.features.extractors.base import StatePooling
from hf_finetune.models.checkpoint import LocalCheckpoint, inspect_checkpoint
from hf_finetune.models.families import tokens_before_patches
from hf_finetune.models.heads.pooling import masked_max, masked_mean
from hf_finetune.models.loading import load_classifier
from hf_finetune.models.modules import encoder
from hf_finetune.models.processors import load_image_processor, load_tokenizer
from hf_finetune.utils import environment, hashing
from hf_finetune.utils.console import Progress
from hf_finetune.utils.disk_cache import CacheUnavailable, building, entry_folder, find
from hf_finetune.utils.messages import silenced

POOLINGS: tuple[StatePooling, ...] = ("mean", "cls", "max")
FORMAT = 1
TOKENS_PER_BATCH, IMAGES_PER_BATCH = 4096, 32
ORDER = "rows.npy"


@dataclass(frozen=True)
class FrozenEncoder:
    """A pretrained encoder, with its tokenizer or image processor."""

    name: str
    model: PreTrainedModel
    inputs: Inputs
    weights: str
    """Commit of the checkpoint on the Hub, or the SHA-256 of its weights."""

    @property
    def poolings(self) -> tuple[StatePooling, ...]:
        """How its hidden states are pooled: feature maps have no first token."""
        return ("mean", "max") if self.has_maps else POOLINGS

    @property
    def has_maps(self) -> bool:
        """Whether its hidden states are feature maps of a convolutional network."""
        return not hasattr(self.model.config, "num_attention_heads") or hasattr(self.model.config, "depths")

    @property
    def layers(self) -> int:
        """Number of layers, or of the stages of a convolutional network. Layer 0 is below the first one."""
        config = self.model.config
        return len(config.depths) if hasattr(config, "depths") else int(config.num_hidden_layers)

    def number(self, layer: int) -> int:
        """Return the number of a layer from 0, the embeddings, to `layers`.

        Args:
            layer: below 0: counted from the top, whose layer is -1.

        Raises:
            InputError: there is no such layer.
        """
        number = layer + self.layers + 1 if layer < 0 else layer
        if not 0 <= number <= self.layers:
            raise InputError(
                f"layer {layer}: {self.name} has the layers 0 to {self.layers}, or -1 to {-self.layers - 1} from the "
                "top"
            )
        return number


@lru_cache(maxsize=2)
def load_encoder(checkpoint: str, kind: Kind, max_length: int) -> FrozenEncoder:
    """Load a checkpoint, or the result of a run, without its head.

    Raises:
        InputError: see `inspect_checkpoint`, `load_classifier` and `load_tokenizer`.
    """
    local = inspect_checkpoint(checkpoint)
    task: Any = "text-classification" if kind == "text" else "image-classification"
    with silenced():
        model = encoder(load_classifier(local, task=task, labels=("0", "1")).model)
        inputs = _inputs(local, kind, max_length)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    network: nn.Module = model
    network.to(device or torch.device("cpu")).eval()
    weights = local.commit or hashing.of_files(*local.weights)
    return FrozenEncoder(checkpoint, model, inputs, weights)


def _inputs(local: LocalCheckpoint, kind: Kind, max_length: int) -> Inputs:
    if kind == "image":
        return ImageInputs(load_image_processor(local), decode_once=False)
    return TextInputs(load_tokenizer(local, max_length=max_length, sample=[]), max_length)


def encoder_features(
    source: FrozenEncoder,
    rows: Dataset,
    requested: Iterable[tuple[int, StatePooling]],
    *,
    cache_gb: float = 0.0,
) -> dict[tuple[int, StatePooling], np.ndarray]:
    """Return features of rows by layer and pooling, shape (N, D), float32.

    Args:
        rows: canonical rows.
        requested: layers, see `FrozenEncoder.number`, and poolings.
        cache_gb: budget of the disk cache in gigabytes. All layers and poolings are cached, so that further ones, and
            those of later runs, need no forward pass. 0: nothing is cached.

    Raises:
        InputError: there is no such layer, or feature maps would be read by their first token.
    """
    numbers = {(layer, pooling): source.number(layer) for layer, pooling in requested}
    for _, pooling in numbers:
        if pooling not in source.poolings:
            raise InputError(f"pooling {pooling}: {source.name} has feature maps; expected mean or max")
    if not len(rows):
        raise InputError("expected rows to read, got none")
    if cache_gb > 0:
        try:
            table = _cached(source, rows, cache_gb)
            return {(layer, pooling): table(number, pooling) for (layer, pooling), number in numbers.items()}
        except CacheUnavailable:
            pass
    parts: dict[tuple[int, StatePooling], list[np.ndarray]] = {key: [] for key in numbers}
    order: list[int] = []
    for indices, states in _states(source, rows):
        order += indices
        for (layer, pooling), number in numbers.items():
            # A copy: of a view, all layers would stay in the memory.
            parts[layer, pooling].append(states[number][:, source.poolings.index(pooling)].copy())
    places = np.argsort(order)
    return {key: np.concatenate(batches)[places] for key, batches in parts.items()}


@dataclass(frozen=True)
class _Table:
    """Cached features of all layers."""

    folder: Path
    widths: Sequence[int]
    poolings: Sequence[str]
    places_N: np.ndarray

    def __call__(self, layer: int, pooling: StatePooling) -> np.ndarray:
        """Return the features of a layer, shape (N, D)."""
        shape = (len(self.places_N), len(self.poolings), self.widths[layer])
        stored_NPD = np.memmap(self.folder / f"layer-{layer}.bin", np.float32, "r", shape=shape)
        return np.asarray(stored_NPD[:, self.poolings.index(pooling)])[self.places_N]


def _cached(source: FrozenEncoder, rows: Dataset, cache_gb: float) -> _Table:
    """Return the cached features of all layers; compute them if they are not cached.

    Raises:
        CacheUnavailable: they cannot be cached.
    """
    key = {
        "format": FORMAT,
        "weights": source.weights,
        "rows": hashing.of_json([digest.hex() for digest in dataset_digests(rows)]),
        "inputs": _inputs_key(source.inputs),
        "attention": source.model.config._attn_implementation,
        "device": source.model.device.type,
        "versions": {name: environment.versions()[name] for name in ("torch", "transformers")},
    }
    folder = entry_folder("features", key)

    def read(folder: Path, about: dict[str, Any]) -> _Table:
        order = np.load(folder / ORDER, allow_pickle=False)
        return _Table(folder, [int(width) for width in about["widths"]], about["poolings"], np.argsort(order))

    if (table := find(folder, read)) is not None:
        return table
    widths = _widths(source, rows)
    needed = len(rows) * (sum(widths) * len(source.poolings) * 4 + 8)
    about = {"format": FORMAT, "widths": widths, "poolings": list(source.poolings)}
    order: list[int] = []
    with building(folder, needed=needed, budget_gb=cache_gb, about=about) as build:
        for indices, states in _states(source, rows):
            order += indices
            for layer, pooled_BPD in enumerate(states):
                build.append(f"layer-{layer}.bin", np.ascontiguousarray(pooled_BPD))
        build.append(ORDER, _npy(np.asarray(order, np.int64)))
    table = find(folder, read)
    if table is None:
        raise CacheUnavailable(f"{folder} was removed")
    return table


def _npy(array: np.ndarray) -> memoryview:
    file = io.BytesIO()
    np.save(file, array)
    return file.getbuffer()


def _inputs_key(inputs: Inputs) -> str:
    """Return what the tensors of a row depend on beside the row."""
    if isinstance(inputs, ImageInputs):
        return inputs.processor.to_json_string()
    return hashing.of_json([inputs.max_length, inputs.tokenizer.backend_tokenizer.to_str()])


def _widths(source: FrozenEncoder, rows: Dataset) -> list[int]:
    _, states = next(_states(source, rows.select([0]), progress=False))
    return [pooled_BPD.shape[-1] for pooled_BPD in states]


def _states(
    source: FrozenEncoder, rows: Dataset, *, progress: bool = True
) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    """Yield the indices of a batch, and its pooled states of each layer, shape (B, P, D), float32."""
    encoded = source.inputs.encode_in_memory(rows)
    lengths_N = source.inputs.lengths(encoded)
    if lengths_N is None:
        batches = [list(range(i, min(i + IMAGES_PER_BATCH, len(rows)))) for i in range(0, len(rows), IMAGES_PER_BATCH)]
    else:
        batches = batches_by_tokens(np.argsort(lengths_N, kind="stable"), lengths_N, TOKENS_PER_BATCH)
    read = Rows(encoded, columns_of(source.inputs, labels=False))
    collate: Collate = source.inputs.collate
    loader = DataLoader(read, batch_sampler=batches, collate_fn=collate)
    first = 0 if source.has_maps else tokens_before_patches(source.model.config)
    with Progress(f"features of {Path(source.name).name}", total=len(rows), quiet=not progress) as bar, torch.no_grad():
        for indices, batch in zip(batches, loader, strict=True):
            outputs = source.model(**to_device(batch, source.model.device), output_hidden_states=True)
            # The top layer after its final norm.
            states = [*outputs.hidden_states[: source.layers], outputs.last_hidden_state]
            mask_BT = batch.get("attention_mask")
            mask_BT = None if mask_BT is None else mask_BT.to(source.model.device)
            yield indices, [pool_all(each, mask_BT, source.poolings, first) for each in states]
            bar.update(len(indices))


def pool_all(
    states: torch.Tensor, mask_BT: torch.Tensor | None, poolings: Sequence[StatePooling], first: int = 0
) -> np.ndarray:
    """Return hidden states pooled in each way, shape (B, P, D), float32.

    Args:
        states: hidden states (B, T, D), or a feature map (B, D, H, W).
        mask_BT: 0 for padding. None: there is none.
        first: first token that mean and max read.
    """
    states_BTD = states.flatten(2).transpose(1, 2) if states.dim() == 4 else states
    read_BTD = states_BTD[:, first:]
    pooled = {
        "cls": lambda: states_BTD[:, 0],
        "mean": lambda: masked_mean(read_BTD, mask_BT),
        "max": lambda: masked_max(read_BTD, mask_BT),
    }
    return torch.stack([pooled[pooling]().float() for pooling in poolings], 1).cpu().numpy()
