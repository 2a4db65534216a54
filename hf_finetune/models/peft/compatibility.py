"""Check whether a PEFT method supports a family, and complete its config; needs modules, but no weights."""

import copy
import inspect
from collections.abc import Sequence
from typing import Any

from peft import AdaLoraConfig, IA3Config, LoraConfig, PeftConfig, PeftType, PromptLearningConfig, TaskType
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.errors import InputError
from hf_finetune.models.families import residual_outputs
from hf_finetune.models.modules import encoder, encoder_layers, head_modules, is_token_classifier
from hf_finetune.models.peft.config import PEFT_TYPES
from hf_finetune.models.surgery.rebuild import layer_names

SUPPORTED = tuple(map(PeftType, PEFT_TYPES))
# Methods that add to the input: their result cannot be merged into a stock class.
PROMPTS = (PeftType.PROMPT_TUNING, PeftType.P_TUNING, PeftType.PREFIX_TUNING)
# Methods that can be merged into a stock model; tests compare the logits of the reloaded one. LN tuning is not
# supported, because it leaves peft's wrappers in the merged model.
MERGEABLE = tuple(kind for kind in SUPPORTED if kind not in PROMPTS)
# Methods that support networks with convolutions only (ResNet).
NOT_ON_CONVOLUTIONS = (PeftType.VERA, PeftType.OFT, PeftType.FOURIERFT, PeftType.RANDLORA)
ON_CONVOLUTIONS = tuple(kind for kind in MERGEABLE if kind not in NOT_ON_CONVOLUTIONS)
# Methods that multiply the adapted weights.
MULTIPLYING = (PeftType.IA3, PeftType.OFT, PeftType.BOFT, PeftType.HRA)
# Initializations of LoRA that subtract the adapter from the pretrained weights, see `adapters.save_adapter`.
SUBTRACTING = ("pissa", "olora")
INITIALIZATIONS = (True, False, "gaussian", "orthogonal", *SUBTRACTING)
# Field of LoRA with which peft ignores the adapter in a classifier (activated LoRA, arXiv:2504.12397).
ACTIVATED = "alora_invocation_tokens"
WHY_NOT_ACTIVATED = "expected none, with it peft adapts only text that a language model generates"
VIRTUAL_TOKENS = 20
# Part of a name in Swin v2: linear layers that map coordinates to position biases, and read no tokens.
POSITION_BIASES = "continuous_position_bias_mlp"
# With tf_padding they read the stride of a convolution, which peft's wrapper does not have.
PADDING_BY_HAND = ("mobilenet_v1", "mobilenet_v2")
INSTEAD = "use --method full, top or head"


def method_of(config: PeftConfig) -> str:
    """Return the method's name."""
    return PeftType(config.peft_type).value


def check_fit(model: PreTrainedModel, config: PeftConfig) -> None:
    """Refuse a method that does not support a family.

    Args:
        model: with weights, or on the meta device.

    Raises:
        InputError: the message names the method, the family and an alternative.
    """
    name = method_of(config)
    if config.peft_type not in SUPPORTED:
        raise InputError(f"adapter: {name} is not supported yet; expected {', '.join(SUPPORTED)}")
    misfit = _prompt_misfit(model, config) if config.is_prompt_learning else _layer_misfit(model, config)
    if misfit is not None:
        raise InputError(f"adapter: {name} does not fit {model.config.model_type}{misfit}")
    if isinstance(config, AdaLoraConfig) and config.target_r >= config.init_r:
        expected = "expected less than init_r, which AdaLoRA reduces to it"
        raise InputError(f"adapter.target_r: {expected}, got {config.target_r} and {config.init_r}")


