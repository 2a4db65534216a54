"""PEFT adapters that survive saving, reloading and merging, for every family.

peft picks targets and saved modules by name. Left alone it puts adapters on the head, wraps one head module in another
(DistilBERT), or forgets modules that were random when training began (the pooler or dense layer before the classifier,
the whole head where no task type is given), so that the reloaded model is another one. Here the targets are the linear
layers within the encoder's layers, and everything outside them that trains or started at random is saved whole.
"""

from __future__ import annotations

import copy
import json
import math
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, cast

import torch
from peft import AdaLoraConfig, LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from hf_finetune.errors import InputError
from hf_finetune.models.freezing import freeze_batch_norm
from hf_finetune.models.loading import seeded
from hf_finetune.models.peft.compatibility import MERGEABLE, complete, cuts_out, method_of
from hf_finetune.models.safety import first_line
from hf_finetune.utils.artifacts import ADAPTER_FILE
from hf_finetune.utils.files import write_bytes

# peft checks little of a config before it uses it. Seen, beside its own words: r 8.5 is a TypeError, VeRA's r 0 a
# division by zero, a token index past the vocabulary an IndexError, on images an AttributeError, a broken pattern
# re.error.
PEFT_COMPLAINTS = (ValueError, TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError, re.error)
HARMLESS_WARNINGS = (
    # A property of transformers that peft 0.21 still reads.
    "`is_gradient_checkpointing` is deprecated",
    # BOFT's kernel for GPUs, in whose place torch computes.
    "Setting boft_n_butterfly_factor to 1",
    "Failed to load the CUDA extension",
    # AdaLoRA's ranks and layers left without any, which load as they should.
    "The following rank_pattern keys did not match",
    ".*LoRA tensor.s. have invalid shape",
    "Initializing zero-element tensors is a no-op",
)
Variant = Literal["plain", "rslora", "dora", "pissa", "olora"]
START = "adapter_at_start"
"""Folder beside a run's checkpoints, see `save_adapter`."""
WHY_ALONE = "trained vectors come before the words of every text, which no stock class of transformers does"
"""Why a prompt is no model by itself."""
CONFIG_FILE = "adapter_config.json"


def lora_config(
    model: PreTrainedModel,
    *,
    r: int = 8,
    alpha: float = 16,
    dropout: float = 0.0,
    variant: Variant = "plain",
    fresh: Sequence[str],
) -> PeftConfig:
    """LoRA (https://arxiv.org/abs/2106.09685) on every linear layer of the encoder.

    Args:
        r: rank of the update.
        alpha: the update is scaled by alpha / r.
        dropout: rate on the adapter's input.
        fresh: modules that the checkpoint did not have, see `loading.Loaded`.
        variant: plain; rslora scales by alpha / sqrt(r) (https://arxiv.org/abs/2312.03732); dora learns the length of
            every row apart from its direction (https://arxiv.org/abs/2402.09353); pissa and olora, see
            `compatibility.cuts_out`.
    """
    config = LoraConfig(
        r=r,
        # peft takes any number.
        lora_alpha=cast(int, alpha),
        lora_dropout=dropout,
        use_rslora=variant == "rslora",
        use_dora=variant == "dora",
        init_lora_weights=variant if variant in ("pissa", "olora") else True,
    )
    return complete(model, config, fresh)


def add_adapter(
    model: PreTrainedModel,
    config: PeftConfig,
    fresh: Sequence[str],
    *,
    seed: int = 0,
    steps: int | None = None,
    empty: bool = False,
) -> PeftModel:
    """Put an adapter on a classifier. `model` itself is changed; `config` is not.

    The config's open ends are closed: targets where it names none or `all-linear`, the task type, `modules_to_save`
    (the head and all of `fresh`), the size of a prompt, and AdaLoRA's schedule: all of the run's steps, a tenth of them
    before ranks are cut and three tenths after, unless the config has others. BatchNorm statistics are fixed: they
    are no part of an adapter.

    Args:
        config: a PEFT config, complete or not.
        fresh: modules that the checkpoint did not have, see `loading.Loaded`.
        seed: of the adapter's first weights; torch's global generator is left as it was.
        steps: optimizer steps of the run, for AdaLoRA. None: the config's.
        empty: give the adapter shapes but no memory, to see whether it fits a model of `meta_model`.

    Raises:
        InputError: the method is not supported, does not fit this family, or names a module that the model does not
            have; AdaLoRA's schedule does not fit the steps.
    """
    whole = complete(model, config, fresh)
    if isinstance(whole, AdaLoraConfig):
        _set_schedule(whole, steps)
    freeze_batch_norm(model)
    try:
        with seeded(seed), _quiet():
            adapted = get_peft_model(model, whole, low_cpu_mem_usage=empty)
    except PEFT_COMPLAINTS as error:
        misfit = f"{method_of(config)} does not fit {model.config.model_type}"
        raise InputError(f"adapter: {misfit}: {first_line(error)}") from error
    return adapted


def _set_schedule(config: AdaLoraConfig, steps: int | None) -> None:
    config.total_step = steps or config.total_step or 1
    if steps is None:
        return
    if config.tinit == config.tfinal == 0:
        config.tinit, config.tfinal = steps // 10, 3 * steps // 10
    if config.tinit + config.tfinal >= steps:
        phases = f"tinit {config.tinit} and tfinal {config.tfinal}"
        raise InputError(f"adapter: {phases} leave none of the {steps} steps for cutting ranks; lower them")


