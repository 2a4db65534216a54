"""Freeze layers, the encoder, all but one kind of weights, or the statistics of BatchNorm."""

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
from hf_finetune.models import modules
from hf_finetune.models.families import depths_of, family_of
from hf_finetune.models.modules import config_of, encoder, encoder_layers, head_modules
from hf_finetune.utils.messages import counted

WeightKind = Literal["all", "biases", "norms", "attention"]


def freeze_lower(model: nn.Module, n: int) -> None:
    """Freeze the embeddings and the lowest `n` encoder layers; 0 freezes nothing.

    Whatever the frozen layers read is frozen too (position biases that all layers share). Frozen modules always run in
    evaluation mode, without dropout, so that their output for an input never changes. Modules after the layers (a final
    norm, the pooler) and the head keep training. In a PEFT model the adapters of frozen layers are frozen, too.

    Raises:
        InputError: the encoder has fewer than `n` layers.
    """
    _check_depth("model.frozen_layers", n, model)
    if n > 0:
        _freeze_below(model, n)


def train_top(model: nn.Module, k: int) -> None:
    """Freeze the embeddings and all but the top `k` encoder layers, see `freeze_lower`.

    Raises:
        InputError: the encoder has fewer than `k` layers.
    """
    _freeze_below(model, _check_depth("model.top_layers", k, model) - k)


def _check_depth(field: str, n: int, model: nn.Module) -> int:
    """Return the number of encoder layers; refuse one below `n`."""
    depth = len(encoder_layers(model))
    if n > depth:
        raise InputError(
            f"{field}: {n}, but {config_of(model).model_type} has {counted(depth, 'layer')} here; give 0 to {depth}"
        )
    return depth


def _freeze_below(model: nn.Module, n: int) -> None:
    above = _from_layer(model, n)
    trained = {parameter for module in above for parameter in module.parameters()}
    for parameter in encoder(model).parameters():
        if parameter not in trained:
            parameter.requires_grad_(False)
    _evaluate_all_but(encoder(model), above)


def _from_layer(model: nn.Module, n: int) -> list[nn.Module]:
    """Return the encoder's layers from the n-th on, and the modules after the layers."""
    body, config, layers = encoder(model), config_of(model), encoder_layers(model)[n:]
    family = family_of(config)
    if family.stage_entries is not None:
        entries = modules.submodule(body, family.stage_entries, nn.ModuleList)
        first_layers = accumulate(depths_of(config), initial=0)
        # A downsampling module belongs to the layer after it; the first one is part of the embeddings.
        return [*(e for e, at in zip(entries, first_layers, strict=False) if at >= max(n, 1)), *layers]
    children, path = dict(body.named_children()), modules.layer_list(model)[0]
    index = list(children).index(path.split(".")[0])
    siblings = [body.get_submodule(name) for name in family.after_layers]
    return [*layers, *siblings, *list(children.values())[index + 1 :]]


def freeze_body(model: nn.Module, fresh: Sequence[str] = ()) -> None:
    """Freeze everything but the head, see `modules.head_modules`; the encoder then always runs in evaluation mode."""
    model.requires_grad_(False)
    head = [model.get_submodule(name) for name in head_modules(model, fresh)]
    for module in head:
        module.requires_grad_(True)
    _evaluate_all_but(encoder(model), head)


def _evaluate_all_but(parent: nn.Module, trained: Sequence[nn.Module]) -> None:
    """Keep every descendant of `parent` that contains no `trained` module in evaluation mode."""
    training = {m for module in trained for m in module.modules()}
    for child in parent.children():
        if child in training:
            continue
        # A `ModuleList` is never called itself.
        if training.isdisjoint(child.modules()) and not isinstance(child, nn.ModuleList):
            child.register_forward_pre_hook(_evaluate)
        else:
            _evaluate_all_but(child, trained)


def _evaluate(module: nn.Module, _inputs: object) -> None:
    # A hook, because the Trainer puts the model into training mode before every step.
    if module.training:
        module.eval()


def train_only(
    model: nn.Module, kind: WeightKind = "all", pattern: str | None = None, fresh: Sequence[str] = ()
) -> None:
    """Freeze all encoder weights but those of one kind; the head always trains.

    Weights that are frozen already stay frozen. Layers below the lowest trained one are treated as by `freeze_lower`.

    Args:
        kind: all; biases (BitFit, arXiv:2106.10199), including those of norms; norms, the scale and shift of every
            normalization (arXiv:2003.00152); attention, all weights of the attention blocks (arXiv:2203.09795).
        pattern: regular expression that a weight's name must match somewhere (`layer\\.(10|11)\\.`); only with kind
            "all".
        fresh: modules that the checkpoint lacks, see `loading.Loaded`; they train with the head.

    Raises:
        InputError: no encoder weight is of this kind, or no weight matches the pattern.
    """
    if kind == "all" and pattern is None:
        return
    trained = set(_weights_of_kind(model, kind) if pattern is None else _matching_weights(model, pattern))
    head = {id(p) for name in head_modules(model, fresh) for p in model.get_submodule(name).parameters()}
    for name, parameter in model.named_parameters():
        if name not in trained and id(parameter) not in head:
            parameter.requires_grad_(False)
    freeze_lower(model, frozen_layers(model))


def _matching_weights(model: nn.Module, pattern: str) -> list[str]:
    names = [name for name, _ in model.named_parameters()]
    matches = [name for name in names if re.search(pattern, name)]
    if not matches:
        close = ", ".join(difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3])
        family = config_of(model).model_type
        raise InputError(f"model.trainable_pattern: no weight of {family} is named {pattern!r}; close names: {close}")
    return matches


