"""Which parameters train: layers from the top down, the head, one kind of weights; and BatchNorm's statistics."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import Literal, Self

import torch
from peft import PeftModel
from torch import nn

from hf_finetune.errors import InputError
from hf_finetune.models.families import depths_of, family_of
from hf_finetune.models.modules import (
    config_of,
    encoder,
    encoder_layers,
    head_modules,
    layer_list,
    submodule,
    without_adapter,
)

Which = Literal["all", "biases", "norms", "attention"]


def freeze_lower(model: nn.Module, n: int) -> None:
    """Freeze the embeddings and the lowest `n` encoder layers. 0 freezes nothing.

    All that the frozen layers read is frozen with them (position biases that all layers share), and they run in
    evaluation mode whatever the model's mode is, without dropout: their output for a given input stays what it was.
    What follows the layers (a final norm, the pooler) and the head go on training. In a PEFT model the adapters of
    those layers are frozen too.

    Raises:
        InputError: the encoder has fewer than `n` layers.
    """
    _check_depth("model.frozen_layers", n, model)
    if n > 0:
        _freeze_below(model, n)


def train_top(model: nn.Module, k: int) -> None:
    """Freeze the embeddings and all encoder layers but the top `k`, as `freeze_lower` does.

    Raises:
        InputError: the encoder has fewer than `k` layers.
    """
    _freeze_below(model, _check_depth("model.top_layers", k, model) - k)


def _check_depth(field: str, n: int, model: nn.Module) -> int:
    """Number of layers of the encoder, `n` or more."""
    depth = len(encoder_layers(model))
    if n > depth:
        raise InputError(f"{field}: {n}, but {config_of(model).model_type} has {depth} layers here; give 0 to {depth}")
    return depth


def _freeze_below(model: nn.Module, n: int) -> None:
    above = _above(model, n)
    trained = {parameter for module in above for parameter in module.parameters()}
    for parameter in encoder(model).parameters():
        if parameter not in trained:
            parameter.requires_grad_(False)
    _evaluate_all_but(encoder(model), above)


def _above(model: nn.Module, n: int) -> list[nn.Module]:
    """The encoder's layers from the `n`-th on, and what follows the layers."""
    body, config, layers = encoder(model), config_of(model), encoder_layers(model)[n:]
    family = family_of(config)
    if family is not None and family.stage_entries is not None:
        entries = submodule(body, family.stage_entries, nn.ModuleList)
        first_layers = accumulate(depths_of(config, family), initial=0)
        # An entry goes with the layer behind it; that of the first stage is below all.
        return [*(e for e, at in zip(entries, first_layers, strict=False) if at >= max(n, 1)), *layers]
    children, path = dict(body.named_children()), layer_list(model)[0]
    list_at = list(children).index(path.split(".")[0])
    beside = [body.get_submodule(name) for name in family.above] if family else []
    return [*layers, *beside, *list(children.values())[list_at + 1 :]]


def freeze_body(model: nn.Module, fresh: Sequence[str] = ()) -> None:
    """Freeze everything but the head, see `modules.head_modules`; the encoder runs in evaluation mode from then on."""
    model.requires_grad_(False)
    head = [model.get_submodule(name) for name in head_modules(model, fresh)]
    for module in head:
        module.requires_grad_(True)
    _evaluate_all_but(encoder(model), head)


def _evaluate_all_but(whole: nn.Module, trained: Sequence[nn.Module]) -> None:
    """Keep every part of `whole` that holds none of the `trained` modules in evaluation mode."""
    training = {m for module in trained for m in module.modules()}
    for child in whole.children():
        if child in training:
            continue
        # A list of modules is never called itself.
        if training.isdisjoint(child.modules()) and not isinstance(child, nn.ModuleList):
            child.register_forward_pre_hook(_evaluate)
        else:
            _evaluate_all_but(child, trained)


