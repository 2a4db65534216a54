"""The base class of the operations: build a model from its changed config, and carry the weights over.

Recipes contain operations and must import fast, so neither this module nor an operation imports torch at the top.
"""

from __future__ import annotations

import copy
import re
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import TYPE_CHECKING, TypeAlias

from hf_finetune.errors import InputError
from hf_finetune.models.families import FAMILIES, Family, family_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

Weights: TypeAlias = "dict[str, torch.Tensor]"


class Operation(ABC):
    """A change of a model: applied to one, it builds a new model from the changed config and carries the weights over.

    Buffers, padding and sizes that modules store then follow from the config, as they do in a reloaded model; changing
    modules in place would have to update each of them.
    """

    @abstractmethod
    def update_config(self, config: PreTrainedConfig) -> None:
        """Change `config`, or raise an `InputError` if the family cannot express the result."""

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the changed model, an instance of the same transformers class."""
        from torch import nn

        new = type(model)(self.updated_config(model))
        new.load_state_dict(self.new_weights(model, model.state_dict(), new.state_dict()))
        nn.Module.to(new, model.device)
        return new.train(model.training)

    def updated_config(self, model: PreTrainedModel) -> PreTrainedConfig:
        """Return a changed copy of the model's config."""
        config = copy.deepcopy(model.config)
        self.update_config(config)
        return config

    def new_weights(self, model: PreTrainedModel, old: Weights, fresh: Weights) -> Weights:
        """Return all weights of the new model.

        Args:
            model: before the operation.
            old: its weights.
            fresh: random weights of the new model, initialized as before pretraining.
        """
        shapes = {name: tensor.shape for name, tensor in fresh.items()}
        return {n: t if t.shape == shapes[n] else self.reshaped(model.config, n, t, shapes[n]) for n, t in old.items()}

    def reshaped(self, config: PreTrainedConfig, name: str, tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Return a weight in its new shape; `config` is the one before the operation."""
        raise AssertionError(f"{name}: no weight changes its shape")

    def refusal(self, message: str) -> InputError:
        """Return the error for a checkpoint that the operation cannot change."""
        return InputError(f"model.surgery: {type(self).__name__}: {message}")

    def check_family(self, config: PreTrainedConfig, families: Collection[str]) -> None:
        """Raise an `InputError` if the checkpoint is of none of these families."""
        if config.model_type not in families:
            raise self.refusal(f"expected one of {', '.join(families)}, got {config.model_type}; leave it out")

    def family(self, config: PreTrainedConfig) -> Family:
        """Return the family of a checkpoint, or raise an `InputError` if it is not known."""
        self.check_family(config, FAMILIES)
        return family_of(config)

    def check_unshared(self, config: PreTrainedConfig) -> None:
        """Raise an `InputError` if the layers share their weights."""
        if self.family(config).shared:
            raise self.refusal(f"the layers of {config.model_type} share their weights; leave it out")

    def check_no_swiglu(self, config: PreTrainedConfig) -> None:
        """Raise an `InputError` for SwiGLU units, whose activation and width no field sets (DINOv2 giant)."""
        if config.to_dict().get("use_swiglu_ffn"):
            raise self.refusal(f"this {config.model_type} has SwiGLU units, which its config fixes; leave it out")


def layer_names(model: PreTrainedModel, weights: Collection[str]) -> list[str]:
    """Return the full names of the layers, bottom to top, from the names of weights."""
    pattern = re.escape(f"{model.base_model_prefix}.{family_of(model.config).layers}").replace(r"\{\}", r"(\d+)")
    matches = [match for name in weights if (match := re.match(pattern + r"(?=\.)", name))]
    numbers = {match[0]: tuple(map(int, match.groups())) for match in matches}
    return sorted(numbers, key=lambda name: numbers[name])
