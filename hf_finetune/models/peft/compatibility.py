"""Which PEFT method fits which family, and what its config leaves open; from the modules alone, without weights."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Sequence
from typing import Any

from peft import AdaLoraConfig, IA3Config, LoraConfig, PeftConfig, PeftType, PromptLearningConfig, TaskType
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.errors import InputError
from hf_finetune.models.families import family_of
from hf_finetune.models.modules import encoder, encoder_layers, head_modules
from hf_finetune.models.peft.config import PEFT_TYPES
from hf_finetune.models.surgery.rebuild import layer_names

SUPPORTED = tuple(map(PeftType, PEFT_TYPES))
# Methods that add to the input, not to weights: no stock class can hold their result.
PROMPTS = (PeftType.PROMPT_TUNING, PeftType.P_TUNING, PeftType.PREFIX_TUNING)
# Methods whose result is a stock model once merged: the merged and reloaded one gives the same logits, see the tests.
# LN tuning merges into a model that still has peft's wrappers in it.
MERGEABLE = tuple(kind for kind in SUPPORTED if kind not in PROMPTS)
# Those that work on convolutions, of the networks that have nothing else (ResNet).
NOT_ON_CONVOLUTIONS = (PeftType.VERA, PeftType.OFT, PeftType.FOURIERFT, PeftType.RANDLORA)
ON_CONVOLUTIONS = tuple(kind for kind in MERGEABLE if kind not in NOT_ON_CONVOLUTIONS)
# Methods that multiply the weights they are put on.
MULTIPLYING = (PeftType.IA3, PeftType.OFT, PeftType.BOFT, PeftType.HRA)
# Ways to initialize LoRA that take a part out of the pretrained weights, see `adapters.save_adapter`.
SUBTRACTING = ("pissa", "olora")
INITIALIZATIONS = (True, False, "gaussian", "orthogonal", *SUBTRACTING)
VIRTUAL_TOKENS = 20
# Swin v2's, from two coordinates to a bias for each head: no linear layers that tokens go through.
POSITION_BIASES = "continuous_position_bias_mlp"
# With tf_padding they read the stride off a convolution; peft's layer around it has none.
PADDING_BY_HAND = ("mobilenet_v1", "mobilenet_v2")
INSTEAD = "use --method full, top or head"


def method_of(config: PeftConfig) -> str:
    """The method's name."""
    return PeftType(config.peft_type).value


def check_fit(model: PreTrainedModel, config: PeftConfig) -> None:
    """Refuse a method that does not work with a family.

    Args:
        model: with or without weights, see `meta_model`.

    Raises:
        InputError: naming the method, the family and what would work.
    """
    name = method_of(config)
    if config.peft_type not in SUPPORTED:
        raise InputError(f"adapter: {name} is not supported yet; expected {_names(SUPPORTED)}")
    misfit = _prompt_misfit(model, config) if config.is_prompt_learning else _layer_misfit(model, config)
    if misfit is not None:
        raise InputError(f"adapter: {name} does not fit {model.config.model_type}{misfit}")
    if isinstance(config, AdaLoraConfig) and config.target_r >= config.init_r:
        expected = "expected below init_r, from which ranks are cut"
        raise InputError(f"adapter.target_r: {expected}, got {config.target_r} and {config.init_r}")


def _names(kinds: Iterable[PeftType]) -> str:
    return ", ".join(kind.value for kind in kinds)


def _prompt_misfit(model: PreTrainedModel, config: PeftConfig) -> str | None:
    """Why a family has no use for a prompt, and what would work; None: it has."""
    if model.main_input_name != "input_ids":
        return ": images have no prompt; use LORA"
    takes_prefix = "past_key_values" in inspect.signature(encoder(model).forward).parameters
    if config.peft_type == PeftType.PREFIX_TUNING and not takes_prefix:
        # As which peft hands the prefix over.
        return ": its encoder takes no past_key_values; use PROMPT_TUNING or P_TUNING"
    return None


