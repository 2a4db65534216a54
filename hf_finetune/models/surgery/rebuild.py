"""What every operation shares: its refusals, and a model built anew from its changed config.

Nothing heavy is imported here or by the operations: a recipe names them, and a recipe must be cheap to read.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Protocol

from hf_finetune.errors import InputError
from hf_finetune.models.families import FAMILIES, Family, family_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    Weights = dict[str, torch.Tensor]
    NewWeights = Callable[[Weights, Weights], Weights]
    """From the old model's weights and the new one's first weights (random as pretraining started, from torch's
    generator) to those that the new one gets, all of them."""
    Reshape = Callable[[str, torch.Tensor, torch.Size], torch.Tensor]
    """From a weight's name, its values and the shape that it must have, to the values in that shape."""


class Step(Protocol):
    """An operation."""

    def update_config(self, config: PreTrainedConfig) -> object:
        """Write to `config` what changes in it, or raise what speaks against it."""


def refusal(step: object, message: str) -> InputError:
    """The error of an operation that cannot be done: one line, to be raised."""
    return InputError(f"model.surgery: {type(step).__name__}: {message}")


def check_family(step: object, config: PreTrainedConfig, families: Collection[str]) -> None:
    """Raise the error of an operation that is not for this family."""
    if config.model_type not in families:
        raise refusal(step, f"expected one of {', '.join(families)}, got {config.model_type}; leave it out")


def known_family(step: object, config: PreTrainedConfig) -> Family:
    """The family of a checkpoint.

    Raises:
        InputError: it is not known here.
    """
    check_family(step, config, FAMILIES)
    family = family_of(config)
    assert family is not None, "checked above"
    return family


def check_own_weights(step: object, config: PreTrainedConfig, family: Family) -> None:
    """Raise the error of an operation that needs layers with weights of their own."""
    if family.shared:
        raise refusal(step, f"the layers of {config.model_type} share their weights; leave it out")


def check_plain_units(step: object, config: PreTrainedConfig) -> None:
    """Raise the error of an operation on gated units whose activation and width no field says (DINOv2's giant)."""
    if config.to_dict().get("use_swiglu_ffn"):
        raise refusal(step, f"this {config.model_type} has SwiGLU units, which its config fixes; leave it out")


def requested_width(step: object, width: int | None, ratio: float | None, *, before: float, unit: str) -> int:
    """The new width, given as it is or as a multiple of the one before."""
    if ratio is None and width is not None:
        new, option = float(width), f"width {width}"
    elif width is None and ratio is not None:
        new, option = before * ratio, f"ratio {ratio}"
    else:
        raise refusal(step, "expected width or ratio, one of them")
    if new < 1 or not new.is_integer():
        raise refusal(step, f"expected a whole number of {unit}, at least 1, got {new:g} from {option}")
    return int(new)


def updated_config(step: Step, model: PreTrainedModel) -> PreTrainedConfig:
    """A copy of the model's config after an operation."""
    config = copy.deepcopy(model.config)
    step.update_config(config)
    return config


def unchanged(old: Weights, fresh: Weights) -> Weights:
    """The old model's weights."""
    return old


def reshaped(reshape: Reshape) -> NewWeights:
    """The old model's weights, those with another shape in the new one reshaped."""

    def weights(old: Weights, fresh: Weights) -> Weights:
        return {n: t if t.shape == fresh[n].shape else reshape(n, t, fresh[n].shape) for n, t in old.items()}

    return weights


def rebuilt(model: PreTrainedModel, config: PreTrainedConfig, weights: NewWeights = unchanged) -> PreTrainedModel:
    """What plain transformers builds from `config`, with other weights: so the saved model loads as it stands.

    Whatever follows from the config (buffers, padding, sizes that modules remember) is then as a reloaded model has it,
    which changing modules in place would have to repeat by hand.
    """
    from torch import nn

    new = type(model)(config)
    new.load_state_dict(weights(model.state_dict(), new.state_dict()))
    nn.Module.to(new, model.device)
    return new.train(model.training)


def layer_names(model: PreTrainedModel, family: Family, weights: Collection[str]) -> list[str]:
    """Full names of the layers, bottom to top, from the names of weights."""
    pattern = re.escape(f"{model.base_model_prefix}.{family.layers}").replace(r"\{\}", r"(\d+)")
    matches = [match for name in weights if (match := re.match(pattern + r"(?=\.)", name))]
    numbers = {match[0]: tuple(map(int, match.groups())) for match in matches}
    return sorted(numbers, key=lambda name: numbers[name])
