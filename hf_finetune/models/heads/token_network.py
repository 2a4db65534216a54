"""A small network over the hidden states of the tokens, before they are pooled: recurrent or convolutional.

Legend: B rows, T tokens, D width of the hidden states, H width of the network's states.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from hf_finetune.models.family import TokenNetworkKind

BEHIND = 2**30
"""Beyond the places of all tokens."""
KERNEL = 3
"""Tokens that a filter of the convolution reads."""
RECURRENT: dict[TokenNetworkKind, type[nn.GRU | nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}
GATES: dict[TokenNetworkKind, int] = {"gru": 3, "lstm": 4}
ONNX_GATES: dict[TokenNetworkKind, list[int]] = {"gru": [1, 0, 2], "lstm": [0, 3, 1, 2]}
"""Number in torch of each gate of ONNX."""
NAMES: dict[TokenNetworkKind, str] = {"gru": "a GRU", "lstm": "an LSTM", "convolution": "a convolution"}


class TokenNetwork(nn.Module):
    """A layer that reads the hidden states of a row in their order, and returns new ones.

    gru, lstm: a bidirectional layer, whose states are those of both directions side by side (with max pooling
    arXiv:1705.02364). convolution: filters over three tokens, and ReLU (with max pooling arXiv:1408.5882).

    Args:
        kind: gru, lstm or convolution.
        features: D.
        width: of each direction, or the number of filters.
    """

    def __init__(self, kind: TokenNetworkKind, features: int, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.layer: nn.GRU | nn.LSTM | nn.Conv1d
        if kind == "convolution":
            self.layer = nn.Conv1d(features, width, KERNEL, padding="same")
        else:
            self.layer = RECURRENT[kind](features, width, bidirectional=True, batch_first=True)
        self.width = width if kind == "convolution" else 2 * width
        """H."""

    def forward(
        self, states_BTD: torch.Tensor, mask_BT: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the new states (B, T, H), computed in float32 also under autocast, and their mask.

        Args:
            mask_BT: 0 for padding. None: there is none.
        """
        dtype = next(self.layer.parameters()).dtype
        with torch.autocast(states_BTD.device.type, enabled=False):
            read_BTD = states_BTD.to(dtype)
            if mask_BT is not None:
                # Padding goes to the end, where it is on the left. No two keys are equal: graphs have no stable sort.
                places_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
                order_BT = (places_T + (mask_BT == 0) * BEHIND).argsort(dim=1)
                mask_BT = mask_BT.gather(1, order_BT)
                read_BTD = read_BTD.gather(1, order_BT[:, :, None].expand_as(read_BTD)) * mask_BT[:, :, None]
            return self._apply_layer(read_BTD, mask_BT).to(states_BTD.dtype), mask_BT

    def _apply_layer(self, states_BTD: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
        if isinstance(self.layer, nn.Conv1d):
            return torch.relu(self.layer(states_BTD.transpose(1, 2))).transpose(1, 2)
        if mask_BT is None:
            return self.layer(states_BTD)[0]
        if torch.compiler.is_exporting():
            return self._apply_in_graph(states_BTD, mask_BT)
        packed = pack_padded_sequence(states_BTD, mask_BT.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.layer(packed)[0], batch_first=True, total_length=states_BTD.shape[1])[0]

    def _apply_in_graph(self, states_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return the same states by the operation of ONNX, as torch's is exported for one number of tokens alone."""
        layer, width = self.layer, self.width // 2
        assert not isinstance(layer, nn.Conv1d), "only recurrent layers pack rows"

        def weights(kind: str) -> torch.Tensor:
            """Return the weights of both directions, with the gates in the order of ONNX."""
            ways = [getattr(layer, f"{kind}_l0{way}").unflatten(0, (-1, width)) for way in ("", "_reverse")]
            return torch.stack([way[ONNX_GATES[self.kind]].flatten(0, 1) for way in ways])

        biases = torch.cat([weights("bias_ih"), weights("bias_hh")], 1)
        attributes: dict[str, Any] = {"direction": "bidirectional", "hidden_size": width}
        if self.kind == "gru":
            attributes["linear_before_reset"] = 1  # as torch computes its new gate
        rows, tokens = mask_BT.shape
        states_T2BH = torch.onnx.ops.symbolic(
            self.kind.upper(),
            [states_BTD.transpose(0, 1), weights("weight_ih"), weights("weight_hh"), biases, mask_BT.sum(1).int()],
            attributes,
            dtype=states_BTD.dtype,
            shape=(tokens, 2, rows, width),
        )
        return states_T2BH.permute(2, 0, 1, 3).flatten(2)


def token_network_of(kind: TokenNetworkKind, features: int, weights: dict[str, torch.Tensor]) -> TokenNetwork:
    """Return the network with these weights of its layer.

    Raises:
        LookupError, ValueError, RuntimeError: they are not those of such a layer.
    """
    name = "weight" if kind == "convolution" else "weight_hh_l0"
    shape = tuple(weights[name].shape)
    width = shape[0] if kind == "convolution" else shape[-1]
    expected = (width, features, KERNEL) if kind == "convolution" else (GATES[kind] * width, width)
    # Before a layer is built that is larger than the file.
    if shape != expected or not width:
        raise ValueError(f"network.{name} of shape {shape}, expected {expected}")
    network = TokenNetwork(kind, features, width)
    network.layer.load_state_dict(weights)
    return network
