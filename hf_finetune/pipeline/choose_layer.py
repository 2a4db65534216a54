"""Choose the layer that a head on frozen features reads, where `model.pooling` is auto and has become the mean.

The top layer of a sentence encoder was trained for the meaning of whole texts. Of tone, style and spam a layer below
says more: with eight labels a class, layer 4 of 6 of MiniLM had .888 on spam where the top one had .825. So heads on a
few layers are cross-validated on the same training rows, and the one with the least log loss is taken. The layers above
it are dropped, which a stock class can express.

Legend: N rows, B rows of a batch, T tokens, D features, C classes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import PreTrainedConfig

from hf_finetune.data.duplicates import first_sources
from hf_finetune.data.inputs import Rows, TextInputs, columns_of
from hf_finetune.data.labels import labels_of
from hf_finetune.data.long.sliding import VOTES
from hf_finetune.data.long.windows import mean_of_windows
from hf_finetune.data.unlabeled import labeled_rows
from hf_finetune.evaluation.folds import fold_numbers
from hf_finetune.models.families import stock_head
from hf_finetune.models.heads.pooling import masked_mean
from hf_finetune.models.modules import classification_layers, encoder_layers
from hf_finetune.models.surgery.gather_mean import GatherMean
from hf_finetune.models.surgery.layers import KeepLayers
from hf_finetune.pipeline.build_model import build_model
from hf_finetune.pipeline.context import RunInput
from hf_finetune.pipeline.out_of_fold import all_rows
from hf_finetune.tasks.base import HeadFit, Task
from hf_finetune.training.warm_start import FittedHead, head_features
from hf_finetune.utils.messages import listed, silenced

MOST_ROWS = 1_000
"""Rows on which layers are compared."""
LEAST_ROWS = 12
"""Fewer leave nothing to compare."""
LEAST_LAYERS = 4
"""A network with fewer has no layer to spare."""
DEPTHS = (5 / 6, 2 / 3)
"""Layers that are compared with the top one, as shares of the depth. Below, the features of three sets were worse."""
COMPARED_AT = 0.01
"""scikit-learn's C of the heads that are compared, on standardized features."""
STRAIGHT_TANH = 0.1
"""Scale of the hidden layer before tanh: at 0.5 the features of layers 4 and 5 of MiniLM are bent (their logits and
those of a linear head correlate by .2 on eight sections, at 0.1 by .999), so that no linear model stands for them."""
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
    rows: int
    seconds: float
    top_heads: tuple[FittedHead, ...] = ()
    """Fitted to the top layer, if a lower one was chosen: what trains all layers may start from them."""

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
    started, data = time.perf_counter(), loaded.data
    # With folds the result trains on the validation rows, too.
    splits, has_folds, task = data.splits, loaded.context.recipe.evaluate.folds is not None, data.task
    labeled = labeled_rows(all_rows(splits) if has_folds else splits.train)
    drawn = np.sort(np.random.default_rng(0).permutation(len(labeled))[:most_rows])
    rows = labeled.select(task.with_every_output(drawn, labels_of(labeled)))
    labels_N, first_N = labels_of(rows), first_sources(rows, by_content=True)
    folds = _count_folds(labels_N, first_N)
    if len(rows) < LEAST_ROWS or len(np.unique(labels_N)) < 2 or folds < 2:
        return loaded, None
    with silenced():  # The run builds it again, and notes what there is to note.
        network = build_model(loaded.context, data).network
    layers = layers_of_depth(len(encoder_layers(network)) - 1)
    if len(layers) == 1:
        return loaded, None
    *of_layers, top_ND = _features(loaded, network, rows, layers)
    fold_N = fold_numbers(first_N, labels_N, count=folds, seed=0)
    losses = {
        layer: _held_out_loss(task, features_ND, labels_N, fold_N)
        for layer, features_ND in zip(layers, of_layers, strict=True)
    }
    # Another process may round differently.
    (chosen,) = broadcast_object_list([min(losses, key=lambda layer: losses[layer])])
    fit = HeadFit(COMPARED_AT, first_N=first_N)
    heads = () if chosen == layers[0] else (task.fit_head(top_ND, labels_N, fit),)
    named = {str(layer): loss for layer, loss in losses.items()}
    choice = LayerChoice(chosen, layers[0], named, len(rows), time.perf_counter() - started, heads)
    return _with_layer(loaded, network.config, choice), choice