def _evaluate(module: nn.Module, _inputs: object) -> None:
    # In a hook rather than once: the Trainer puts the whole model into training mode before every step.
    if module.training:
        module.eval()


def train_only(model: nn.Module, which: Which = "all", pattern: str | None = None, fresh: Sequence[str] = ()) -> None:
    """Freeze the encoder but for one kind of weights; the head trains whatever the kind is.

    What was frozen before stays frozen. Layers below all that train run without dropout from then on, as those that
    `freeze_lower` freezes: their output for a given input never changes.

    Args:
        which: all; biases (BitFit, https://arxiv.org/abs/2106.10199), those of norms among them; norms, the scale and
            shift of every normalization (https://arxiv.org/abs/2003.00152); attention, all weights of the attention
            blocks (https://arxiv.org/abs/2203.09795).
        pattern: regular expression; the weights train whose name it matches somewhere (`layer\\.(10|11)\\.`). With
            `which` "all" only.
        fresh: modules that the checkpoint did not have, see `loading.Loaded`; they count to the head.

    Raises:
        InputError: no weight of the encoder is of this kind, or none of the model has such a name.
    """
    if which == "all" and pattern is None:
        return
    trained = set(_of_kind(model, which) if pattern is None else _matching(model, pattern))
    head = {id(p) for name in head_modules(model, fresh) for p in model.get_submodule(name).parameters()}
    for name, parameter in model.named_parameters():
        if name not in trained and id(parameter) not in head:
            parameter.requires_grad_(False)
    freeze_lower(model, frozen_layers(model))


def _matching(model: nn.Module, pattern: str) -> list[str]:
    names = [name for name, _ in model.named_parameters()]
    matches = [name for name in names if re.search(pattern, name)]
    if not matches:
        close = ", ".join(difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3])
        family = config_of(model).model_type
        raise InputError(f"model.trainable_pattern: no weight of {family} is named {pattern!r}; close names: {close}")
    return matches


def _of_kind(model: nn.Module, which: Which) -> list[str]:
    prefix = f"{without_adapter(model).base_model_prefix}."
    names = [
        f"{name}.{own}"
        for name, module in model.named_modules()
        for own, _ in module.named_parameters(recurse=False)
        if f"{name}.".startswith(prefix) and _is_kind(which, name, module, own)
    ]
    if not names:
        family = config_of(model).model_type
        raise InputError(f"model.trainable: {family} has no {which} in its encoder; give another kind")
    return names


def _is_kind(which: Which, name: str, module: nn.Module, own: str) -> bool:
    """Whether a parameter, `own` in the module of this name, is of this kind."""
    if which == "biases":
        # DeBERTa's first version keeps q_bias and v_bias.
        return own == "bias" or own.endswith("_bias")
    if which == "norms":
        # Families bring norms of their own, which torch's classes do not cover, but all bear the name; ConvNeXt V2's is
        # called global response normalization.
        return "Norm" in type(module).__name__ or type(module).__name__.endswith("GRN")
    return any(part in ("attention", "attn") for part in name.split("."))


def lower_part(model: nn.Module, n: int) -> dict[str, torch.Tensor]:
    """Weights of the embeddings, of the lowest `n` encoder layers and of all else that these read, by name."""
    above = {id(tensor) for module in _above(model, n) for tensor in module.state_dict(keep_vars=True).values()}
    return {k: v.detach() for k, v in encoder(model).state_dict(keep_vars=True).items() if id(v) not in above}


def _parameters_above(model: nn.Module) -> list[dict[nn.Parameter, None]]:
    """For each number of layers, from 0 to all: the parameters of the layers above these and of what follows."""
    depths = range(len(encoder_layers(model)) + 1)
    return [dict.fromkeys(p for module in _above(model, n) for p in module.parameters()) for n in depths]


def parameters_by_layer(model: nn.Module) -> list[list[nn.Parameter]]:
    """Of each encoder layer, the lowest first: its own, and those of what leads into it from the layer below."""
    return [[p for p in here if p not in above] for here, above in pairwise(_parameters_above(model))]