def _prompt_misfit(model: PreTrainedModel, config: PeftConfig) -> str | None:
    """Return why a family cannot use a prompt, and an alternative; None: it can."""
    if model.main_input_name != "input_ids":
        return ": images have no prompt; use LORA"
    takes_prefix = "past_key_values" in inspect.signature(encoder(model).forward).parameters
    if config.peft_type == PeftType.PREFIX_TUNING and not takes_prefix:
        # peft passes the prefix in this argument.
        return ": its encoder takes no past_key_values; use PROMPT_TUNING or P_TUNING"
    return None


def _layer_misfit(model: PreTrainedModel, config: PeftConfig) -> str | None:
    """Return why a method does not support the family's layers, and an alternative; None: it does."""
    kind = config.peft_type
    if model.config.model_type in PADDING_BY_HAND and model.config.tf_padding:
        return f", whose padding needs the stride of a convolution, which an adapter hides; {INSTEAD}"
    modules = [m for layer in encoder_layers(model) for m in layer.modules()]
    convolutions = [m for m in modules if isinstance(m, nn.Conv2d)]
    linear = any(isinstance(m, nn.Linear) for m in modules)
    if convolutions and not linear and kind not in ON_CONVOLUTIONS:
        return f", which has only convolutions; expected {', '.join(ON_CONVOLUTIONS)}"
    if convolutions and kind == PeftType.OFT:
        # Its forward pass fails.
        return ", a convolutional network; use BOFT or LORA"
    if kind == PeftType.HRA and any(isinstance(m.padding, str) for m in convolutions):
        return ", whose convolutions have padding by name; use LORA"
    if isinstance(config, LoraConfig) and kind == PeftType.LORA:
        start = config.init_lora_weights
        if start not in INITIALIZATIONS and not str(start).startswith("pissa_niter_"):
            expected = f"expected {', '.join(map(str, INITIALIZATIONS))} or pissa_niter_N"
            raise InputError(f"adapter.init_lora_weights: {start!r} is not supported; {expected}")
        if config.alora_invocation_tokens is not None:
            raise InputError(f"adapter.{ACTIVATED}: {WHY_NOT_ACTIVATED}; leave it out")
        if subtracts_from_base(config) and not linear:
            return f", which has no linear layers for init_lora_weights {start}; use another"
    return None


def starts_as_identity(config: PeftConfig) -> bool:
    """Whether an untrained adapter leaves the outputs of the network unchanged.

    False for prompts, and for configs that initialize all weights at random, as FourierFT's default does.
    """
    if config.is_prompt_learning:
        return False
    return getattr(config, "init_lora_weights", getattr(config, "init_weights", True)) is not False


def check_added_layers(model: PreTrainedModel, config: PeftConfig) -> None:
    """Refuse an adapter that cannot train the new layers of `surgery.layers.AddLayers`.

    The output weights of these layers are zero: methods that multiply them keep them at zero, PiSSA finds no direction
    in them, and DoRA divides by their norm.

    Args:
        model: with weights, or on the meta device.

    Raises:
        InputError: the message names the method and an alternative.
    """
    layer = model.get_submodule(layer_names(model, model.state_dict())[0])
    outputs = [module for name, module in layer.named_modules() if name in residual_outputs(model.config)]
    name, works = method_of(config), "LORA without use_dora or pissa"
    stays_zero = config.peft_type in MULTIPLYING
    if isinstance(config, LoraConfig) and config.peft_type == PeftType.LORA:
        stays_zero = config.use_dora or str(config.init_lora_weights).startswith("pissa")
        name = "DoRA" if config.use_dora else "PiSSA" if stays_zero else name
    why = "whose new layers would not learn"
    if not starts_as_identity(config):
        name, why = f"{method_of(config)} that starts at random", "which keeps the outputs of the network"
    elif not any(isinstance(module, nn.Linear | nn.Conv2d) for module in outputs):
        # In ResNet and EfficientNet a norm has the zero weights, and norms get no adapter.
        name, works = method_of(config), "no adapter"
    elif not stays_zero:
        return
    remedy = f"use {works}, or leave AddLayers out"
    raise InputError(f"adapter: {name} does not go with AddLayers in model.surgery, {why}; {remedy}")