def layers_of_depth(depth: int) -> list[int]:
    """Return the layers of a checkpoint that are compared, the top one first."""
    return [depth, *dict.fromkeys(round(share * depth) for share in DEPTHS)] if depth >= LEAST_LAYERS else [depth]


def _with_layer(loaded: RunInput, config: PreTrainedConfig, choice: LayerChoice) -> RunInput:
    """Return the input with a recipe whose network ends with the chosen layer."""
    recipe, stock = loaded.context.recipe, stock_head(config)
    if choice.is_lower:
        # Before gelu and relu there is a bias, beside which bfloat16 would round a smaller scale away.
        scale = STRAIGHT_TANH if stock is not None and stock.activation == "tanh" else None
        surgery = (KeepLayers(first=choice.chosen), GatherMean(hidden_scale=scale))
        recipe = replace(recipe, model=replace(recipe.model, surgery=surgery))
    assert loaded.pooling_choice is not None, "see `_may_choose`"
    pooling = {**loaded.pooling_choice, "layer": choice.to_dict()}
    return replace(loaded.variant(recipe), pooling_choice=pooling, notes=(*loaded.notes, str(choice)))


def _may_choose(loaded: RunInput) -> bool:
    """Whether the head is all that trains, of classes, and reads the mean because that was chosen."""
    chosen, recipe = loaded.pooling_choice, loaded.context.recipe
    is_mean = chosen is not None and chosen["chosen"] == "mean" and recipe.model.surgery == (GatherMean(),)
    return is_mean and recipe.effective_method == "head" and loaded.data.task.has_classes


def _features(loaded: RunInput, network: nn.Module, rows: Any, layers: Sequence[int]) -> list[np.ndarray]:
    """Return the mean of the tokens after each layer, and what the classification layer reads, of one forward pass;
    shape (N, D) each, in row order."""
    context, inputs = loaded.context, loaded.data.inputs
    assert isinstance(inputs, TextInputs), "see `choose_pooling`"
    encoded = inputs.encode(rows)
    # Rows of similar length share a batch.
    order = np.argsort(encoded["length"][:], kind="stable")
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

    modules = encoder_layers(network)
    hooks = [modules[layer - 1].register_forward_hook(partial(note, layer)) for layer in layers]
    try:
        (read_ND,) = head_features(
            network.to(context.device),
            classification_layers(network)[:1],
            Rows(encoded.select(order), columns_of(inputs, labels=False)),
            collate,
            batch_size=max(1, context.recipe.train.per_device_eval_batch_size // inputs.windows),
            autocast=context.autocast,
            progress="choose the layer",
        )
    finally:
        for hook in hooks:
            hook.remove()
    back = np.argsort(order)
    return [features_ND[back] for features_ND in (*(torch.cat(means[layer]).numpy() for layer in layers), read_ND)]


def _count_folds(labels_N: np.ndarray, first_N: np.ndarray) -> int:
    """Return how many folds judge, see `fold_numbers`."""
    most = FOLDS if len(labels_N) * len(np.unique(labels_N)) <= MOST_FITTED else 2
    return min(most, len(np.unique(first_N)), int(np.bincount(labels_N).max()))


def _held_out_loss(task: Task, features_ND: np.ndarray, labels_N: np.ndarray, fold_N: np.ndarray) -> float:
    """Return the log loss of rows by heads that are fitted to the rows of the other folds."""
    logits_NC = np.zeros((len(features_ND), len(task.labels)))
    for fold in np.unique(fold_N):
        fitted_N = fold_N != fold
        # A regression needs two classes. All layers lack these rows.
        if len(np.unique(labels_N[fitted_N])) > 1:
            head = task.fit_head(features_ND[fitted_N], labels_N[fitted_N], HeadFit(COMPARED_AT, explains=False))
            logits_NC[~fitted_N] = features_ND[~fitted_N] @ head.weight_CD.numpy().T + head.bias_C.numpy()
    return task.values(labels_N, task.training_scores(logits_NC))["log_loss"]
