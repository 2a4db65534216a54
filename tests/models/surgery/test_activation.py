"""The activation of the feed-forward networks."""

import torch
from helpers.tiny import one_layer_bert
from torch import nn

from hf_finetune.models.surgery.activation import SetActivation


def test_activation_changes() -> None:
    """By hand: relu of [-1, 2] is [0, 2]."""
    model = one_layer_bert()
    layer = SetActivation("relu")(model).bert.encoder.layer[0]
    x = torch.tensor([[[-1.0, 2.0]]])
    torch.testing.assert_close(layer.intermediate(x), torch.tensor([[[0.0, 2.0]]]))
    torch.testing.assert_close(model.bert.encoder.layer[0].intermediate(x), nn.functional.gelu(x))
