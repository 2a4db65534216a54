"""The intermediate features of a teacher for the batches of its student. That the two go together is checked in
`compatibility`.

States of tokens and embeddings are cached like logits. Where the states find no room on the disk, or rows are other
views in every epoch, the teacher computes them as the student trains, of the very batch that it gets.

Legend: N rows, n rows of a chunk, b rows of a forward pass, B rows of a batch, T tokens, t tokens of a chunk, K numbers
of a token, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial, reduce
from operator import or_
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel

from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.data.inputs import ImageInputs, Inputs, TextInputs
from hf_finetune.distillation.cache.hidden_states import CachedTokens, TokenLayout, cached_tokens
from hf_finetune.distillation.config import DistillationKind, FeatureKind
from hf_finetune.distillation.feature_loss import FeatureDistillation, FeatureLoss, required_features
from hf_finetune.distillation.features.compatibility import PixelScaling
from hf_finetune.distillation.features.recorder import FeatureRecorder
from hf_finetune.distillation.losses.base import Features, Networks, Pooling, Required, RequiredFeatures
from hf_finetune.distillation.predictions import main_process_first
from hf_finetune.distillation.teachers.network import EncodedRows, NetworkTeacher
from hf_finetune.distillation.training_rows import (
    TOKENS,
    ColumnsOfViews,
    TeacherColumns,
    embedding_column,
)
from hf_finetune.evaluation.logits import evaluating, to_device
from hf_finetune.models.families import tokens_before_patches, width_of
from hf_finetune.models.kernels.narrow_last_layer import all_tokens
from hf_finetune.training.precision import exact_float32
from hf_finetune.utils.disk_cache import CacheUnavailable
from hf_finetune.utils.timer import Timer

logger = logging.getLogger("hf_finetune.run")
# Rows of a forward pass whose states are cached, and of a chunk of the cache, which is in memory while it is made:
# twelve layers of an image's patches are 4 MB.
FORWARD_ROWS, CHUNK_ROWS = 32, 128


class ComputedFeatures:
    """The teacher's features of the tokens of a batch as its student gets it, by a forward pass of its own.

    Args:
        required: the features.
        inputs: the student's.
        skip: see `feature_recorder.FeatureRecorder`.
        as_cached: round the states as caching them would, so that a student learns the same.
    """

    def __init__(
        self, teacher: NetworkTeacher, required: RequiredFeatures, inputs: Inputs, *, skip: int, as_cached: bool = False
    ) -> None:
        self.model, own_inputs, self.as_cached = teacher.model, teacher.classifier.inputs, as_cached
        self.recorder = FeatureRecorder(self.model, required.of_tokens, skip=skip)
        self.scaling: PixelScaling | None = None
        if isinstance(own_inputs, TextInputs):
            self.names = own_inputs.tokenizer.model_input_names
        else:
            assert isinstance(inputs, ImageInputs), "both read images"
            self.names, self.scaling = ["pixel_values"], PixelScaling.between(inputs, own_inputs)

    def __call__(self, batch: dict[str, Any]) -> Features:
        """Return the features, without gradients, computed in float32."""
        inputs = {name: batch[name] for name in self.names if name in batch}
        if self.scaling is not None:
            inputs["pixel_values"] = self.scaling(inputs["pixel_values"])
        with (
            evaluating(self.model),
            all_tokens(self.model),
            torch.no_grad(),
            # Whatever the student trains in: states that are cached are float32's, too.
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
        """Take the hooks off the teacher."""
        self.recorder.close()


def _rounded(x_BTD: torch.Tensor) -> torch.Tensor:
    """Round to float16, where that holds it, in float32."""
    halves_BTD = x_BTD.half().float()
    return torch.where(halves_BTD.isfinite(), halves_BTD, x_BTD)


def _aligned(states_BTK: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
    """Move states that begin with each row's first token to where the row's tokens lie: behind padding or before it."""
    if mask_BT is None:
        return states_BTK
    is_token_BT = mask_BT.bool()
    tokens_B = is_token_BT.sum(1, keepdim=True)
    aligned_BTK = states_BTK.new_zeros(*mask_BT.shape, states_BTK.shape[-1])
    aligned_BTK[is_token_BT] = states_BTK[torch.arange(states_BTK.shape[1], device=tokens_B.device) < tokens_B]
    return aligned_BTK


class _TokenStates:
    """Computes a teacher's states of the tokens of rows, in float32, a chunk of rows at a time.

    Args:
        layout: what is cached of a token.
        inputs: the student's, whose tokens the teacher reads, too.
    """

    def __init__(self, features: ComputedFeatures, layout: TokenLayout, rows: EncodedRows, inputs: Inputs) -> None:
        self.features, self.layout, self.rows, self.inputs = features, layout, rows, inputs
        # Images have as many tokens each.
        tokens = rows.lengths_N
        self.tokens_N = np.full(len(rows.rows), self._forward([0])[0].shape[1]) if tokens is None else tokens
        self.bar = tqdm(
            total=len(rows.rows), desc="the teacher's states of tokens", leave=False, dynamic_ncols=True, disable=None
        )

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """Return the states (t, K), float16, of the tokens of rows (n,), row after row."""
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
        """Return the states (b, T, K) of some rows, and which of them (b, T) are of no padding."""
        device = next(self.features.model.parameters()).device
        batch = self.inputs.collate(self.rows.rows.__getitems__(numbers))
        features = self.features(to_device(batch, device))
        joined_bTK = self.layout.join(features)
        mask_bT = joined_bTK.new_ones(joined_bTK.shape[:2]) if features.mask_BT is None else features.mask_BT
        return joined_bTK, mask_bT.bool()


def _cached_states(
    teacher: NetworkTeacher,
    layout: TokenLayout,
    required: RequiredFeatures,
    inputs: Inputs,
    rows: Dataset,
    skip: int,
    budget_gb: float,
) -> CachedTokens | None:
    """Return the teacher's states of the rows' tokens: cached, or computed and cached. None: there is no room."""
    own_inputs, encoded = teacher.classifier.inputs, EncodedRows.of(rows, inputs)
    with closing(ComputedFeatures(teacher, required.of_tokens, inputs, skip=skip)) as features:
        states = _TokenStates(features, layout, encoded, inputs)
        key = {
            **teacher.cache_key(encoded, "float32"),
            "tokens": [layout.hidden, layout.attention, skip],
            "inputs": own_inputs.processor.to_json_string() if isinstance(own_inputs, ImageInputs) else features.names,
        }
        try:
            with states.bar:
                return cached_tokens(
                    key, states.tokens_N, states, numbers=layout.numbers, size=CHUNK_ROWS, budget_gb=budget_gb
                )
        except CacheUnavailable as reason:
            logger.warning(
                "the teacher reads the rows of every step again, as its states of tokens are not cached: %s", reason
            )
            return None


def required_together(kinds: Iterable[FeatureKind], networks: Networks) -> Required:
    """Return all features that the kinds need of the student, and of the teacher."""
    student, teacher = zip(*(required_features(kind, networks) for kind in kinds), strict=True)
    return reduce(or_, student), reduce(or_, teacher)


def skipped_tokens(networks: Networks) -> tuple[int, int]:
    """Return how many tokens before the patches of the student's images, and of the teacher's, are left out.

    Where both have the same ones, these are compared as well.
    """
    student, teacher = map(tokens_before_patches, networks)
    return (student, teacher) if student != teacher else (0, 0)


def feature_distillation(
    teacher: NetworkTeacher,
    kinds: Sequence[DistillationKind],
    inputs: Inputs,
    model: PreTrainedModel,
    rows: Dataset,
    *,
    seed: int,
    budget_gb: float,
    online: bool,
) -> FeatureDistillation:
    """Build what compares the features of a student with its teacher's.

    Args:
        kinds: with the layers that were searched, see `layer_search.with_layers`.
        inputs, model: the student's.
        rows: canonical training rows.
        seed: of the projections' first weights.
        budget_gb: see `Teacher.predict`.
        online: the training rows are other views in every epoch.
    """
    networks = Networks(model.config, teacher.model.config)
    by_place = {place: kind for place, kind in enumerate(kinds) if isinstance(kind, FeatureKind)}
    own, theirs = required_together(by_place.values(), networks)
    own_skip, skip = skipped_tokens(networks)
    generator, timer = torch.Generator().manual_seed(seed), Timer()
    losses = {place: FeatureLoss(kind, networks, generator) for place, kind in by_place.items()}
    embeddings = partial(_embeddings, teacher, sorted(theirs.poolings), budget_gb)

    def embeddings_of_views(views: AugmentedRows) -> TeacherColumns:
        with main_process_first(timer):
            return embeddings(views, f"epoch {views.epoch}")

    tokens: Callable[[dict[str, Any]], Features] = _no_tokens
    columns: TeacherColumns | ColumnsOfViews = embeddings_of_views if online else embeddings(rows, "train")
    if theirs.of_tokens != RequiredFeatures():
        layout = TokenLayout.of(theirs, width_of(networks.teacher))
        states = None if online else _cached_states(teacher, layout, theirs, inputs, rows, skip, budget_gb)
        if states is None:
            tokens = ComputedFeatures(teacher, theirs, inputs, skip=skip, as_cached=True)
        else:
            assert not callable(columns), "of rows as they are"
            tokens, columns = partial(_from_column, layout), {**columns, TOKENS: states}
    return FeatureDistillation(own, theirs.poolings, losses, tokens, columns, own_skip, timer)


def _embeddings(
    teacher: NetworkTeacher, poolings: Sequence[Pooling], budget_gb: float, rows: Dataset | AugmentedRows, split: str
) -> TeacherColumns:
    return {embedding_column(p): teacher.embeddings(rows, split, p, budget_gb=budget_gb) for p in poolings}


def _no_tokens(batch: dict[str, Any]) -> Features:
    return Features(batch.get("attention_mask"))


def _from_column(layout: TokenLayout, batch: dict[str, Any]) -> Features:
    """Return the teacher's features of tokens, float32, of a batch that has them as a column."""
    mask_BT = batch.get("attention_mask")
    return layout.split(_aligned(batch[TOKENS].float(), mask_BT), mask_BT)
