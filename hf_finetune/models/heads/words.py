"""Token classifiers that return the logits of words alone, at the places of their first pieces.

Legend: B rows, T tokens, W words of the batch, C tags, D features.
"""

from functools import cache, partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.models.modules import classification_layer


def score_words(model: PreTrainedModel) -> None:
    """Make a stock token classifier accept `word_places`, see `data.word_inputs.WORD_PLACES`.

    With them its logits are those of the words, (W, C), and its classification layer reads nothing else; without them
    the model is as it was. Its files stay those of the stock class.
    """
    stock: Any = type(model)
    model.__class__ = _scoring_words(stock)


@cache
def _scoring_words(stock: Any) -> Any:
    class ScoresWords(stock):
        def forward(self, *args: Any, word_places: torch.Tensor | None = None, **kwargs: Any) -> Any:
            if word_places is None:
                return super().forward(*args, **kwargs)
            # First, so that other hooks on the layer see what it reads.
            gather = partial(_gather, word_places)
            with classification_layer(self).register_forward_pre_hook(gather, prepend=True):
                return super().forward(*args, **kwargs)

    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(ScoresWords, name, getattr(stock, name))
    return ScoresWords


def _gather(places_W: torch.Tensor, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (inputs[0].flatten(0, 1)[places_W], *inputs[1:])
