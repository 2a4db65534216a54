"""Search which of its teacher's layers each of a student's is to follow, by how alike the two networks are before
training.

Legend: B rows, T tokens, N tokens of all rows, D and E widths, S the student's layers, L the teacher's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import TypedDict

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from hf_finetune.data.inputs import Inputs, Rows, columns_of, sample_rows
from hf_finetune.distillation.config import DistillationKind, searches_layers
from hf_finetune.distillation.features.recorder import FeatureRecorder
from hf_finetune.distillation.features.teacher_features import ComputedFeatures, required_together, skipped_tokens
from hf_finetune.distillation.losses.attention_maps import AttentionMaps
from hf_finetune.distillation.losses.base import Features, LayerPairs, Networks
from hf_finetune.distillation.losses.functional import attention_kl, log_attention_map, mean_over_heads
from hf_finetune.distillation.losses.hidden_states import HiddenStates
from hf_finetune.distillation.teachers.network import NetworkTeacher
from hf_finetune.evaluation.logits import evaluating, to_device

logger = logging.getLogger("hf_finetune.run")
# A row costs a forward pass of both networks; all its tokens would cost more in products of matrices than they tell: so
# many of so many rows are several times as many vectors as networks are wide.
MOST_ROWS, TOKENS_OF_A_ROW = 256, 16
# Rows of a forward pass: what is recorded of all layers is there at once.
FORWARD_ROWS = 16


class LayerMap(TypedDict):
    """The layers that were found for a kind, as result.json has it."""

    place: int
    """Of the kind among all."""
    kind: str
    rows: int
    """On how many the likeness was measured."""
    measure: str
    layers: list[list[int]]
    """Pairs (student's, teacher's), counted from 1."""
    likeness: list[list[float]]
    """Of each of the student's layers with each of the teacher's."""


def linear_cka(student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]) -> np.ndarray:
    """Compute linear centered kernel alignment of each layer of one network with each of the other's
    (arXiv:1905.00414).

    ||X^T Y||^2 / (||X^T X|| ||Y^T Y||) of centered states X and Y, by the Frobenius norm. Rotations, one factor for all
    features and a shift change nothing, as a projection in between makes up for them.

    Args:
        student: of each layer the states of the same N tokens, shape (N, D).
        teacher: likewise, shape (N, E).

    Returns:
        Shape (S, L), from 0 to 1; 0 for states that are all the same.
    """
    own, theirs = ([_standardized(x_ND) for x_ND in side] for side in (student, teacher))
    return np.array([[float((x_ND.T @ y_NE).square().sum()) for y_NE in theirs] for x_ND in own])


def _standardized(x_ND: torch.Tensor) -> torch.Tensor:
    """Center the states, and scale them to a size at which ||X^T X|| is 1."""
    x_ND = x_ND - x_ND.mean(0)
    return x_ND / (x_ND.T @ x_ND).norm().clamp_min(torch.finfo(x_ND.dtype).tiny).sqrt()


def best_pairs(likeness_SL: np.ndarray) -> LayerPairs:
    """Choose the layers (student's, teacher's), counted from 1, whose likeness adds up to most.

    A later layer of the student has a later one of the teacher, or, where the teacher has fewer layers than it, no
    earlier one; the last has the last. Of maps that are as good, the one of lower layers. By dynamic programming, in S
    L^2 steps.

    Args:
        likeness_SL: of every pair of layers, whatever its sign.
    """
    layers = likeness_SL.shape[1]
    step = 1 if layers >= len(likeness_SL) else 0
    # By the teacher's layer that the student's last one so far goes with: the most that all so far add up to, and for
    # each further one of the student's the layer that the one before it then goes with.
    most_L, before = likeness_SL[0], list[list[int]]()
    for likeness_L in likeness_SL[1:]:
        reached = [most_L[: layer + 1 - step] for layer in range(layers)]
        before.append([int(sums.argmax()) if len(sums) else 0 for sums in reached])
        most_L = likeness_L + [sums.max() if len(sums) else -np.inf for sums in reached]
    followed = [layers - 1]
    for earlier in reversed(before):
        followed.append(earlier[followed[-1]])
    return tuple((own, layer + 1) for own, layer in enumerate(reversed(followed), start=1))


class HiddenStateSimilarity:
    """Linear CKA of the states of tokens, up to `TOKENS_OF_A_ROW` of each row.

    Of tokens, not of rows' means: tokens are what `HiddenStates` compares, and of fewer vectors than a network is wide,
    as a few hundred rows give, any two layers look alike.

    Args:
        seed: of the tokens that are looked at.
    """

    measure = "linear CKA"

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._states: tuple[list[list[torch.Tensor]], list[list[torch.Tensor]]] = ([], [])

    def add(self, student: Features, teacher: Features) -> None:
        """Add the features of the same batch."""
        rows, tokens = self._sampled_tokens(student)
        for batches, features in zip(self._states, (student, teacher), strict=True):
            batches.append([x_BTD[rows, tokens].float() for _, x_BTD in sorted(features.hidden.items())])

    def likeness(self) -> np.ndarray:
        """Return the likeness of all layers (S, L)."""
        own, theirs = ([torch.cat(parts) for parts in zip(*batches, strict=True)] for batches in self._states)
        return linear_cka(own, theirs)

    def _sampled_tokens(self, features: Features) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw tokens that are no padding: their rows, and their places in them."""
        x_BTD = features.hidden[1]
        draws_BT = torch.rand(x_BTD.shape[:2], generator=self._generator).to(x_BTD.device)
        if features.mask_BT is not None:
            draws_BT = draws_BT.masked_fill(features.mask_BT == 0, -1.0)
        draws, places = draws_BT.topk(min(TOKENS_OF_A_ROW, draws_BT.shape[1]))
        rows, columns = (draws >= 0).nonzero(as_tuple=True)
        return rows, places[rows, columns]