def _layer_misfit(model: PreTrainedModel, config: PeftConfig) -> str | None:
    """Why the family's layers do not go with a method, and what would work; None: they do."""
    kind = config.peft_type
    if model.config.model_type in PADDING_BY_HAND and model.config.tf_padding:
        return f", which pads a convolution by a stride that an adapter around it hides; {INSTEAD}"
    modules = [m for layer in encoder_layers(model) for m in layer.modules()]
    convolutions = [m for m in modules if isinstance(m, nn.Conv2d)]
    linear = any(isinstance(m, nn.Linear) for m in modules)
    if convolutions and not linear and kind not in ON_CONVOLUTIONS:
        return f", which has convolutions alone; expected {_names(ON_CONVOLUTIONS)}"
    if convolutions and kind == PeftType.OFT:
        # It fails in forward.
        return ", a convolutional network; use BOFT or LORA"
    if kind == PeftType.HRA and any(isinstance(m.padding, str) for m in convolutions):
        return ", whose convolutions pad by themselves; use LORA"
    if isinstance(config, LoraConfig) and kind == PeftType.LORA:
        start = config.init_lora_weights
        if start not in INITIALIZATIONS and not str(start).startswith("pissa_niter_"):
            expected = f"expected {', '.join(map(str, INITIALIZATIONS))} or pissa_niter_N"
            raise InputError(f"adapter.init_lora_weights: {start!r} is not supported; {expected}")
        if cuts_out(config) and not linear:
            return f", which has no linear layers for init_lora_weights {start}; use another"
    return None


def begins_silent(config: PeftConfig) -> bool:
    """Whether the network computes with the adapter, before it is trained, what it computes without.

    Not where prompts stand before the row, nor where the config has random numbers throughout; FourierFT's default has.
    """
    if config.is_prompt_learning:
        return False
    return getattr(config, "init_lora_weights", getattr(config, "init_weights", True)) is not False


def check_added_layers(model: PreTrainedModel, config: PeftConfig) -> None:
    """Refuse an adapter under which the layers of `surgery.layers.AddLayers` would be silent forever.

    Their output weights are 0: what multiplies these leaves them there, PiSSA finds no direction in them to begin with,
    and DoRA divides by their length.

    Args:
        model: with or without weights, see `meta_model`.

    Raises:
        InputError: naming the method and what would work.
    """
    family = family_of(model.config)
    assert family is not None, "refused by AddLayers"
    layer = model.get_submodule(layer_names(model, family, model.state_dict())[0])
    outputs = [module for name, module in layer.named_modules() if name in family.outputs]
    name, works = method_of(config), "LORA without use_dora or pissa"
    stays_silent = config.peft_type in MULTIPLYING
    if isinstance(config, LoraConfig) and config.peft_type == PeftType.LORA:
        stays_silent = config.use_dora or str(config.init_lora_weights).startswith("pissa")
        name = "DoRA" if config.use_dora else "PiSSA" if stays_silent else name
    why = "whose new layers would stay silent"
    if not begins_silent(config):
        name, why = f"{method_of(config)} that begins at random", "which keeps what the network computes"
    elif not any(isinstance(module, nn.Linear | nn.Conv2d) for module in outputs):
        # ResNet's and EfficientNet's are silent by a norm, which no adapter is on.
        name, works = method_of(config), "no adapter"
    elif not stays_silent:
        return
    remedy = f"use {works}, or leave AddLayers out"
    raise InputError(f"adapter: {name} does not go with AddLayers in model.surgery, {why}; {remedy}")


def cuts_out(config: PeftConfig) -> bool:
    """Whether the adapter begins as a part of the pretrained weights that is taken out of them.

    PiSSA (https://arxiv.org/abs/2404.02948) takes the largest singular directions, OLoRA
    (https://arxiv.org/abs/2406.01775) an orthonormal basis.
    """
    if not isinstance(config, LoraConfig) or config.peft_type != PeftType.LORA:
        return False
    return str(config.init_lora_weights).startswith(SUBTRACTING)


