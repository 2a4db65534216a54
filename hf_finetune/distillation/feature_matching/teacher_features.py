"""The intermediate features of a teacher for the batches of its student; `compatibility` checks that they fit.

Hidden states and embeddings are cached like logits. The teacher computes hidden states during training, from the
student's batches, if the disk has no room for them or online augmentation changes the rows in every epoch.

Legend: n rows of a chunk, b rows of a forward pass, B rows of a batch, T tokens, t tokens of a chunk, K values of a
token.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.data.inputs import ImageInputs, TextInputs
from hf_finetune.distillation.cache.hidden_states import CachedTokens, TokenLayout, cached_tokens
from hf_finetune.distillation.config import DistillationKind
from hf_finetune.distillation.feature_matching.compatibility import PixelScaling
from hf_finetune.distillation.feature_matching.pair import NetworkPair
from hf_finetune.distillation.feature_matching.recorder import FeatureRecorder
from hf_finetune.distillation.loss import FeatureLossModule
from hf_finetune.distillation.losses.base import FeatureLoss, Features, Pooling, RequiredFeatures
from hf_finetune.distillation.predictions import main_process_first
from hf_finetune.distillation.teachers.network import EncodedRows
from hf_finetune.distillation.training_rows import TOKENS, ColumnsOfViews, TeacherColumns, embedding_column
from hf_finetune.evaluation.logits import evaluating, to_device
from hf_finetune.models.families import width_of
from hf_finetune.models.kernels.narrow_last_layer import all_tokens
from hf_finetune.training.precision import exact_float32
from hf_finetune.utils.console import Progress
from hf_finetune.utils.disk_cache import CacheUnavailable
from hf_finetune.utils.timer import Timer

logger = logging.getLogger("hf_finetune.run")
# Rows of a forward pass for the cache, and of a chunk of the cache, which is in memory until it is written: twelve
# layers of an image's patches are 4 MB.
FORWARD_ROWS, CHUNK_ROWS = 32, 128


@dataclass(frozen=True)
class FeatureDistillation:
    """What a trainer needs to compare a student's features with its teacher's."""

    required: RequiredFeatures
    """Features of the student."""
    poolings: frozenset[Pooling]
    """Poolings of the embeddings that are compared."""
    losses: Mapping[int, FeatureLossModule]
    """See `DistillationLoss.feature_losses`; their weights train with the student's."""
    tokens: Callable[[dict[str, Any]], Features]
    """Returns the teacher's features of the tokens of the student's batch."""
    columns: TeacherColumns | ColumnsOfViews
    """Cached features of the teacher, by column; with online augmentation, a function that computes them for views."""
    timer: Timer = field(default_factory=Timer)
    """Measures the teacher's share of the training."""

    def of_teacher(self, batch: dict[str, Any]) -> Features:
        """Return the teacher's features of a batch, which holds its embeddings as columns."""
        with self.timer:
            features = self.tokens(batch)
            features.pooled = {pooling: batch[embedding_column(pooling)] for pooling in self.poolings}
        return features


class ComputedFeatures:
    """The teacher's features of the tokens of a student's batch, by a forward pass of the teacher.

    Args:
        required: the teacher's features; embeddings among them are left out.
        as_cached: round to float16 as the cache does, so that a student learns the same.
    """

    def __init__(self, pair: NetworkPair, required: RequiredFeatures, *, as_cached: bool = False) -> None:
        self.model, inputs, self.as_cached = pair.teacher.model, pair.teacher.classifier.inputs, as_cached
        self.recorder = FeatureRecorder(self.model, replace(required, poolings=frozenset()))
        self.scaling: PixelScaling | None = None
        if isinstance(inputs, TextInputs):
            self.names = inputs.tokenizer.model_input_names
        else:
            assert isinstance(pair.inputs, ImageInputs), "both read images"
            self.names, self.scaling = ["pixel_values"], PixelScaling.between(pair.inputs, inputs)

    def __call__(self, batch: dict[str, Any]) -> Features:
        """Return the features, without gradients, in float32."""
        inputs = {name: batch[name] for name in self.names if name in batch}
        if self.scaling is not None:
            inputs["pixel_values"] = self.scaling(inputs["pixel_values"])
        with (
            evaluating(self.model),
            all_tokens(self.model),
            torch.no_grad(),
            # Whatever the student's precision: cached states come from float32, too.
            exact_float32(),
            torch.autocast(self.model.device.type, enabled=False),
            self.recorder.recording(inputs) as features,
        ):
            self.model(**inputs)
        if self.as_cached:
            features.hidden = {layer: _rounded(x_BTD) for layer, x_BTD in features.hidden.items()}
            features.attention = {
                layer: {name: _rounded(x_BTD) for name, x_BTD in projected.items()}
                for layer, projected in features.attention.items()
            }
        return features

    def close(self) -> None:
        """Remove the hooks from the teacher."""
        self.recorder.close()


def _rounded(x_BTD: torch.Tensor) -> torch.Tensor:
    """Round values in the range of float16 to it; return float32."""
    half_BTD = x_BTD.half().float()
    return torch.where(half_BTD.isfinite(), half_BTD, x_BTD)


