"""The layers that make logits of pooled features.

Legend: B rows, C classes, D features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

# Of a hidden layer: those that the families' own heads have.
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tanh": torch.tanh,
    "gelu": nn.functional.gelu,
    "relu": nn.functional.relu,
}


class ClassificationHead(nn.Module):
    """From one vector a row to logits: a linear layer, or one hidden layer before it.

    Args:
        features: D, width of its input.
        num_labels: C.
        hidden: width of the hidden layer; None: there is none.
        activation: of the hidden layer, a name of `ACTIVATIONS`.
        dropout: rate before every linear layer.
    """

    def __init__(
        self, features: int, num_labels: int, *, hidden: int | None = None, activation: str = "tanh", dropout: float
    ) -> None:
        super().__init__()
        self.activation = activation
        self.dropout = nn.Dropout(dropout)
        if hidden is not None:
            self.dense = nn.Linear(features, hidden)
        self.has_hidden = hidden is not None
        self.out = nn.Linear(features if hidden is None else hidden, num_labels)

    def forward(self, features_BD: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of features (B, D)."""
        if self.has_hidden:
            features_BD = ACTIVATIONS[self.activation](self.dense(self.dropout(features_BD)))
        return self.out(self.dropout(features_BD))

    def extra_repr(self) -> str:
        """So that two heads of one shape do not look alike."""
        return f"activation={self.activation}" if self.has_hidden else ""
