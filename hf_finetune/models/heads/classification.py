"""The layers that compute logits from pooled features.

Legend: B rows, C classes, D features.
"""

from collections.abc import Callable

import torch
from torch import nn

# Activations of a hidden layer: those of the families' own heads.
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tanh": torch.tanh,
    "gelu": nn.functional.gelu,
    "relu": nn.functional.relu,
}


class ClassificationHead(nn.Module):
    """Logits from one vector per row: a linear layer, with one hidden layer before it or none.

    Args:
        features: D, the width of its input.
        num_labels: C.
        hidden: width of the hidden layer; None: there is none.
        activation: of the hidden layer, a key of `ACTIVATIONS`.
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
        """Return the logits (B, C) of features (B, D)."""
        if self.has_hidden:
            features_BD = ACTIVATIONS[self.activation](self.dense(self.dropout(features_BD)))
        return self.out(self.dropout(features_BD))

    def extra_repr(self) -> str:
        """Return the activation, which the sub-modules do not show."""
        return f"activation={self.activation}" if self.has_hidden else ""
