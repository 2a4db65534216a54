"""Which of its teacher's layers each of a student's is to follow, by how alike the two networks are before they train.

Legend: B rows, T tokens, N tokens of all rows, D and E widths, S the student's layers, L the teacher's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hf_finetune.distillation.features import Features
from hf_finetune.distillation.losses.attention_maps import AttentionMaps
from hf_finetune.distillation.losses.functional import attention_kl, mean_over_heads
from hf_finetune.distillation.losses.hidden_states import HiddenStates
from hf_finetune.distillation.networks import LayerPairs, Networks

# A row costs a forward pass of both networks; all its tokens would cost more in products of matrices than they tell: so many
# of so many rows are several times as many vectors as networks are wide.
MOST_ROWS, TOKENS_OF_A_ROW = 256, 16


def linear_cka(student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]) -> np.ndarray:
    """Linear centred kernel alignment of each layer of one network with each of the other's (arXiv:1905.00414).

    ||X^T Y||^2 / (||X^T X|| ||Y^T Y||) of centred states X and Y, by the Frobenius norm. Rotations, one factor for all
    features and a shift change nothing, as a projection in between makes up for them.

    Args:
        student: of each layer the states of the same N tokens, shape (N, D).
        teacher: likewise, shape (N, E).

    Returns:
        Shape (S, L), from 0 to 1; 0 for states that are all the same.
    """
    own, theirs = ([_standardised(x_ND) for x_ND in side] for side in (student, teacher))
    return np.array([[float((x_ND.T @ y_NE).square().sum()) for y_NE in theirs] for x_ND in own])


def _standardised(x_ND: torch.Tensor) -> torch.Tensor:
    """Centred, and of a size at which ||X^T X|| is 1."""
    x_ND = x_ND - x_ND.mean(0)
    return x_ND / (x_ND.T @ x_ND).norm().clamp_min(torch.finfo(x_ND.dtype).tiny).sqrt()


def likest(likeness_SL: np.ndarray) -> LayerPairs:
    """The layers (student's, teacher's), counted from 1, whose likeness adds up to most.

    A later layer of the student has a later one of the teacher, or, where the teacher has fewer layers than it, no earlier
    one; the last has the last. Of maps that are as good, the one of lower layers. By dynamic programming, in S L^2 steps.

    Args:
        likeness_SL: of every pair of layers, whatever its sign.
    """
    layers = likeness_SL.shape[1]
    step = 1 if layers >= len(likeness_SL) else 0
    # By the teacher's layer that the student's last one so far goes with: the most that all so far add up to, and for each
    # further one of the student's the layer that the one before it then goes with.
    most_L, before = likeness_SL[0], list[list[int]]()
    for likeness_L in likeness_SL[1:]:
        reached = [most_L[: layer + 1 - step] for layer in range(layers)]
        before.append([int(sums.argmax()) if len(sums) else 0 for sums in reached])
        most_L = likeness_L + [sums.max() if len(sums) else -np.inf for sums in reached]
    found = [layers - 1]
    for chosen in reversed(before):
        found.append(chosen[found[-1]])
    return tuple((own, layer + 1) for own, layer in enumerate(reversed(found), start=1))


class StatesAlike:
    """Linear CKA of the states of tokens, up to `TOKENS_OF_A_ROW` of each row.

    Of tokens, not of rows' means: tokens are what `HiddenStates` compares, and of fewer vectors than a network is wide, as a
    few hundred rows give, any two layers look alike.

    Args:
        seed: of the tokens that are looked at.
    """

    measure = "linear CKA"

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._kept: tuple[list[list[torch.Tensor]], list[list[torch.Tensor]]] = ([], [])

    def add(self, student: Features, teacher: Features) -> None:
        """Take of the states of the same batch."""
        rows, tokens = self._drawn(student)
        for kept, states in zip(self._kept, (student, teacher), strict=True):
            kept.append([x_BTD[rows, tokens].float() for _, x_BTD in sorted(states.hidden.items())])

    def likeness(self) -> np.ndarray:
        """Shape (S, L)."""
        own, theirs = ([torch.cat(parts) for parts in zip(*kept, strict=True)] for kept in self._kept)
        return linear_cka(own, theirs)

    def _drawn(self, states: Features) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and places of tokens that are no padding."""
        x_BTD = states.hidden[1]
        lots_BT = torch.rand(x_BTD.shape[:2], generator=self._generator).to(x_BTD.device)
        if states.mask_BT is not None:
            lots_BT = lots_BT.masked_fill(states.mask_BT == 0, -1.0)
        lots, places = lots_BT.topk(min(TOKENS_OF_A_ROW, lots_BT.shape[1]))
        rows, drawn = (lots >= 0).nonzero(as_tuple=True)
        return rows, places[rows, drawn]


class AttentionAlike:
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
        """Take of the states of the same batch."""
        own, theirs = (
            [mean_over_heads(states.log_attention(layer, heads)) for layer in sorted(states.attention)]
            for states, heads in zip((student, teacher), self.heads, strict=True)
        )
        kl_SL = [[float(attention_kl(one, other, student.mask_BT).sum()) for other in theirs] for one in own]
        self._rows, self._kl_SL = self._rows + len(own[0]), self._kl_SL + np.array(kl_SL)

    def likeness(self) -> np.ndarray:
        """Shape (S, L), the mean over the rows, in nats."""
        return -self._kl_SL / self._rows


def alike(kind: HiddenStates | AttentionMaps, networks: Networks, *, seed: int) -> StatesAlike | AttentionAlike:
    """What tells how alike the layers of two networks are in what `kind` compares.

    Args:
        networks: the student and its teacher.
        seed: see `StatesAlike`.
    """
    if isinstance(kind, HiddenStates):
        return StatesAlike(seed)
    return AttentionAlike(networks.heads)
