"""Which parameters train: layers from the bottom up, the head alone, and BatchNorm's statistics."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from hf_finetune.errors import InputError
from hf_finetune.models.heads import encoder, head_modules


def encoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The encoder's layers, bottom to top: the children of its outermost list of modules.

    Transformer blocks for the flat families. For Swin, ConvNeXt and ResNet these are the stages, because the blocks of
    a stage share its downsampling. ALBERT has one layer, which it applies many times.

    Raises:
        InputError: the encoder has no list of layers.
    """
    return list(_layer_list(model)[1])


def _layer_list(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The list and its name inside the encoder."""
    for name, module in encoder(model).named_modules():
        if isinstance(module, nn.ModuleList):
            return name, module
    raise InputError(f"{model.config.model_type}: this family has no list of layers to choose from")


def freeze_lower(model: PreTrainedModel, n: int) -> None:
    """Freeze the embeddings and the lowest `n` encoder layers. 0 freezes nothing.

    All that the frozen layers read is frozen with them (position biases that all layers share), so their output for a
    given input stays what it was. What follows the layers (a final norm, the pooler) and the head go on training. In a
    PEFT model the adapters of those layers are frozen too.

    Raises:
        InputError: the encoder has fewer than `n` layers.
    """
    path, layers = _layer_list(model)
    if n > len(layers):
        raise InputError(
            f"model.frozen_layers: {n}, but {model.config.model_type} has {len(layers)} layers here; "
            f"give 0 to {len(layers)}"
        )
    if n == 0:
        return
    after: set[nn.Parameter] = set()
    children = dict(encoder(model).named_children())
    below = list(children).index(path.split(".")[0])
    for module in [*layers[n:], *list(children.values())[below + 1 :]]:
        after.update(module.parameters())
    for parameter in encoder(model).parameters():
        if parameter not in after:
            parameter.requires_grad_(False)


def freeze_body(model: PreTrainedModel, fresh: Sequence[str] = ()) -> None:
    """Freeze everything but the head, see `heads.head_modules`."""
    model.requires_grad_(False)
    for name in head_modules(model, fresh):
        model.get_submodule(name).requires_grad_(True)


class _FixedStatistics:
    """BatchNorm that normalises with its running statistics whatever the mode, and never updates them."""

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)


class FixedBatchNorm1d(_FixedStatistics, nn.BatchNorm1d):
    """`nn.BatchNorm1d` with fixed statistics."""


class FixedBatchNorm2d(_FixedStatistics, nn.BatchNorm2d):
    """`nn.BatchNorm2d` with fixed statistics."""


class FixedBatchNorm3d(_FixedStatistics, nn.BatchNorm3d):
    """`nn.BatchNorm3d` with fixed statistics."""


FIXED = {nn.BatchNorm1d: FixedBatchNorm1d, nn.BatchNorm2d: FixedBatchNorm2d, nn.BatchNorm3d: FixedBatchNorm3d}


def freeze_batch_norm(model: nn.Module) -> int:
    """Fix the running statistics of every BatchNorm layer; its scale and shift go on training.

    With statistics of the batch, a gradient depends on how the batch was split over processes and accumulation steps,
    and a small batch spoils what pretraining measured. The layers stay in evaluation mode after `model.train()`. Only
    their class changes, so parameter names, `save_pretrained`, `copy.deepcopy` and DistributedDataParallel are not
    concerned.

    Returns:
        Number of layers that were changed.
    """
    layers = [m for m in model.modules() if type(m) in FIXED]
    for layer in layers:
        layer.__class__ = FIXED[type(layer)]
        layer.eval()
    return len(layers)


def trainable_parameters(model: nn.Module) -> tuple[int, int]:
    """Numbers of parameters that train, and of all."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)
