"""Choose the layer that a head on frozen features reads, where `model.pooling` is auto and has become the mean.

The top layer of a sentence encoder was trained for the meaning of whole texts. Of tone, style and spam a layer below
says more: with eight labels a class, layer 4 of 6 of MiniLM had .898 on spam where the top one had .815. So heads on a
few layers are cross-validated on the same training rows, and the one with the least log loss is taken. The layers above
it are dropped, which a stock class can express.

Legend: N rows, B rows of a batch, T tokens, D features, C classes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from scipy.special import entr
from torch import nn
from transformers import PreTrainedConfig

from hf_finetune.data.duplicates import first_sources
from hf_finetune.data.inputs import TextInputs
from hf_finetune.data.labels import labels_of
from hf_finetune.data.long.sliding import VOTES
from hf_finetune.data.long.windows import mean_of_windows
from hf_finetune.data.unlabeled import labeled_rows
from hf_finetune.evaluation.folds import fold_numbers
from hf_finetune.models.families import stock_head
from hf_finetune.models.heads.pooling import masked_mean
from hf_finetune.models.modules import encoder_layers
from hf_finetune.models.surgery.gather_mean import GatherMean
from hf_finetune.models.surgery.layers import KeepLayers
from hf_finetune.pipeline.build_model import build_model
from hf_finetune.pipeline.context import RunInput
from hf_finetune.pipeline.frozen_features import draw_rows, frozen_features, held_out_scores
from hf_finetune.pipeline.out_of_fold import all_rows
from hf_finetune.utils.messages import listed, silenced

MOST_ROWS = 1_000
"""Rows on which layers are compared."""
LEAST_ROWS = 12
"""Fewer leave nothing to compare."""
LEAST_LAYERS = 4
"""A network with fewer has no layer to spare."""
DEPTHS = (5 / 6, 2 / 3)
"""Layers that are compared with the top one, as shares of the depth. Of MiniLM's six layers the best one was among them
on three sets: layer 4 of movie and spam, the top one of sections."""
COMPARED_AT = 0.01
"""scikit-learn's C of the heads that are compared, on standardized features. Their log loss is compared as it is: of 16
rows, the best temperature of separable features says little (on spam a lower layer was chosen less often by it)."""
TANH_SCALE = 0.1
"""Scale of the hidden layer before tanh: at 0.5 the features of layers 4 and 5 of MiniLM are bent (their logits and
those of a linear head correlate by .2 and .03 on sections, at 0.1 by .999), so that no linear model stands for them."""
FOLDS, MOST_FITTED = 5, 4_000
"""With more rows times classes than this, two folds judge: the fits would take seconds."""


@dataclass(frozen=True)
class LayerChoice:
    """The layer that the head reads, and what it was chosen by."""

    chosen: int
    """Counted from 1, the lowest."""
    layers: int
    """Those of the checkpoint."""
    log_loss: dict[str, float]
    """Of a head on each layer that was compared, on rows that it was not fitted to, in nats."""
    entropy: float
    """Of the labels of these rows, in nats: the log loss of their frequencies."""
    rows: int
    seconds: float

    @property
    def explains(self) -> bool:
        """Whether the features of a layer say more of the labels than their frequencies."""
        return min(self.log_loss.values()) < self.entropy

    @property
    def is_lower(self) -> bool:
        """Whether the layers above are dropped."""
        return self.chosen < self.layers

    @property
    def cost(self) -> float:
        """What the network costs, as a share of one of all layers. The layer that gathers the mean counts as one."""
        return (self.chosen + 1) / (self.layers + 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the section of result.json."""
        losses = {layer: round(loss, 4) for layer, loss in self.log_loss.items()}
        return {
            "chosen": self.chosen,
            "layers": self.layers,
            "log_loss": losses,
            "entropy": round(self.entropy, 4),
            "rows": self.rows,
            "seconds": round(self.seconds, 2),
        }

    def __str__(self) -> str:
        losses = listed([f"{loss:.3f} on layer {layer}" for layer, loss in self.log_loss.items()])
        why = f"log loss of heads on frozen features, cross-validated on {self.rows:,} rows: {losses}"
        if not self.is_lower:
            return f"model.pooling auto: the top layer of {self.layers}: {why}"
        return (
            f"model.pooling auto: layer {self.chosen} of {self.layers}: {why}; the layers above are dropped; "
            "--model.surgery '[GatherMean]' reads the top one"
        )


