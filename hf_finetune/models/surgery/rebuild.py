"""What every operation shares: its refusals, and a model built anew from its changed config.

Nothing heavy is imported here or by the operations: a recipe names them, and a recipe must be cheap to read.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from hf_finetune.errors import InputError
from hf_finetune.models.families import FAMILIES, Family, family_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    Weights = dict[str, torch.Tensor]


class Operation:
    """An operation: called with a model, it builds the model anew from its updated config, the weights carried over.

    Whatever follows from the config (buffers, padding, sizes that modules remember) is then as a reloaded model has it,
    which changing modules in place would have to repeat by hand.
    """

    def update_config(self, config: PreTrainedConfig) -> object:
        """Write to `config` what changes in it, or raise what speaks against it."""
        raise NotImplementedError

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model that plain transformers builds, so the saved one loads as it stands."""
        from torch import nn

        new = type(model)(self.updated_config(model))
        new.load_state_dict(self.new_weights(model, model.state_dict(), new.state_dict()))
        nn.Module.to(new, model.device)
        return new.train(model.training)

    def updated_config(self, model: PreTrainedModel) -> PreTrainedConfig:
        """A copy of the model's config after the operation."""
        config = copy.deepcopy(model.config)
        self.update_config(config)
        return config

    def new_weights(self, model: PreTrainedModel, old: Weights, fresh: Weights) -> Weights:
        """All weights of the new model.

        Args:
            fresh: its first weights, random as pretraining started, from torch's generator.
        """
        shapes = {name: tensor.shape for name, tensor in fresh.items()}
        return {n: t if t.shape == shapes[n] else self.reshaped(model.config, n, t, shapes[n]) for n, t in old.items()}

    def reshaped(self, config: PreTrainedConfig, name: str, tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """A weight in the shape that it must have; `config` is as before the operation."""
        raise AssertionError(f"{name}: no weight changes its shape")

    def refusal(self, message: str) -> InputError:
        """The error of an operation that cannot be done: one line, to be raised."""
        return InputError(f"model.surgery: {type(self).__name__}: {message}")

    def check_family(self, config: PreTrainedConfig, families: Collection[str]) -> None:
        """Raise the error of an operation that is not for this family."""
        if config.model_type not in families:
            raise self.refusal(f"expected one of {', '.join(families)}, got {config.model_type}; leave it out")

    def family(self, config: PreTrainedConfig) -> Family:
        """The family of a checkpoint.

        Raises:
            InputError: it is not known here.
        """
        self.check_family(config, FAMILIES)
        family = family_of(config)
        assert family is not None, "checked above"
        return family

    def check_own_weights(self, config: PreTrainedConfig) -> None:
        """Raise the error of an operation that needs layers with weights of their own."""
        if self.family(config).shared:
            raise self.refusal(f"the layers of {config.model_type} share their weights; leave it out")

    def check_plain_units(self, config: PreTrainedConfig) -> None:
        """Raise the error of an operation on gated units whose activation and width no field sets (DINOv2's giant)."""
        if config.to_dict().get("use_swiglu_ffn"):
            raise self.refusal(f"this {config.model_type} has SwiGLU units, which its config fixes; leave it out")

    def requested_width(self, width: int | None, ratio: float | None, *, before: float, unit: str) -> int:
        """The new width, requested as it is or as a multiple of the one before."""
        if ratio is None and width is not None:
            new, option = float(width), f"width {width}"
        elif width is None and ratio is not None:
            new, option = before * ratio, f"ratio {ratio}"
        else:
            raise self.refusal("expected width or ratio, one of them")
        if new < 1 or not new.is_integer():
            raise self.refusal(f"expected a whole number of {unit}, at least 1, got {new:g} from {option}")
        return int(new)


def layer_names(model: PreTrainedModel, family: Family, weights: Collection[str]) -> list[str]:
    """Full names of the layers, bottom to top, from the names of weights."""
    pattern = re.escape(f"{model.base_model_prefix}.{family.layers}").replace(r"\{\}", r"(\d+)")
    matches = [match for name in weights if (match := re.match(pattern + r"(?=\.)", name))]
    numbers = {match[0]: tuple(map(int, match.groups())) for match in matches}
    return sorted(numbers, key=lambda name: numbers[name])