def subtracts_from_base(config: PeftConfig) -> bool:
    """Whether the initial adapter is a part of the pretrained weights, and subtracted from them.

    PiSSA (arXiv:2404.02948) takes their largest singular directions, OLoRA (arXiv:2406.01775) an orthonormal basis.
    """
    if not isinstance(config, LoraConfig) or config.peft_type != PeftType.LORA:
        return False
    return str(config.init_lora_weights).startswith(SUBTRACTING)


def completed_config(model: PreTrainedModel, config: PeftConfig, fresh: Sequence[str]) -> PeftConfig:
    """Return a copy of a config with all fields set, see `adapters.add_adapter`.

    Raises:
        InputError: see `check_fit`; or the config names a missing module, or there are no layers to adapt.
    """
    check_fit(model, config)
    # The configs have fields of the same names, but no common class that declares them.
    completed: Any = copy.deepcopy(config)
    if isinstance(completed, PromptLearningConfig):
        _complete_prompt(model, completed)
    elif completed.target_modules is None or completed.target_modules == "all-linear":
        completed.target_modules = target_modules(model)
        if not completed.target_modules:
            # I-BERT has its own linear layers, SqueezeBERT one-dimensional convolutions.
            why = f"{model.config.model_type}, whose layers have no torch.nn.Linear or Conv2d to put it on"
            raise InputError(f"adapter: {method_of(config)} does not fit {why}; {INSTEAD}")
        if isinstance(completed, IA3Config) and completed.feedforward_modules is None:
            # Scale the output of every target module, not the input of some.
            completed.feedforward_modules = []
    # peft's class for SEQ_CLS passes input_ids, which image models do not accept.
    completed.task_type = None if model.main_input_name == "pixel_values" else _task_type(model)
    completed.modules_to_save = head_modules(model, [*fresh, *_full_names(model, completed.modules_to_save or [])])
    completed.base_model_name_or_path = model.name_or_path
    return completed


def _task_type(model: PreTrainedModel) -> TaskType:
    return TaskType.TOKEN_CLS if is_token_classifier(model) else TaskType.SEQ_CLS


def _complete_prompt(model: PreTrainedModel, config: Any) -> None:
    """Set the sizes, which peft would read from config fields that not every family has."""
    # In ELECTRA and ALBERT the embeddings differ in width from the layers.
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
    """Return how many of the model's positions a prompt takes."""
    if not isinstance(config, PromptLearningConfig) or config.peft_type == PeftType.PREFIX_TUNING:
        return 0
    return config.num_virtual_tokens or VIRTUAL_TOKENS


def _full_names(model: PreTrainedModel, names: Sequence[str]) -> list[str]:
    """Return the full names of modules that a config names by their last parts.

    peft ignores a missing name, and matches `embeddings` with `word_embeddings` inside it, too, so that saving fails.
    """
    full_names: list[str] = []
    for name in names:
        matches = [full for full, _ in model.named_modules() if f".{full}".endswith(f".{name}")]
        if not matches:
            raise InputError(f"adapter.modules_to_save: {model.config.model_type} has no module {name!r}")
        full_names += matches
    return full_names


def target_modules(model: PreTrainedModel) -> list[str]:
    """Return the full names of the linear layers in the encoder's layers, or of convolutions if it has none (ResNet).

    Without depthwise convolutions (ConvNeXt), because a low-rank update would mix channels, and without layers that
    compute position biases.
    """
    in_layers = {m for layer in encoder_layers(model) for m in layer.modules()}
    named = [(name, m) for name, m in model.named_modules() if m in in_layers and POSITION_BIASES not in name]
    linear = [name for name, m in named if isinstance(m, nn.Linear)]
    return linear or [name for name, m in named if isinstance(m, nn.Conv2d) and m.groups == 1]
