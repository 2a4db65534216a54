"""Which PEFT method fits which family, and what its config leaves open; told from the modules alone, without weights."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence

from peft import PeftConfig, PeftType, TaskType
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.errors import InputError
from hf_finetune.models.families import family_of
from hf_finetune.models.modules import encoder, encoder_layers, head_modules
from hf_finetune.models.surgery.weights import layer_names

# Methods whose result is a stock model once merged: the merged and reloaded one gives the same logits, see the tests. LN
# tuning merges into a model that still has peft's wrappers in it.
MERGEABLE = (
    PeftType.LORA,
    PeftType.ADALORA,
    PeftType.IA3,
    PeftType.VERA,
    PeftType.OFT,
    PeftType.BOFT,
    PeftType.LOHA,
    PeftType.LOKR,
    PeftType.HRA,
    PeftType.FOURIERFT,
    PeftType.RANDLORA,
)
# Methods that add to the input, not to weights: no stock class can hold their result.
PROMPTS = (PeftType.PROMPT_TUNING, PeftType.P_TUNING, PeftType.PREFIX_TUNING)
SUPPORTED = (*MERGEABLE, *PROMPTS)
# Those that work on convolutions, of the networks that have nothing else (ResNet).
ON_CONVOLUTIONS = (
    PeftType.LORA,
    PeftType.ADALORA,
    PeftType.IA3,
    PeftType.BOFT,
    PeftType.LOHA,
    PeftType.LOKR,
    PeftType.HRA,
)
# Ways to begin LoRA that take a part out of the pretrained weights, see `adapters.save_adapter`.
CUT_OUT = ("pissa", "olora")
BEGINNINGS = (True, False, "gaussian", "orthogonal", *CUT_OUT)
VIRTUAL_TOKENS = 20
# Swin v2's, from two coordinates to a bias for each head: no linear layers that tokens go through.
POSITION_BIASES = "continuous_position_bias_mlp"
# With tf_padding they read the stride off a convolution; peft's layer around it has none.
PADDING_BY_HAND = ("mobilenet_v1", "mobilenet_v2")
INSTEAD = "use --method full, top or head"
# Methods that multiply the weights they are put on.
MULTIPLYING = (PeftType.IA3, PeftType.OFT, PeftType.BOFT, PeftType.HRA)


def check_fit(model: PreTrainedModel, config: PeftConfig) -> None:
    """Refuse a method that does not work with a family.

    Args:
        model: with or without weights, see `skeleton`.

    Raises:
        InputError: naming the method, the family and what would work.
    """
    name, family = config.peft_type.value, model.config.model_type
    if config.peft_type not in SUPPORTED:
        raise InputError(f"adapter: {name} is not supported yet; expected {', '.join(t.value for t in SUPPORTED)}")
    if config.is_prompt_learning:
        if model.main_input_name != "input_ids":
            raise InputError(f"adapter: {name} does not fit {family}: pictures have no prompt; use LORA")
        if (
            config.peft_type == PeftType.PREFIX_TUNING
            and "past_key_values" not in inspect.signature(encoder(model).forward).parameters
        ):
            raise InputError(
                f"adapter: {name} does not fit {family}: its encoder takes no past_key_values, as which "
                "peft hands the prefix over; use PROMPT_TUNING or P_TUNING"
            )
        return
    if family in PADDING_BY_HAND and model.config.tf_padding:
        raise InputError(
            f"adapter: {name} does not fit {family}, which reads the stride of a convolution to pad for it, and an adapter "
            f"around the convolution hides that; {INSTEAD}"
        )
    inside = [m for layer in encoder_layers(model) for m in layer.modules()]
    convolutions = any(isinstance(m, nn.Conv2d) for m in inside)
    if convolutions and not any(isinstance(m, nn.Linear) for m in inside) and config.peft_type not in ON_CONVOLUTIONS:
        works = ", ".join(t.value for t in ON_CONVOLUTIONS)
        raise InputError(f"adapter: {name} does not fit {family}, which has convolutions alone; expected {works}")
    if convolutions and config.peft_type == PeftType.OFT:
        # It fails in forward.
        raise InputError(f"adapter: {name} does not fit {family}, a convolutional network; use BOFT or LORA")
    if config.peft_type == PeftType.HRA and any(
        isinstance(m, nn.Conv2d) and isinstance(m.padding, str) for m in inside
    ):
        raise InputError(f"adapter: {name} does not fit {family}, whose convolutions pad by themselves; use LORA")
    if config.peft_type == PeftType.LORA:
        _check_beginning(config, inside, family)
    if config.peft_type == PeftType.ADALORA and config.target_r >= config.init_r:
        raise InputError(
            f"adapter.target_r: expected below init_r, from which ranks are cut, got {config.target_r} and "
            f"{config.init_r}"
        )


def _check_beginning(config: PeftConfig, inside: Sequence[nn.Module], family: str) -> None:
    start = config.init_lora_weights
    if start not in BEGINNINGS and not str(start).startswith("pissa_niter_"):
        raise InputError(
            f"adapter.init_lora_weights: {start!r} is not supported; expected {', '.join(map(str, BEGINNINGS))} "
            "or pissa_niter_N"
        )
    if cuts_out(config) and not any(isinstance(m, nn.Linear) for m in inside):
        raise InputError(f"adapter: init_lora_weights {start} does not fit {family}, which has no linear layers")


def begins_silent(config: PeftConfig) -> bool:
    """Whether the network computes with the adapter, before it is trained, what it computes without.

    Not where prompts stand before the row, nor where the config asks for random numbers throughout; FourierFT's default does.
    """
    if config.is_prompt_learning:
        return False
    return getattr(config, "init_lora_weights", getattr(config, "init_weights", True)) is not False


def check_added_layers(model: PreTrainedModel, config: PeftConfig) -> None:
    """Refuse an adapter under which the layers of `layer_surgery.AddLayers` would be silent forever.

    Their output weights are 0: what multiplies these leaves them there, PiSSA finds no direction in them to begin with,
    and DoRA divides by their length.

    Args:
        model: with or without weights, see `skeleton`.

    Raises:
        InputError: naming the method and what would work.
    """
    family = family_of(model.config, "AddLayers")
    layer = model.get_submodule(layer_names(model, family, model.state_dict())[0])
    outputs = [module for name, module in layer.named_modules() if name in family.outputs]
    name, works = config.peft_type.value, "LORA without use_dora or pissa"
    if not begins_silent(config):
        raise InputError(
            f"adapter: {name} that begins at random does not go with AddLayers in model.surgery, which keep what the network "
            f"computes; use {works}"
        )
    if not any(isinstance(module, nn.Linear | nn.Conv2d) for module in outputs):
        # ResNet's and EfficientNet's are silent by a norm, which no adapter is on.
        works = "no adapter"
    elif config.peft_type == PeftType.LORA:
        if not config.use_dora and not str(config.init_lora_weights).startswith("pissa"):
            return
        name = "DoRA" if config.use_dora else "PiSSA"
    elif config.peft_type not in MULTIPLYING:
        return
    raise InputError(
        f"adapter: {name} does not go with AddLayers in model.surgery, whose new layers would stay silent; use {works}, "
        "or leave AddLayers out"
    )


def cuts_out(config: PeftConfig) -> bool:
    """Whether the adapter begins as a part of the pretrained weights that is taken out of them.

    PiSSA (https://arxiv.org/abs/2404.02948) takes the largest singular directions, OLoRA
    (https://arxiv.org/abs/2406.01775) an orthonormal basis.
    """
    return config.peft_type == PeftType.LORA and str(config.init_lora_weights).startswith(CUT_OUT)


def complete(model: PreTrainedModel, config: PeftConfig, fresh: Sequence[str]) -> PeftConfig:
    """A copy of the config with its open ends closed, see `adapters.add_adapter`.

    Raises:
        InputError: as `check_fit`; it names a module that the model does not have, or the layers have none to put it on.
    """
    check_fit(model, config)
    whole = copy.deepcopy(config)
    if config.is_prompt_learning:
        _complete_prompt(model, whole)
    elif config.target_modules is None or config.target_modules == "all-linear":
        whole.target_modules = targets(model)
        if not whole.target_modules:
            # I-BERT has linear layers of its own kind, SqueezeBERT convolutions along the text.
            raise InputError(
                f"adapter: {config.peft_type.value} does not fit {model.config.model_type}, whose layers have no torch.nn.Linear "
                f"or Conv2d to put it on; {INSTEAD}"
            )
        if config.peft_type == PeftType.IA3 and config.feedforward_modules is None:
            # Scale what every target gives, rather than what some of them take.
            whole.feedforward_modules = []
    # peft's class for SEQ_CLS passes input_ids, which image models do not take.
    whole.task_type = None if model.main_input_name == "pixel_values" else TaskType.SEQ_CLS
    whole.modules_to_save = head_modules(model, [*fresh, *_full_names(model, config.modules_to_save or [])])
    whole.base_model_name_or_path = model.name_or_path
    return whole


def _complete_prompt(model: PreTrainedModel, config: PeftConfig) -> None:
    """Sizes, which peft asks of the config's fields by name and does not find in every family."""
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
    if config.peft_type not in (PeftType.PROMPT_TUNING, PeftType.P_TUNING):
        return 0
    return config.num_virtual_tokens or VIRTUAL_TOKENS


def _full_names(model: PreTrainedModel, names: Sequence[str]) -> list[str]:
    """Full names of the modules that a config names by their end.

    peft passes over a name that it does not find, and takes `embeddings` for `word_embeddings` too, one inside the
    other, so that saving fails.
    """
    found: list[str] = []
    for name in names:
        matches = [full for full, _ in model.named_modules() if f".{full}".endswith(f".{name}")]
        if not matches:
            raise InputError(f"adapter.modules_to_save: {model.config.model_type} has no module {name!r}")
        found += matches
    return found


def targets(model: PreTrainedModel) -> list[str]:
    """Full names of the linear layers within the encoder's layers; convolutions where there are none (ResNet).

    Depthwise convolutions (ConvNeXt) are left out: a low-rank update mixes channels, which they do not. So is what makes
    biases of positions.
    """
    inside = {m for layer in encoder_layers(model) for m in layer.modules()}
    named = [
        (name, module) for name, module in model.named_modules() if module in inside and POSITION_BIASES not in name
    ]
    linear = [name for name, module in named if isinstance(module, nn.Linear)]
    return linear or [name for name, module in named if isinstance(module, nn.Conv2d) and module.groups == 1]
