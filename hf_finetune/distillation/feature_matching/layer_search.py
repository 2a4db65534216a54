"""Search for the teacher's layer that each layer of a student is compared with, by their similarity before training.

Legend: B rows, T tokens, N tokens of all rows, D and E widths, S the student's layers, L the teacher's.
"""

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import TypedDict

import numpy as np
import torch
from datasets import Dataset

from hf_finetune.data.inputs import Rows, columns_of, sample_rows
from hf_finetune.distillation.config import DistillationKind, searches_layers
from hf_finetune.distillation.feature_matching.pair import NetworkPair
from hf_finetune.distillation.feature_matching.recorder import FeatureRecorder
from hf_finetune.distillation.feature_matching.teacher_features import ComputedFeatures
from hf_finetune.distillation.losses.base import Features
from hf_finetune.distillation.losses.functional import attention_kl, log_attention_map, mean_over_heads
from hf_finetune.distillation.losses.hidden_states import HiddenStates
from hf_finetune.distillation.losses.layers import LayerPairs
from hf_finetune.evaluation.logits import evaluating, to_device

logger = logging.getLogger("hf_finetune.run")
# The sample of rows, and of tokens of each row. Together they are several times as many vectors as networks are wide;
# more tokens would cost more matrix products than they are worth.
MOST_ROWS, TOKENS_OF_A_ROW = 256, 16
# Rows of a forward pass: the features of all layers are in memory together.
FORWARD_ROWS = 16


class LayerMap(TypedDict):
    """The pairs of layers of one loss, as in result.json."""

    place: int
    """Index of the loss in `objective.kinds`."""
    kind: str
    rows: int
    """Size of the sample."""
    measure: str
    layers: list[list[int]]
    """Pairs (student layer, teacher layer), counted from 1."""
    likeness: list[list[float]]
    """Similarity of each student layer to each teacher layer."""


def linear_cka(student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]) -> np.ndarray:
    """Compute the linear centered kernel alignment of each student layer with each teacher layer (arXiv:1905.00414).

    It is ||X^T Y||^2 / (||X^T X|| ||Y^T Y||) of centered states X and Y, in Frobenius norms. Rotations, a common factor
    and shifts do not change it, as the loss's projection makes up for them.

    Args:
        student: the states of N tokens after each layer, shape (N, D).
        teacher: the states of the same tokens, shape (N, E).

    Returns:
        Shape (S, L), from 0 to 1; 0 for constant states.
    """
    student, teacher = ([_standardized(x_ND) for x_ND in layers] for layers in (student, teacher))
    return np.array([[float((x_ND.T @ y_NE).square().sum()) for y_NE in teacher] for x_ND in student])


def _standardized(x_ND: torch.Tensor) -> torch.Tensor:
    """Center the states, and scale them so that ||X^T X|| is 1."""
    x_ND = x_ND - x_ND.mean(0)
    return x_ND / (x_ND.T @ x_ND).norm().clamp_min(torch.finfo(x_ND.dtype).tiny).sqrt()


def best_pairs(similarity_SL: np.ndarray) -> LayerPairs:
    """Choose the pairs (student layer, teacher layer), counted from 1, with the largest sum of similarities.

    The teacher's layers rise with the student's, strictly if the teacher has at least as many; the last is paired with
    the last. Of equal sums the lower layers win. Dynamic programming, in S L^2 steps.
    """
    num_layers = similarity_SL.shape[1]
    step = 1 if num_layers >= len(similarity_SL) else 0
    # The best sum so far by the teacher layer of the last pair; `previous` has the teacher layer of the pair before it.
    best_L, previous = similarity_SL[0], list[list[int]]()
    for similarity_L in similarity_SL[1:]:
        candidates = [best_L[: layer + 1 - step] for layer in range(num_layers)]
        previous.append([int(sums.argmax()) if len(sums) else 0 for sums in candidates])
        best_L = similarity_L + [sums.max() if len(sums) else -np.inf for sums in candidates]
    path = [num_layers - 1]
    for layers in reversed(previous):
        path.append(layers[path[-1]])
    return tuple((student, teacher + 1) for student, teacher in enumerate(reversed(path), start=1))


