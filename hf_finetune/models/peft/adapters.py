"""PEFT adapters that can be saved, reloaded and merged for every family.

peft selects target modules and saved modules by name. With its defaults it adapts the head, wraps one head module in
another (DistilBERT), or does not save modules that were initialized at random (the pooler or dense layer before the
classifier, the whole head without a task type), so that the reloaded model differs. Here the targets are the linear
layers in the encoder's layers, and any other module that trains or was initialized at random is saved in full.
"""

import copy
import json
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from peft import AdaLoraConfig, LoraConfig, PeftConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from hf_finetune.errors import InputError
from hf_finetune.models.contexts import input_errors, seeded
from hf_finetune.models.freezing import freeze_batch_norm
from hf_finetune.models.peft.compatibility import (
    ACTIVATED,
    MERGEABLE,
    PROMPTS,
    SUPPORTED,
    WHY_NOT_ACTIVATED,
    completed_config,
    method_of,
    subtracts_from_base,
)
from hf_finetune.models.peft.config import Lora
from hf_finetune.utils.artifacts import ADAPTER_FILE
from hf_finetune.utils.files import read_json, write_bytes
from hf_finetune.utils.messages import one_line, short

log = logging.getLogger("hf_finetune")

HARMLESS_WARNINGS = (
    # peft 0.21 still reads this property of transformers.
    "`is_gradient_checkpointing` is deprecated",
    # BOFT falls back from its GPU kernel to torch.
    "Setting boft_n_butterfly_factor to 1",
    "Failed to load the CUDA extension",
    # AdaLoRA's ranks, and layers without any rank left, load correctly.
    "The following rank_pattern keys did not match",
    ".*LoRA tensor.s. have invalid shape",
    "Initializing zero-element tensors is a no-op",
)
START = "adapter_at_start"
"""Folder next to a run's checkpoints with the initial adapter, see `save_adapter`."""
WHY_NOT_STANDALONE = (
    "its trained vectors precede the tokens of every text, which no stock class of transformers supports"
)
"""Why a prompt cannot be merged into a model."""
CONFIG_FILE = "adapter_config.json"
SIZES = ("r", "init_r", "num_virtual_tokens", "token_dim", "num_layers", "encoder_hidden_size", "n_frequency")
"""Fields of a saved config from which peft allocates memory; none can exceed the number of saved weights."""
MOST_SMALL_SIZE = 10_000
FLOATS = ("F64", "F32", "F16", "BF16")


def lora_config(model: PreTrainedModel, lora: Lora, *, fresh: Sequence[str]) -> PeftConfig:
    """Return peft's config of LoRA (arXiv:2106.09685) on every linear layer of the encoder.

    Args:
        fresh: modules that the checkpoint lacks, see `loading.Loaded`.
    """
    config = LoraConfig(
        r=lora.r,
        # peft accepts any number.
        lora_alpha=cast(int, lora.alpha),
        lora_dropout=lora.dropout,
        use_rslora=lora.variant == "rslora",
        use_dora=lora.variant == "dora",
        init_lora_weights=lora.variant if lora.variant in ("pissa", "olora") else True,
    )
    return completed_config(model, config, fresh)


def add_adapter(
    model: PreTrainedModel,
    config: PeftConfig,
    fresh: Sequence[str],
    *,
    seed: int = 0,
    steps: int | None = None,
    empty: bool = False,
) -> PeftModel:
    """Add an adapter to a classifier. `model` changes, `config` does not.

    Unset fields of the config are completed: the target modules (also for `all-linear`), the task type,
    `modules_to_save` (the head and all of `fresh`), the size of a prompt, and AdaLoRA's schedule over the run's steps:
    ranks are reduced after the first tenth and before the last three tenths. BatchNorm statistics are fixed, because an
    adapter does not contain them.

    Args:
        fresh: modules that the checkpoint lacks, see `loading.Loaded`.
        seed: of the adapter's initial weights; torch's global generator stays as it was.
        steps: optimizer steps of the run, for AdaLoRA. None: those of the config.
        empty: create the adapter on the meta device, to check that it fits a `checkpoint_config.meta_classifier`.

    Raises:
        InputError: see `completed_config`; or peft refuses it, or AdaLoRA's schedule does not fit the steps.
    """
    completed = completed_config(model, config, fresh)
    if isinstance(completed, AdaLoraConfig):
        _set_schedule(completed, steps)
    freeze_batch_norm(model)
    with input_errors(f"adapter: {method_of(config)} does not fit {model.config.model_type}"), seeded(seed), _quiet():
        return get_peft_model(model, completed, low_cpu_mem_usage=empty)