def feature_distillation(
    pair: NetworkPair, kinds: Sequence[DistillationKind], rows: Dataset, *, seed: int, budget_gb: float, online: bool
) -> FeatureDistillation:
    """Build what compares the features of a student with its teacher's, and cache the teacher's features.

    Args:
        kinds: the losses, with the layers from `layer_search.with_layers`.
        rows: canonical training rows.
        seed: seed of the initial projections.
        budget_gb: see `Teacher.predict`.
        online: whether online augmentation changes the rows in every epoch.
    """
    teacher, timer = pair.teacher, Timer()
    by_index = {i: kind for i, kind in enumerate(kinds) if isinstance(kind, FeatureLoss)}
    student_required, teacher_required = pair.required(by_index.values())
    generator = torch.Generator().manual_seed(seed)
    losses = {i: FeatureLossModule(kind, pair.networks, generator) for i, kind in by_index.items()}

    def embeddings(rows: Dataset | AugmentedRows, split: str) -> TeacherColumns:
        poolings = sorted(teacher_required.poolings)
        return {embedding_column(p): teacher.embeddings(rows, split, p, budget_gb=budget_gb) for p in poolings}

    def embeddings_of_views(views: AugmentedRows) -> TeacherColumns:
        with main_process_first(timer):
            return embeddings(views, f"epoch {views.epoch}")

    columns: TeacherColumns | ColumnsOfViews = embeddings_of_views if online else embeddings(rows, "train")
    tokens, token_columns = _token_features(pair, teacher_required, None if online else rows, budget_gb)
    if not callable(columns):
        columns = {**columns, **token_columns}
    return FeatureDistillation(student_required, teacher_required.poolings, losses, tokens, columns, timer)


def _token_features(
    pair: NetworkPair, required: RequiredFeatures, rows: Dataset | None, budget_gb: float
) -> tuple[Callable[[dict[str, Any]], Features], TeacherColumns]:
    """Return what takes the teacher's features of tokens from a batch, and the columns that it needs.

    Args:
        rows: rows to cache; None: compute the features of each batch.
    """
    if not required.has_tokens:
        return (lambda batch: Features(batch.get("attention_mask"))), {}
    layout = TokenLayout.of(required, width_of(pair.networks.teacher))
    states = None if rows is None else _cached_states(pair, layout, required, rows, budget_gb)
    if states is None:
        return ComputedFeatures(pair, required, as_cached=True), {}
    return partial(_from_column, layout), {TOKENS: states}


def _cached_states(
    pair: NetworkPair, layout: TokenLayout, required: RequiredFeatures, rows: Dataset, budget_gb: float
) -> CachedTokens | None:
    """Return the teacher's hidden states of the rows, computed if they are not cached; None if there is no room."""
    inputs, encoded = pair.teacher.classifier.inputs, EncodedRows.of(rows, pair.inputs)
    bar = Progress("the teacher's hidden states", total=len(rows))
    with bar, closing(ComputedFeatures(pair, required)) as features:
        states = _TokenStates(pair, features, layout, encoded, bar)
        key = {
            **pair.teacher.cache_key(encoded),
            "tokens": [layout.hidden, layout.attention, required.skipped_tokens],
            "inputs": inputs.processor.to_json_string() if isinstance(inputs, ImageInputs) else features.names,
        }
        try:
            return cached_tokens(
                key, states.tokens_N, states, values=layout.values, size=CHUNK_ROWS, budget_gb=budget_gb
            )
        except CacheUnavailable as reason:
            logger.warning(
                "the teacher's hidden states are not cached, and it reads the rows of every step again: %s", reason
            )
            return None


class _TokenStates:
    """Computes the teacher's hidden states of rows, in float32, a chunk of rows at a time.

    Args:
        layout: what is cached of a token.
        rows: encoded for the student; the teacher reads the same tokens.
        bar: counts the rows.
    """

    def __init__(
        self, pair: NetworkPair, features: ComputedFeatures, layout: TokenLayout, rows: EncodedRows, bar: Progress
    ) -> None:
        self.inputs, self.features, self.layout, self.rows, self.bar = pair.inputs, features, layout, rows, bar
        # All images have the same number of tokens.
        lengths_N = rows.lengths_N
        self.tokens_N = np.full(len(rows.rows), self._forward([0])[0].shape[1]) if lengths_N is None else lengths_N

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """Return the hidden states (t, K), float16, of the tokens of rows (n,), row after row."""
        order = np.argsort(self.tokens_N[numbers], kind="stable")
        states: dict[int, np.ndarray] = {}
        for start in range(0, len(order), FORWARD_ROWS):
            places = order[start : start + FORWARD_ROWS]
            joined_bTK, is_token_bT = self._forward(numbers[places].tolist())
            halves = zip(places, joined_bTK.half().cpu(), is_token_bT.cpu(), strict=True)
            states |= {place: x_TK[is_token_T].numpy() for place, x_TK, is_token_T in halves}
            self.bar.update(len(places))
        return np.concatenate([states[place] for place in range(len(numbers))])

    def _forward(self, numbers: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the hidden states (b, T, K) of some rows, and which tokens (b, T) are no padding."""
        batch = self.inputs.collate(self.rows.rows.__getitems__(numbers))
        features = self.features(to_device(batch, next(self.features.model.parameters()).device))
        joined_bTK = self.layout.join(features)
        mask_bT = joined_bTK.new_ones(joined_bTK.shape[:2]) if features.mask_BT is None else features.mask_BT
        return joined_bTK, mask_bT.bool()


def _from_column(layout: TokenLayout, batch: dict[str, Any]) -> Features:
    """Return the teacher's features of tokens, float32, from the column of a batch."""
    mask_BT = batch.get("attention_mask")
    return layout.split(_aligned(batch[TOKENS].float(), mask_BT), mask_BT)


def _aligned(states_BTK: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
    """Move the states of each row, which begin with its first token, to the places of its tokens beside the padding."""
    if mask_BT is None:
        return states_BTK
    is_token_BT = mask_BT.bool()
    tokens_B = is_token_BT.sum(1, keepdim=True)
    aligned_BTK = states_BTK.new_zeros(*mask_BT.shape, states_BTK.shape[-1])
    aligned_BTK[is_token_BT] = states_BTK[torch.arange(states_BTK.shape[1], device=tokens_B.device) < tokens_B]
    return aligned_BTK