class HiddenStateSimilarity:
    """Linear CKA of the hidden states of up to `TOKENS_OF_A_ROW` tokens of each row.

    `HiddenStates` compares tokens, too; and a few hundred row means would be fewer vectors than a network is wide, for
    which any two layers look similar.

    Args:
        seed: draws the tokens.
    """

    measure = "linear CKA"

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._states: tuple[list[list[torch.Tensor]], list[list[torch.Tensor]]] = ([], [])

    def add(self, student: Features, teacher: Features) -> None:
        """Add the features of a batch."""
        rows, tokens = self._sampled_tokens(student)
        for batches, features in zip(self._states, (student, teacher), strict=True):
            batches.append([x_BTD[rows, tokens].float() for _, x_BTD in sorted(features.hidden.items())])

    def similarity(self) -> np.ndarray:
        """Return the similarity of all pairs of layers (S, L)."""
        student, teacher = ([torch.cat(parts) for parts in zip(*batches, strict=True)] for batches in self._states)
        return linear_cka(student, teacher)

    def _sampled_tokens(self, features: Features) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw tokens other than padding: their rows, and their places in the rows."""
        x_BTD = features.hidden[1]
        draws_BT = torch.rand(x_BTD.shape[:2], generator=self._generator).to(x_BTD.device)
        if features.mask_BT is not None:
            draws_BT = draws_BT.masked_fill(features.mask_BT == 0, -1.0)
        draws, places = draws_BT.topk(min(TOKENS_OF_A_ROW, draws_BT.shape[1]))
        rows, columns = (draws >= 0).nonzero(as_tuple=True)
        return rows, places[rows, columns]


class AttentionSimilarity:
    """Negative KL divergence of the student's attention from the teacher's, see `losses.functional.attention_kl`.

    The means over the heads are compared: before training no head of one network corresponds to one of the other.

    Args:
        heads: number of the student's, and of the teacher's.
    """

    measure = "negative KL divergence"

    def __init__(self, heads: tuple[int, int]) -> None:
        self.heads = heads
        self._rows, self._kl_SL = 0, np.zeros(())

    def add(self, student: Features, teacher: Features) -> None:
        """Add the features of a batch."""
        maps, teacher_maps = (
            [mean_over_heads(log_attention_map(features, layer, heads)) for layer in sorted(features.attention)]
            for features, heads in zip((student, teacher), self.heads, strict=True)
        )
        kl_SL = [[float(attention_kl(one, other, student.mask_BT).sum()) for other in teacher_maps] for one in maps]
        self._rows, self._kl_SL = self._rows + len(maps[0]), self._kl_SL + np.array(kl_SL)

    def similarity(self) -> np.ndarray:
        """Return the similarity of all pairs of layers (S, L), the mean over the rows, in nats."""
        return -self._kl_SL / self._rows


def search_layers(pair: NetworkPair, kinds: Sequence[DistillationKind], rows: Dataset, *, seed: int) -> list[LayerMap]:
    """Search the pairs of layers of each loss that asks for it: those that are most similar on a sample of rows.

    Args:
        pair: the student before training, on the teacher's device.
        rows: encoded training rows.
        seed: draws the sample.
    """
    searched = {i: kind for i, kind in enumerate(kinds) if searches_layers(kind)}
    heads = pair.networks.num_heads
    similarities = {
        i: HiddenStateSimilarity(seed) if isinstance(kind, HiddenStates) else AttentionSimilarity(heads)
        for i, kind in searched.items()
    }
    required, teacher_required = pair.required(searched.values())
    sample = sample_rows(pair.inputs, rows, MOST_ROWS, seed=seed)
    readable, device = Rows(rows, columns_of(pair.inputs, labels=False)), next(pair.student.parameters()).device
    with (
        closing(FeatureRecorder(pair.student, required)) as recorder,
        closing(ComputedFeatures(pair, teacher_required)) as teacher_features,
        evaluating(pair.student),
        torch.no_grad(),
    ):
        for start in range(0, len(sample), FORWARD_ROWS):
            columns = readable.__getitems__(sample[start : start + FORWARD_ROWS].tolist())
            batch = to_device(pair.inputs.collate(columns), device)
            with recorder.recording(batch) as student:
                pair.student(**batch)
            teacher = teacher_features(batch)
            for each in similarities.values():
                each.add(student, teacher)
    return [_layer_map(i, type(kinds[i]).__name__, len(sample), each) for i, each in similarities.items()]


def with_layers(kinds: Sequence[DistillationKind], layer_maps: Sequence[LayerMap]) -> tuple[DistillationKind, ...]:
    """Replace the layers that are to be searched by the pairs of `search_layers`."""
    pairs = {each["place"]: tuple((student, teacher) for student, teacher in each["layers"]) for each in layer_maps}
    return tuple(replace(kind, layers=pairs[i]) if searches_layers(kind) else kind for i, kind in enumerate(kinds))


def _layer_map(place: int, kind: str, rows: int, similarity: HiddenStateSimilarity | AttentionSimilarity) -> LayerMap:
    # Four digits, as reported, so that the pairs follow from the report; + 0.0 turns -0 into 0.
    similarity_SL = np.array([[float(f"{x:.4g}") for x in row] for row in similarity.similarity()]) + 0.0
    pairs = best_pairs(similarity_SL)
    shown = ", ".join(f"{student} with {teacher}" for student, teacher in pairs)
    logger.info("pairs of layers (student with teacher), by %s: %s", similarity.measure, shown)
    return LayerMap(
        place=place,
        kind=kind,
        rows=rows,
        measure=similarity.measure,
        layers=[list(pair) for pair in pairs],
        likeness=similarity_SL.tolist(),
    )