def _set_schedule(config: AdaLoraConfig, steps: int | None) -> None:
    config.total_step = steps or config.total_step or 1
    if steps is None:
        return
    if config.tinit == config.tfinal == 0:
        config.tinit, config.tfinal = steps // 10, 3 * steps // 10
    if config.tinit + config.tfinal >= steps:
        phases = f"tinit {config.tinit} and tfinal {config.tfinal}"
        raise InputError(f"adapter: {phases} leave none of the {steps} steps to reduce ranks; lower them")


def load_adapter(model: PreTrainedModel, folder: str | Path) -> PeftModel:
    """Add a saved adapter to a classifier with the same number of classes. `model` changes.

    Args:
        folder: written by `save_adapter`.

    What peft warns of is logged: fields that it ignores.

    Raises:
        InputError: the adapter is damaged, of an unknown or unsupported type, or does not fit the model.
    """
    folder = Path(folder)
    _check_saved(folder)
    failure = f"{folder}: the adapter does not fit the model; restore its files"
    try:
        with _logged_warnings(folder), input_errors(failure), _quiet():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            return PeftModel.from_pretrained(model, folder, use_safetensors=True)
    except UserWarning as error:
        raise InputError(f"{failure}: {one_line(error)}") from error


def _check_saved(folder: Path) -> None:
    """Check the files of a saved adapter before peft reads them.

    Only the supported types: others read further files or import modules that the config names.
    """
    path, remedy = folder / CONFIG_FILE, "restore the adapter's files"
    config = read_json(path, remedy)
    if config.get("peft_type") not in SUPPORTED:
        raise InputError(f"{path}: peft_type: expected {', '.join(SUPPORTED)}, got {short(config.get('peft_type'))}")
    if config["peft_type"] in PROMPTS and config.get("task_type") != TaskType.SEQ_CLS:
        # peft would leave the prompt out, and predict other classes.
        raise InputError(f"{path}: task_type: expected SEQ_CLS, got {short(config.get('task_type'))}; {remedy}")
    if config.get("megatron_config"):
        raise InputError(f"{path}: megatron_config: expected none, it imports a module; remove it")
    if config.get(ACTIVATED) is not None:
        raise InputError(f"{path}: {ACTIVATED}: {WHY_NOT_ACTIVATED}; {remedy}")
    for name in ("modules_to_save", "target_modules"):
        # An empty name is the end of every module's.
        if isinstance(config.get(name), list) and not all(isinstance(part, str) and part for part in config[name]):
            raise InputError(f"{path}: {name}: expected names of modules, got {short(config[name])}; {remedy}")
    with input_errors(f"{folder / ADAPTER_FILE}: damaged; {remedy}"), safe_open(folder / ADAPTER_FILE, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        numbers = sum(math.prod(part.get_shape()) for part in slices.values())
        wrong = next((name for name, part in slices.items() if part.get_dtype() not in FLOATS), None)
    if wrong is not None:
        raise InputError(f"{folder / ADAPTER_FILE}: {wrong}: expected floating-point weights; {remedy}")
    for name in SIZES:
        size = config.get(name)
        if isinstance(size, int) and size > max(numbers, MOST_SMALL_SIZE):
            raise InputError(f"{path}: {name}: {size:,}, but its weights are {numbers:,} numbers; {remedy}")


@contextmanager
def _logged_warnings(folder: Path) -> Iterator[None]:
    """Log each warning of peft in one line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for message in dict.fromkeys(str(each.message) for each in caught):
        log.warning("%s: peft: %s", folder, one_line(UserWarning(message), most=200))


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings that mean nothing here."""
    with warnings.catch_warnings():
        for message in HARMLESS_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        yield


def mergeable(adapted: PeftModel) -> bool:
    """Whether `merge` can return the trained model in a stock class."""
    return adapted.active_peft_config.peft_type in MERGEABLE


def merge(adapted: PeftModel) -> PreTrainedModel:
    """Return a stock model with the adapter merged into its weights, in memory of its own; `adapted` stays."""
    copied = copy.deepcopy(adapted)
    base = copied.get_base_model()
    # peft 0.21 does this for LoRA only; other methods fail on a saved module of several layers (an MLP head).
    for name, module in list(base.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            parent, _, child = name.rpartition(".")
            setattr(base.get_submodule(parent), child, module.modules_to_save[copied.active_adapter])
    return copied.merge_and_unload().requires_grad_(True)


def save_adapter(adapted: PeftModel, folder: str | Path, *, start: str | Path | None = None) -> None:
    """Write adapter_config.json and adapter_model.safetensors, each atomically, without peft's generated README.

    `PeftModel.from_pretrained(AutoModelFor...Classification.from_pretrained(base, num_labels=C), folder)` restores the
    model, whatever the initial head of that base.

    An adapter that was subtracted from the pretrained weights (see `subtracts_from_base`) is saved as plain LoRA of
    twice the rank, the trained adapter minus the initial one, because a reloaded base has its original weights. Layers
    too narrow for the config's rank have theirs in `rank_pattern` and `alpha_pattern`.

    Args:
        start: folder in which this function saved the initial adapter; only needed for such adapters.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(adapted.active_peft_config, AdaLoraConfig):
        _set_rank_pattern(adapted, adapted.active_peft_config)
    with (
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.", suffix=".partial") as temporary,
        _quiet(),
    ):
        # Embeddings are never resized here; to check that, peft would query the Hub.
        adapted.save_pretrained(temporary, safe_serialization=True, save_embedding_layers=False)
        _sort_sets(Path(temporary) / CONFIG_FILE, adapted.active_peft_config)
        if start is not None and subtracts_from_base(adapted.active_peft_config):
            _convert_to_plain_lora(Path(temporary), Path(start), adapted)
        for path in sorted(Path(temporary).iterdir()):
            if path.suffix in (".json", ".safetensors"):
                write_bytes(folder / path.name, path.read_bytes())


def _sort_sets(path: Path, config: PeftConfig) -> None:
    """Sort what a saved config holds as sets, such as names of layers: peft's order differs from process to process."""
    content = json.loads(path.read_text())
    content |= {name: sorted(value) for name, value in vars(config).items() if isinstance(value, set)}
    path.write_text(json.dumps(content, indent=2, sort_keys=True))


def _set_rank_pattern(adapted: PeftModel, config: AdaLoraConfig) -> None:
    """Set the ranks that are left, from the weights: those of the schedule may be older."""
    config.rank_pattern = {
        name.removeprefix("base_model.model."): (values != 0).flatten().tolist()
        for name, values in adapted.named_parameters()
        if ".lora_E." in name
    }


def _convert_to_plain_lora(folder: Path, start: Path, adapted: PeftModel) -> None:
    """Save B A - B0 A0 as [B, -B0] [A; A0]; peft's own conversion leaves out the head."""
    before, tensors = load_file(start / ADAPTER_FILE), load_file(folder / ADAPTER_FILE)
    for name, tensor in tensors.items():
        if ".lora_A." in name:
            tensors[name] = torch.cat([tensor, before[name]], dim=0)
        elif ".lora_B." in name:
            tensors[name] = torch.cat([tensor, -before[name]], dim=1)
    save_file(tensors, folder / ADAPTER_FILE, metadata={"format": "pt"})
    path = folder / CONFIG_FILE
    config = json.loads(path.read_text())
    # Keep the scale, alpha / r or alpha / sqrt(r).
    power = 0.5 if config["use_rslora"] else 1
    config |= {"init_lora_weights": True, "r": 2 * config["r"], "lora_alpha": 2**power * config["lora_alpha"]}
    # The rank of a layer is at most its smaller side, whatever the config says.
    layers = {n: m for n, m in adapted.get_base_model().named_modules() if isinstance(m, LoraLayer)}
    ranks = {name: _rank(tensors, name) for name in layers}
    alphas = {n: layer.scaling[adapted.active_adapter] * ranks[n] ** power for n, layer in layers.items()}
    config["rank_pattern"] = {name: rank for name, rank in ranks.items() if rank != config["r"]}
    config["alpha_pattern"] = {n: alpha for n, alpha in alphas.items() if not math.isclose(alpha, config["lora_alpha"])}
    path.write_text(json.dumps(config, indent=2, sort_keys=True))


def _rank(tensors: Mapping[str, torch.Tensor], layer: str) -> int:
    """Return the rank of a layer's saved update; matrices of embeddings have different names."""
    names = (f"base_model.model.{layer}.{matrix}" for matrix in ("lora_A.weight", "lora_embedding_A"))
    return next(len(tensors[name]) for name in names if name in tensors)