def load_adapter(model: PreTrainedModel, folder: str | Path) -> PeftModel:
    """Put a saved adapter on a classifier with as many classes, whatever its head was initialized with.

    Args:
        folder: as `save_adapter` wrote it. `model` itself is changed.
    """
    with _quiet():
        return PeftModel.from_pretrained(model, folder, use_safetensors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings that mean nothing here."""
    with warnings.catch_warnings():
        for message in HARMLESS_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        yield


def mergeable(adapted: PeftModel) -> bool:
    """Whether a stock class can hold the trained model, so that `merge` gives it."""
    return adapted.active_peft_config.peft_type in MERGEABLE


def merge(adapted: PeftModel) -> PreTrainedModel:
    """A stock model with the adapter's updates added to its weights, on its own memory; `adapted` stays as it is."""
    copied = copy.deepcopy(adapted)
    base = copied.get_base_model()
    # Done here, for outside LoRA peft 0.21 fails on a saved module that is not a single layer (a head of two).
    for name, module in list(base.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            parent, _, own = name.rpartition(".")
            setattr(base.get_submodule(parent), own, module.modules_to_save[copied.active_adapter])
    return copied.merge_and_unload().requires_grad_(True)


def save_adapter(adapted: PeftModel, folder: str | Path, *, start: str | Path | None = None) -> None:
    """Write adapter_config.json and adapter_model.safetensors, each of them whole or not at all.

    `PeftModel.from_pretrained(AutoModelFor...Classification.from_pretrained(base, num_labels=C), folder)` gives the
    same model, whatever that base's head was initialized with. The README that peft adds is left out: it guesses.

    An adapter that took a part out of the pretrained weights when it began is saved as plain LoRA of twice the rank,
    what it is minus what it was, for the weights it will be loaded onto have that part still. Layers whose rank is
    another than the config's, because they are narrower, say theirs in `rank_pattern` and `alpha_pattern`.

    Args:
        start: folder of the same adapter before it was trained, written by this function; for such adapters alone.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(adapted.active_peft_config, AdaLoraConfig):
        _note_ranks(adapted, adapted.active_peft_config)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary, _quiet():
        # Embeddings are never resized here; asking peft to find out would ask the Hub.
        adapted.save_pretrained(temporary, safe_serialization=True, save_embedding_layers=False)
        if start is not None and cuts_out(adapted.active_peft_config):
            _as_plain_lora(Path(temporary), Path(start), adapted)
        for path in sorted(Path(temporary).iterdir()):
            if path.suffix in (".json", ".safetensors"):
                write_bytes(folder / path.name, path.read_bytes())


def _note_ranks(adapted: PeftModel, config: AdaLoraConfig) -> None:
    """Write which ranks are left, by the values themselves: the schedule's may be older than the weights are."""
    config.rank_pattern = {
        name.removeprefix("base_model.model."): (values != 0).flatten().tolist()
        for name, values in adapted.named_parameters()
        if ".lora_E." in name
    }


def _as_plain_lora(folder: Path, start: Path, adapted: PeftModel) -> None:
    """B A - B0 A0 = [B, -B0] [A; A0]. (peft's own conversion leaves out the head.)"""
    before, tensors = load_file(start / ADAPTER_FILE), load_file(folder / ADAPTER_FILE)
    for name, tensor in tensors.items():
        if ".lora_A." in name:
            tensors[name] = torch.cat([tensor, before[name]], dim=0)
        elif ".lora_B." in name:
            tensors[name] = torch.cat([tensor, -before[name]], dim=1)
    save_file(tensors, folder / ADAPTER_FILE, metadata={"format": "pt"})
    path = folder / CONFIG_FILE
    config = json.loads(path.read_text())
    # The scale, alpha / r or alpha / sqrt(r), stays what it was.
    power = 0.5 if config["use_rslora"] else 1
    config |= {"init_lora_weights": True, "r": 2 * config["r"], "lora_alpha": 2**power * config["lora_alpha"]}
    # A matrix has no more directions to take out than its smaller side, whatever rank the config asks for.
    layers = {n: m for n, m in adapted.get_base_model().named_modules() if isinstance(m, LoraLayer)}
    ranks = {name: _rank(tensors, name) for name in layers}
    alphas = {n: layer.scaling[adapted.active_adapter] * ranks[n] ** power for n, layer in layers.items()}
    config["rank_pattern"] = {name: rank for name, rank in ranks.items() if rank != config["r"]}
    config["alpha_pattern"] = {n: alpha for n, alpha in alphas.items() if not math.isclose(alpha, config["lora_alpha"])}
    path.write_text(json.dumps(config, indent=2, sort_keys=True))


def _rank(tensors: Mapping[str, torch.Tensor], layer: str) -> int:
    """Rank of a layer's update, as it is stored; an embedding's matrices have names of their own."""
    names = (f"base_model.model.{layer}.{matrix}" for matrix in ("lora_A.weight", "lora_embedding_A"))
    return next(len(tensors[name]) for name in names if name in tensors)
