"""What pruning knows of a network: whether it has layers of its own, and whether a config can express it."""

from __future__ import annotations

import copy
from typing import cast

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.models.exported_network import ExportedNetwork
from hf_finetune.models.families import FAMILIES
from hf_finetune.models.heads.custom import CustomHeadClassifier
from hf_finetune.models.modules import encoder, without_adapter
from hf_finetune.tasks.trained_model import TrainedModel


def why_fixed(classifier: TrainedModel) -> str | None:
    """Return why the weights of a classifier cannot be changed, as the end of a sentence. None: they can."""
    if isinstance(classifier.model, ExportedNetwork):
        return "it is exported already; name the folder of its run"
    if any(name.startswith("adapter/") for name in classifier.files):
        return "its adapter cannot be merged"
    return None


def why_no_layers(classifier: TrainedModel) -> str | None:
    """Return why the layers of a classifier cannot be pruned, as the end of a sentence. None: they can."""
    if (why := why_fixed(classifier)) is not None:
        return why
    family = without_adapter(classifier.model).config.model_type
    return None if family in FAMILIES else f"expected one of {', '.join(FAMILIES)}, got {family}"


def why_not_stock(model: nn.Module) -> str | None:
    """Return why no class of transformers builds a network from its config. None: its own class does.

    Networks of another number of neurons or heads in each layer are such. They can be exported.
    """
    if isinstance(model, PeftModel):
        return "its adapter is not merged"
    network = cast(PreTrainedModel, model)
    part = encoder(network) if isinstance(network, CustomHeadClassifier) else network
    with torch.device("meta"):
        stock = type(part)(copy.deepcopy(part.config)).state_dict()
    for name, tensor in part.state_dict().items():
        if name not in stock or stock[name].shape != tensor.shape:
            expected = "none" if name not in stock else f"one of shape {tuple(stock[name].shape)}"
            return (
                f"{name} has shape {tuple(tensor.shape)}, and {type(part).__name__} builds {expected} from its config"
            )
    missing = stock.keys() - part.state_dict().keys()
    return f"it has no {min(missing)}, which {type(part).__name__} builds" if missing else None
