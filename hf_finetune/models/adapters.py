"""PEFT adapters that survive saving, reloading and merging, for every family.

peft picks targets and saved modules by name. Left alone it puts adapters on the head, wraps one head module in another
(DistilBERT), or forgets modules that were random when training began (the pooler or dense layer before the classifier,
the whole head where no task type is given), so that the reloaded model is another one. Here the targets are the linear
layers within the encoder's layers, and everything outside them that trains or started at random is saved whole.
"""

from __future__ import annotations

import copy
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from peft import LoraConfig, PeftConfig, PeftModel, PeftType, TaskType, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.errors import InputError
from hf_finetune.models.freeze import encoder_layers, freeze_batch_norm
from hf_finetune.models.heads import head_modules
from hf_finetune.models.load import seeded
from hf_finetune.models.safety import first_line

# Methods whose reloaded and merged model gives the same logits here, see the tests. LN tuning merges into a model that
# still has peft's wrappers in it.
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
CONVOLUTIONAL = (PeftType.LORA, PeftType.ADALORA)


def lora_config(
    model: PreTrainedModel, *, r: int = 8, alpha: int = 16, dropout: float = 0.0, fresh: Sequence[str]
) -> LoraConfig:
    """LoRA (https://arxiv.org/abs/2106.09685) on every linear layer of the encoder.

    Args:
        r: rank of the update.
        alpha: the update is scaled by alpha / r.
        dropout: rate on the adapter's input.
        fresh: modules that the checkpoint did not have, see `load.Loaded`.
    """
    return _complete(model, LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout), fresh)


def add_adapter(model: PreTrainedModel, config: PeftConfig, fresh: Sequence[str], *, seed: int = 0) -> PeftModel:
    """Put an adapter on a classifier. `model` itself is changed; `config` is not.

    The config's open ends are closed: targets where it names none or `all-linear`, the task type, and `modules_to_save`
    (the head and all of `fresh`). BatchNorm statistics are fixed: they are no part of an adapter.

    Args:
        config: a PEFT config, complete or not.
        fresh: modules that the checkpoint did not have, see `load.Loaded`.
        seed: of the adapter's first weights; torch's global generator is left as it was.

    Raises:
        InputError: the method is not supported (prompt and prefix tuning cannot be merged), does not fit this family,
            or names a module that the model does not have.
    """
    complete = _complete(model, config, fresh)
    freeze_batch_norm(model)
    try:
        with seeded(seed), _quiet():
            adapted = get_peft_model(model, complete)
    except (ValueError, TypeError, NotImplementedError, RuntimeError, KeyError, AttributeError) as error:
        kind = f"{config.peft_type.value} does not fit {model.config.model_type}"
        raise InputError(f"adapter: {kind}: {first_line(error)}") from error
    return adapted


def load_adapter(model: PreTrainedModel, folder: str | Path) -> PeftModel:
    """Put a saved adapter on a classifier with as many classes, whatever its head was initialised with.

    Args:
        folder: as `save_adapter` wrote it. `model` itself is changed.
    """
    with _quiet():
        return PeftModel.from_pretrained(model, folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning about a property of transformers that peft 0.21 still asks for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def merge(adapted: PeftModel) -> PreTrainedModel:
    """A stock model with the adapter's updates added to its weights, on its own memory; `adapted` stays as it is."""
    merged = copy.deepcopy(adapted).merge_and_unload()
    return merged.requires_grad_(True)


def save_adapter(adapted: PeftModel, folder: str | Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors, each of them whole or not at all.

    `PeftModel.from_pretrained(AutoModelFor...Classification.from_pretrained(base, num_labels=C), folder)` gives the
    same model, whatever that base's head was initialised with. The README that peft adds is left out: it guesses.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        # Embeddings are never resized here; asking peft to find out would ask the Hub.
        adapted.save_pretrained(temporary, safe_serialization=True, save_embedding_layers=False)
        for path in sorted(Path(temporary).iterdir()):
            if path.suffix in (".json", ".safetensors"):
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                os.replace(path, folder / path.name)


def _complete(model: PreTrainedModel, config: PeftConfig, fresh: Sequence[str]) -> PeftConfig:
    _check_type(model, config)
    complete = copy.deepcopy(config)
    if config.target_modules is None or config.target_modules == "all-linear":
        complete.target_modules = _targets(model)
        if config.peft_type == PeftType.IA3 and config.feedforward_modules is None:
            # Scale what every target gives, rather than what some of them take.
            complete.feedforward_modules = []
    # peft's class for SEQ_CLS passes input_ids, which image models do not take.
    complete.task_type = None if model.main_input_name == "pixel_values" else TaskType.SEQ_CLS
    complete.modules_to_save = head_modules(model, [*fresh, *_named(model, config.modules_to_save or [])])
    complete.base_model_name_or_path = model.name_or_path
    return complete


def _check_type(model: PreTrainedModel, config: PeftConfig) -> None:
    name = config.peft_type.value
    if config.is_prompt_learning:
        raise InputError(f"adapter: {name} is not supported yet, its result is no stock model; use LORA")
    if config.peft_type not in MERGEABLE:
        raise InputError(f"adapter: {name} is not supported yet; expected {', '.join(t.value for t in MERGEABLE)}")
    convolutions = any(isinstance(m, nn.Conv2d) for layer in encoder_layers(model) for m in layer.modules())
    if convolutions and config.peft_type not in CONVOLUTIONAL:
        # The others fail in forward or when merged.
        raise InputError(f"adapter: {name} does not fit {model.config.model_type}, a convolutional network; use LORA")


def _named(model: PreTrainedModel, names: Sequence[str]) -> list[str]:
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


def _targets(model: PreTrainedModel) -> list[str]:
    """Full names of the linear layers within the encoder's layers; convolutions where there are none (ResNet).

    Depthwise convolutions (ConvNeXt) are left out: a low-rank update mixes channels, which they do not.
    """
    inside = {m for layer in encoder_layers(model) for m in layer.modules()}
    named = [(name, module) for name, module in model.named_modules() if module in inside]
    linear = [name for name, module in named if isinstance(module, nn.Linear)]
    return linear or [name for name, module in named if isinstance(module, nn.Conv2d) and module.groups == 1]
