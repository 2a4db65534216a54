"""R-Drop (arXiv:2106.14448): two passes of a row with different dropout should predict the same.

Legend: B rows, C classes.
"""

from typing import Any

import torch

from hf_finetune.data.config import Activation
from hf_finetune.training.losses.divergence import symmetric_divergence
from hf_finetune.training.regularization.two_passes import TwoPasses


class RDrop(TwoPasses):
    """Forwards each row twice and adds the divergence of the two predictions to the mean of their losses.

    Args:
        weight: weight of the divergence.
        activation: see `symmetric_divergence`.
    """

    def __init__(self, weight: float, activation: Activation = "softmax") -> None:
        self.weight, self.activation = weight, activation

    def joined(self, mean: torch.Tensor, one_BC: torch.Tensor, other_BC: torch.Tensor, targets: Any) -> torch.Tensor:
        """Add the divergence."""
        return mean + self.weight * symmetric_divergence(one_BC, other_BC, self.activation)