def complete(model: PreTrainedModel, config: PeftConfig, fresh: Sequence[str]) -> PeftConfig:
    """A copy of the config with its open ends closed, see `adapters.add_adapter`.

    Raises:
        InputError: as `check_fit`; it names a module that the model does not have, or the layers have none for it.
    """
    check_fit(model, config)
    # The methods share the names of their fields, but no class that has them.
    whole: Any = copy.deepcopy(config)
    if isinstance(whole, PromptLearningConfig):
        _complete_prompt(model, whole)
    elif whole.target_modules is None or whole.target_modules == "all-linear":
        whole.target_modules = targets(model)
        if not whole.target_modules:
            # I-BERT has linear layers of its own kind, SqueezeBERT convolutions along the text.
            why = f"{model.config.model_type}, whose layers have no torch.nn.Linear or Conv2d to put it on"
            raise InputError(f"adapter: {method_of(config)} does not fit {why}; {INSTEAD}")
        if isinstance(whole, IA3Config) and whole.feedforward_modules is None:
            # Scale what every target gives, rather than what some of them take.
            whole.feedforward_modules = []
    # peft's class for SEQ_CLS passes input_ids, which image models do not take.
    whole.task_type = None if model.main_input_name == "pixel_values" else TaskType.SEQ_CLS
    whole.modules_to_save = head_modules(model, [*fresh, *_full_names(model, whole.modules_to_save or [])])
    whole.base_model_name_or_path = model.name_or_path
    return whole


def _complete_prompt(model: PreTrainedModel, config: Any) -> None:
    """Sizes, which peft reads from config fields that not every family has."""
    # ELECTRA and ALBERT have words of another width than their layers.
    width = model.get_input_embeddings().embedding_dim
    config.num_virtual_tokens = config.num_virtual_tokens or VIRTUAL_TOKENS
    config.token_dim = config.token_dim or width
    config.num_layers = config.num_layers or model.config.num_hidden_layers
    config.num_attention_heads = config.num_attention_heads or model.config.num_attention_heads
    if config.peft_type == PeftType.P_TUNING:
        config.encoder_hidden_size = config.encoder_hidden_size or width
    if config.peft_type == PeftType.PROMPT_TUNING and config.prompt_tuning_init_text:
        config.tokenizer_name_or_path = config.tokenizer_name_or_path or model.name_or_path


def virtual_tokens(config: PeftConfig) -> int:
    """Tokens that a prompt takes of the model's positions."""
    if not isinstance(config, PromptLearningConfig) or config.peft_type == PeftType.PREFIX_TUNING:
        return 0
    return config.num_virtual_tokens or VIRTUAL_TOKENS


def _full_names(model: PreTrainedModel, names: Sequence[str]) -> list[str]:
    """Full names of the modules that a config names by their end.

    peft passes over a name that it does not find, and takes `embeddings` for `word_embeddings` too, one inside the
    other, so that saving fails.
    """
    full_names: list[str] = []
    for name in names:
        matches = [full for full, _ in model.named_modules() if f".{full}".endswith(f".{name}")]
        if not matches:
            raise InputError(f"adapter.modules_to_save: {model.config.model_type} has no module {name!r}")
        full_names += matches
    return full_names


def targets(model: PreTrainedModel) -> list[str]:
    """Full names of the linear layers within the encoder's layers; convolutions where there are none (ResNet).

    Depthwise convolutions (ConvNeXt) are left out: a low-rank update mixes channels, which they do not. So is what
    makes biases of positions.
    """
    in_layers = {m for layer in encoder_layers(model) for m in layer.modules()}
    named = [(name, m) for name, m in model.named_modules() if m in in_layers and POSITION_BIASES not in name]
    linear = [name for name, m in named if isinstance(m, nn.Linear)]
    return linear or [name for name, m in named if isinstance(m, nn.Conv2d) and m.groups == 1]