def choose_layer(loaded: RunInput, *, most_rows: int = MOST_ROWS) -> tuple[RunInput, LayerChoice | None]:
    """Return the input of a run whose head reads the best layer, and the choice. None: there was none to make.

    Args:
        most_rows: on which there is time to compare the layers. 0: the top one stays.
    """
    if not most_rows or not _may_choose(loaded):
        return loaded, None
    started, context, task = time.perf_counter(), loaded.context, loaded.data.task
    # With folds the result trains on the validation rows, too.
    splits, has_folds = loaded.data.splits, context.recipe.evaluate.folds is not None
    rows = draw_rows(task, labeled_rows(all_rows(splits) if has_folds else splits.train), most_rows)
    labels_N, first_N = labels_of(rows), first_sources(rows, by_content=True)
    folds = _count_folds(labels_N, first_N)
    if len(rows) < LEAST_ROWS or len(np.unique(labels_N)) < 2 or folds < 2:
        return loaded, None
    with silenced():  # The run builds it again, and notes what there is to note.
        network = build_model(context, loaded.data).network
    layers = layers_of_depth(len(encoder_layers(network)) - 1)
    if len(layers) == 1:
        return loaded, None
    fold_N, losses = fold_numbers(first_N, labels_N, count=folds, seed=0), {}
    for layer, features_ND in _means_of_layers(loaded, network, rows, layers).items():
        scores_NC = held_out_scores(task, features_ND, labels_N, fold_N, inverse_strength=COMPARED_AT)
        losses[layer] = task.values(labels_N, scores_NC)["log_loss"]
    # Another process may round differently.
    (chosen,) = broadcast_object_list([min(losses, key=lambda layer: losses[layer])])
    named = {str(layer): loss for layer, loss in losses.items()}
    entropy = float(entr(np.unique(labels_N, return_counts=True)[1] / len(labels_N)).sum())
    choice = LayerChoice(chosen, layers[0], named, entropy, len(rows), time.perf_counter() - started)
    return _with_layer(loaded, network.config, choice), choice


def layers_of_depth(depth: int) -> list[int]:
    """Return the layers of a checkpoint that are compared, the top one first."""
    return [depth, *dict.fromkeys(round(share * depth) for share in DEPTHS)] if depth >= LEAST_LAYERS else [depth]


def lower_layer(pooling_choice: Mapping[str, Any] | None) -> int | None:
    """Return the layer that a head reads, if those above it were dropped.

    Args:
        pooling_choice: see `RunInput.pooling_choice`.
    """
    layer = (pooling_choice or {}).get("layer")
    return None if layer is None or layer["chosen"] == layer["layers"] else int(layer["chosen"])


def _with_layer(loaded: RunInput, config: PreTrainedConfig, choice: LayerChoice) -> RunInput:
    """Return the input with a recipe whose network ends with the chosen layer."""
    recipe, stock = loaded.context.recipe, stock_head(config)
    if choice.is_lower:
        # Before gelu and relu there is a bias, beside which bfloat16 would round a smaller scale away.
        scale = TANH_SCALE if stock is not None and stock.activation == "tanh" else None
        surgery = (KeepLayers(first=choice.chosen), GatherMean(hidden_scale=scale))
        recipe = replace(recipe, model=replace(recipe.model, surgery=surgery))
    assert loaded.pooling_choice is not None, "see `_may_choose`"
    pooling = {**loaded.pooling_choice, "layer": choice.to_dict()}
    return replace(loaded.variant(recipe), pooling_choice=pooling, notes=(*loaded.notes, str(choice)))


def _may_choose(loaded: RunInput) -> bool:
    """Whether the head is all that trains, of classes, and reads the mean because that was chosen. Groups of rows that
    are to stay together would have to do so here, too: what a lower layer knows may be their author."""
    chosen, recipe = loaded.pooling_choice, loaded.context.recipe
    is_mean = chosen is not None and chosen["chosen"] == "mean" and recipe.model.surgery == (GatherMean(),)
    is_head = recipe.effective_method == "head" and recipe.evaluate.group is None
    return is_mean and is_head and loaded.data.task.has_classes


def _means_of_layers(
    loaded: RunInput, network: nn.Module, rows: Dataset, layers: Sequence[int]
) -> dict[int, np.ndarray]:
    """Return the mean of the tokens after each layer, from one forward pass; shape (N, D) each, in row order."""
    inputs = loaded.data.inputs
    assert isinstance(inputs, TextInputs), "see `choose_pooling`"
    batch: dict[str, torch.Tensor] = {}
    means: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}

    def collate(some: Any) -> dict[str, torch.Tensor]:
        batch.clear()
        batch.update(inputs.collate(some))
        return dict(batch)

    def note(layer: int, _module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
        states_BTD, mask_BT = output[0] if isinstance(output, tuple) else output, batch.get("attention_mask")
        mean_BD = masked_mean(states_BTD, None if mask_BT is None else mask_BT.to(states_BTD.device)).cpu()
        means[layer].append(mean_of_windows(mean_BD, batch[VOTES]) if VOTES in batch else mean_BD)

    encoded, modules = inputs.encode(rows), encoder_layers(network)
    # In the order of their computation.
    order = np.argsort(encoded["length"][:], kind="stable")
    hooks = [modules[layer - 1].register_forward_hook(partial(note, layer)) for layer in layers]
    try:
        title = "choose the layer"
        frozen_features(loaded.context, network, inputs, encoded.select(order), progress=title, collate=collate)
    finally:
        for hook in hooks:
            hook.remove()
    back = np.argsort(order)
    return {layer: torch.cat(parts).numpy()[back] for layer, parts in means.items()}


def _count_folds(labels_N: np.ndarray, first_N: np.ndarray) -> int:
    """Return how many folds judge, see `fold_numbers`."""
    most = FOLDS if len(labels_N) * len(np.unique(labels_N)) <= MOST_FITTED else 2
    return min(most, len(np.unique(first_N)), int(np.bincount(labels_N).max()))