def _weights_of_kind(model: nn.Module, kind: WeightKind) -> list[str]:
    prefix = f"{modules.without_adapter(model).base_model_prefix}."
    names = [
        f"{module_name}.{name}"
        for module_name, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
        if f"{module_name}.".startswith(prefix) and _is_kind(kind, module_name, module, name)
    ]
    if not names:
        family = config_of(model).model_type
        raise InputError(f"model.trainable: {family} has no {kind} in its encoder; give another kind")
    return names


def _is_kind(kind: WeightKind, module_name: str, module: nn.Module, name: str) -> bool:
    if kind == "biases":
        # DeBERTa's first version has q_bias and v_bias.
        return name == "bias" or name.endswith("_bias")
    if kind == "norms":
        # By name, because families define norm classes of their own; GRN is ConvNeXt V2's global response norm.
        return "Norm" in type(module).__name__ or type(module).__name__.endswith("GRN")
    return any(part in ("attention", "attn") for part in module_name.split("."))


def lower_part(model: nn.Module, n: int) -> dict[str, torch.Tensor]:
    """Return the weights of the embeddings, the lowest `n` encoder layers and all that these read, by name."""
    above = {id(tensor) for module in _from_layer(model, n) for tensor in module.state_dict(keep_vars=True).values()}
    return {k: v.detach() for k, v in encoder(model).state_dict(keep_vars=True).items() if id(v) not in above}


def _parameters_from_layer(model: nn.Module) -> list[dict[nn.Parameter, None]]:
    """Return for each n, from 0 to all layers: the parameters of the layers from the n-th on and after the layers."""
    depths = range(len(encoder_layers(model)) + 1)
    return [dict.fromkeys(p for module in _from_layer(model, n) for p in module.parameters()) for n in depths]


def parameters_by_layer(model: nn.Module) -> list[list[nn.Parameter]]:
    """Return the parameters of each encoder layer, bottom to top, with those of downsampling before it."""
    return [[p for p in here if p not in above] for here, above in pairwise(_parameters_from_layer(model))]


def frozen_layers(model: nn.Module) -> int:
    """Return how many of the lowest encoder layers are frozen, with all that they read; 0 if the embeddings train."""
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        return 0  # The prompt trains, and it is the input of the layers.
    layers = encoder_layers(model)
    after = {parameter for module in _from_layer(model, 0) for parameter in module.parameters()}
    if any(p.requires_grad and p not in after for p in encoder(model).parameters()):
        return 0
    trains = [any(p.requires_grad for p in layer.parameters()) for layer in layers]
    return trains.index(True) if any(trains) else len(layers)


def groups_from_the_top(model: nn.Module, fresh: Sequence[str] = ()) -> list[list[nn.Parameter]]:
    """Return the trainable parameters in groups, top down: head and modules after the layers; each layer; embeddings.

    Parameters that layers share (position biases) are in the last group. Groups without trainable parameters are left
    out.

    Args:
        fresh: modules that the checkpoint lacks; they are in the first group.
    """
    in_encoder = set(encoder(model).parameters())
    head = [p for p in model.parameters() if p not in in_encoder]
    head += [p for name in fresh for p in model.get_submodule(name).parameters()]
    after_layers, *from_layer = reversed(_parameters_from_layer(model))
    groups: list[list[nn.Parameter]] = []
    seen: set[nn.Parameter] = set()
    for candidates in ([*head, *after_layers], *from_layer, model.parameters()):
        new = [p for p in dict.fromkeys(candidates) if p not in seen]
        seen |= set(new)
        groups.append([p for p in new if p.requires_grad])
    return [group for group in groups if group]


class _FixedStatistics(nn.Module):
    """BatchNorm that always normalizes with its running statistics and never updates them."""

    def train(self, mode: bool = True) -> Self:
        return super().train(False)


FIXED: dict[type[nn.Module], type[nn.Module]] = {
    kind: type(f"Fixed{kind.__name__}", (_FixedStatistics, kind), {})
    for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
}


def freeze_batch_norm(model: nn.Module, besides: Sequence[nn.Module] = ()) -> int:
    """Fix the running statistics of every BatchNorm layer; its scale and shift keep training.

    With batch statistics, gradients depend on how a batch is split over processes and accumulation steps, and small
    batches spoil the statistics from pretraining. The layers stay in evaluation mode after `model.train()`. Only their
    class changes, so that parameter names, `save_pretrained`, `copy.deepcopy` and DistributedDataParallel work as
    before.

    Args:
        besides: modules whose statistics stay free, because their weights are random.

    Returns:
        Number of layers that were fixed.
    """
    free = {m for module in besides for m in module.modules()}
    layers = [m for m in model.modules() if type(m) in FIXED and m not in free]
    for layer in layers:
        layer.__class__ = FIXED[type(layer)]
        layer.eval()
    return len(layers)


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """Return every BatchNorm layer, fixed or not."""
    return [module for module in model.modules() if isinstance(module, tuple(FIXED))]


@contextmanager
def as_in_training(model: nn.Module) -> Iterator[None]:
    """Put a model into training mode, with BatchNorm in evaluation mode; restore the mode afterwards."""
    was_training = model.training
    model.train()
    for layer in batch_norms(model):
        layer.eval()
    try:
        yield
    finally:
        model.train(was_training)


def trainable_parameters(model: nn.Module) -> tuple[int, int]:
    """Return the number of trainable parameters, and of all parameters."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)