class AttentionSimilarity:
    """Minus the divergence of the student's attention from the teacher's, see `losses.functional.attention_kl`.

    Each is the mean over its heads: before training no head of one network stands for one of the other.

    Args:
        heads: of the student, and of the teacher.
    """

    measure = "negative KL divergence"

    def __init__(self, heads: tuple[int, int]) -> None:
        self.heads = heads
        self._rows, self._kl_SL = 0, np.zeros(())

    def add(self, student: Features, teacher: Features) -> None:
        """Add the features of the same batch."""
        own, theirs = (
            [mean_over_heads(log_attention_map(features, layer, heads)) for layer in sorted(features.attention)]
            for features, heads in zip((student, teacher), self.heads, strict=True)
        )
        kl_SL = [[float(attention_kl(one, other, student.mask_BT).sum()) for other in theirs] for one in own]
        self._rows, self._kl_SL = self._rows + len(own[0]), self._kl_SL + np.array(kl_SL)

    def likeness(self) -> np.ndarray:
        """Return the likeness of all layers (S, L), the mean over the rows, in nats."""
        return -self._kl_SL / self._rows


def search_layers(
    teacher: NetworkTeacher,
    kinds: Sequence[DistillationKind],
    inputs: Inputs,
    model: PreTrainedModel,
    rows: Dataset,
    *,
    seed: int,
) -> list[LayerMap]:
    """Search which layers go together, for each kind that leaves it to be searched: those that are likest on some rows.

    Args:
        inputs, model: the student's, as it starts, on the teacher's device.
        rows: encoded training rows.
        seed: of the sample.
    """
    networks = Networks(model.config, teacher.model.config)
    similarities = {i: _similarity(kind, networks, seed) for i, kind in enumerate(kinds) if searches_layers(kind)}
    own, theirs = required_together(filter(searches_layers, kinds), networks)
    own_skip, teacher_skip = skipped_tokens(networks)
    sample = sample_rows(inputs, rows, MOST_ROWS, seed=seed)
    readable, device = Rows(rows, columns_of(inputs, labels=False)), next(model.parameters()).device
    with (
        closing(FeatureRecorder(model, own, skip=own_skip)) as recorder,
        closing(ComputedFeatures(teacher, theirs, inputs, skip=teacher_skip)) as teacher_features,
        evaluating(model),
        torch.no_grad(),
    ):
        for start in range(0, len(sample), FORWARD_ROWS):
            columns = readable.__getitems__(sample[start : start + FORWARD_ROWS].tolist())
            batch = to_device(inputs.collate(columns), device)
            with recorder.recording(batch) as student:
                model(**batch)
            features = teacher_features(batch)
            for similarity in similarities.values():
                similarity.add(student, features)
    return [_layer_map(i, type(kinds[i]).__name__, len(sample), each) for i, each in similarities.items()]


def with_layers(kinds: Sequence[DistillationKind], layer_maps: Sequence[LayerMap]) -> tuple[DistillationKind, ...]:
    """Replace the layers that are to be searched by those that were found, see `search_layers`."""
    pairs = {each["place"]: tuple((own, other) for own, other in each["layers"]) for each in layer_maps}
    return tuple(replace(kind, layers=pairs[i]) if searches_layers(kind) else kind for i, kind in enumerate(kinds))


def _similarity(
    kind: HiddenStates | AttentionMaps, networks: Networks, seed: int
) -> HiddenStateSimilarity | AttentionSimilarity:
    return HiddenStateSimilarity(seed) if isinstance(kind, HiddenStates) else AttentionSimilarity(networks.heads)


def _layer_map(place: int, kind: str, rows: int, similarity: HiddenStateSimilarity | AttentionSimilarity) -> LayerMap:
    # To four digits, so that the map follows from the very numbers that are reported; and no -0.
    likeness_SL = np.array([[float(f"{x:.4g}") for x in row] for row in similarity.likeness()]) + 0.0
    pairs = best_pairs(likeness_SL)
    logger.info(
        "layers that go together, by %s: %s",
        similarity.measure,
        ", ".join(f"{own} with {other}" for own, other in pairs),
    )
    return LayerMap(
        place=place,
        kind=kind,
        rows=rows,
        measure=similarity.measure,
        layers=[list(pair) for pair in pairs],
        likeness=likeness_SL.tolist(),
    )