def frozen_layers(model: nn.Module) -> int:
    """Number of the lowest encoder layers that are frozen, with all that they read. 0 when the embeddings train."""
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        return 0  # What trains stands below all layers.
    layers = encoder_layers(model)
    after = {parameter for module in _above(model, 0) for parameter in module.parameters()}
    if any(p.requires_grad and p not in after for p in encoder(model).parameters()):
        return 0
    trains = [any(p.requires_grad for p in layer.parameters()) for layer in layers]
    return trains.index(True) if any(trains) else len(layers)


def groups_from_the_top(model: nn.Module, fresh: Sequence[str] = ()) -> list[list[nn.Parameter]]:
    """The parameters that train, from the top down: the head with what follows the layers, each layer, the embeddings.

    What several layers share (position biases) goes with the embeddings. Groups of which nothing trains are left out.

    Args:
        fresh: modules that the checkpoint did not have; they go with the head.
    """
    in_body = set(encoder(model).parameters())
    on_top = [p for p in model.parameters() if p not in in_body]
    on_top += [p for name in fresh for p in model.get_submodule(name).parameters()]
    top, *below = reversed(_parameters_above(model))
    groups: list[list[nn.Parameter]] = []
    seen: set[nn.Parameter] = set()
    for candidates in ([*on_top, *top], *below, model.parameters()):
        new = [p for p in dict.fromkeys(candidates) if p not in seen]
        seen |= set(new)
        groups.append([p for p in new if p.requires_grad])
    return [group for group in groups if group]


class _FixedStatistics(nn.Module):
    """BatchNorm that normalizes with its running statistics whatever the mode, and never updates them."""

    def train(self, mode: bool = True) -> Self:
        return super().train(False)


class FixedBatchNorm1d(_FixedStatistics, nn.BatchNorm1d):
    """`nn.BatchNorm1d` with fixed statistics."""


class FixedBatchNorm2d(_FixedStatistics, nn.BatchNorm2d):
    """`nn.BatchNorm2d` with fixed statistics."""


class FixedBatchNorm3d(_FixedStatistics, nn.BatchNorm3d):
    """`nn.BatchNorm3d` with fixed statistics."""


FIXED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: FixedBatchNorm1d,
    nn.BatchNorm2d: FixedBatchNorm2d,
    nn.BatchNorm3d: FixedBatchNorm3d,
}


def freeze_batch_norm(model: nn.Module, besides: Sequence[nn.Module] = ()) -> int:
    """Fix the running statistics of every BatchNorm layer; its scale and shift go on training.

    With statistics of the batch, a gradient depends on how the batch was split over processes and accumulation steps,
    and a small batch spoils what pretraining measured. The layers stay in evaluation mode after `model.train()`. Only
    their class changes, so parameter names, `save_pretrained`, `copy.deepcopy` and DistributedDataParallel are not
    concerned.

    Args:
        besides: modules in which they go on measuring: those of random weights, whose statistics are still unknown.

    Returns:
        Number of layers that were changed.
    """
    measuring = {m for part in besides for m in part.modules()}
    layers = [m for m in model.modules() if type(m) in FIXED and m not in measuring]
    for layer in layers:
        layer.__class__ = FIXED[type(layer)]
        layer.eval()
    return len(layers)


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """Every BatchNorm layer, its statistics fixed or not."""
    return [module for module in model.modules() if isinstance(module, tuple(FIXED))]


@contextmanager
def as_in_training(model: nn.Module) -> Iterator[None]:
    """Training mode inside, the former mode after. BatchNorm alone is as in evaluation: its statistics stay."""
    was_training = model.training
    model.train()
    for layer in batch_norms(model):
        layer.eval()
    try:
        yield
    finally:
        model.train(was_training)


def trainable_parameters(model: nn.Module) -> tuple[int, int]:
    """Numbers of parameters that train, and of all."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)
