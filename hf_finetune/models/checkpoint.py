"""Fetch a checkpoint and check that its files are safe to load, before any library opens them.

A checkpoint is data. Anything that would run code, fetch code, or read files outside its folder is refused, whether or
not the installed transformers would refuse it.
"""

import json
import math
import pickle
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from huggingface_hub import constants, errors, snapshot_download
from safetensors import safe_open
from transformers import CONFIG_MAPPING

from hf_finetune.errors import InputError
from hf_finetune.models.contexts import input_errors
from hf_finetune.utils.artifacts import ADAPTER_FILE, HEAD_FILE, artifacts_in
from hf_finetune.utils.manifest import LOADED_FROM_ROOT, Manifest, Part
from hf_finetune.utils.messages import did_you_mean, one_line

SAFETENSORS = "model.safetensors"
BIN = "pytorch_model.bin"
# Files to fetch, from the root only: no optimizer states, training arguments or other pickles, no chat templates.
PLAIN_FILES = ["*.json", "*.txt", "*.model", "*.spm"]
SAFETENSORS_FILES = [SAFETENSORS, "model-*.safetensors"]
BIN_FILES = [BIN, "pytorch_model-*.bin"]
# Files beside the weights that a loaded model, its tokenizer or its processor may depend on, fetched or not.
SETTINGS_FILES = (*PLAIN_FILES, "vocab.*", "*.codes", "*.py")

CONFIG_FILES = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
# Classes and pipelines in Python code of the checkpoint.
CODE_KEYS = ("auto_map", "custom_pipelines")
# Compiled or Python code from another Hub repository (CVE-2026-4372).
KERNEL_KEYS = ("use_kernels", "kernel_config")
ATTENTION_KEY = re.compile(r"(attn|experts)_implementation")
SAFE_ATTENTION = {"eager", "sdpa"}
REMEDY_ON_HUB = (
    "delete the cached copy {} and try again; if this stays, the repository was changed after the push: push again"
)
# Keys that make transformers read files that are not checked here.
REDIRECTING_KEYS = ("configuration_files", "transformers_weights")
# Far more tensors than any encoder has, with the usual length of their entries in a header.
MAX_TENSORS, HEADER_BYTES = 100_000, 200
MAX_LAYERS = 1000
# ALBERT's layers share their tensors.
FEW_LAYERS = 100
# Classes in a config.json, whose names transformers invents if it only has their number.
MAX_CLASSES = 100_000
# Fields with numbers of layers or of stages' layers, in the families' words.
LAYERS = re.compile(r"layers$|depth|num_blocks|repeats")
AT_LEAST_ONE = (
    *("num_hidden_layers", "n_layers", "num_attention_heads", "n_heads", "num_heads"),
    *("vocab_size", "hidden_size", "dim", "intermediate_size", "hidden_dim"),
)


@dataclass(frozen=True)
class Stored:
    """What the headers of the files with weights say."""

    tensors: int
    numbers: int
    """Numbers in all tensors."""


@dataclass(frozen=True)
class LocalCheckpoint:
    """A checkpoint on this machine that `inspect_checkpoint` has checked."""

    name: str
    """Hub id or folder as the user wrote it; for a run's folder its model/ or encoder/."""
    folder: Path
    """Local folder with its files."""
    commit: str | None
    """Commit on the Hub; None if it is a folder."""
    config: dict[str, Any]
    """Contents of config.json."""
    weights: tuple[Path, ...]
    """Files with the weights: safetensors, or `.bin` if there are none; empty if they are not needed."""
    notes: tuple[str, ...]
    """Notes for the user."""
    trust_remote_code: bool = False
    """Whether its Python code may run."""
    stored: Stored | None = None
    """What the safetensors hold; None: there are none, or they are not needed."""
    max_layers: int = MAX_LAYERS
    """See `Model.max_layers`."""


def settings_files(folder: Path) -> dict[str, Path]:
    """Return the files of a checkpoint beside its weights by name: config, tokenizer, processor, and code if any.

    Every file of such a suffix is listed, as families name theirs differently.
    """
    found = {path.name: path for pattern in SETTINGS_FILES for path in folder.glob(pattern) if path.is_file()}
    return dict(sorted(found.items()))


def inspect_checkpoint(
    checkpoint: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    need_weights: bool = True,
    max_layers: int = MAX_LAYERS,
) -> LocalCheckpoint:
    """Find a checkpoint, fetch the files that are needed, and check that they are safe and complete.

    Pickled weights are read once with `torch.load(weights_only=True)`, whatever transformers does later.

    Args:
        checkpoint: folder of a model, or of a run, whose model/ or encoder/ is used; or a Hub id. Only root files of a
            Hub repository are fetched: json, txt, sentencepiece models and safetensors; `.bin` only if there are no
            safetensors; `.py` only with `trust_remote_code`.
        revision: branch, tag or commit on the Hub.
        trust_remote_code: allow Python code and kernels.
        need_weights: False: only config, tokenizer or processor are needed; weights are neither fetched nor checked.
        max_layers: see `Model.max_layers`.

    Raises:
        InputError: the checkpoint does not exist or cannot be accessed; config.json is missing, broken or of an unknown
            `model_type`; it has code, Hub kernels, redirections, quantized weights or only a PEFT adapter; a weight
            index points outside the folder; or a weight file is missing or damaged, or has more than `MAX_TENSORS`.
        GateError: see `_check_files`.
    """
    name, folder, commit = _locate(str(checkpoint), revision, trust_remote_code, need_weights)
    configs = {file: _read_json(name, folder / file) for file in CONFIG_FILES if (folder / file).is_file()}
    for file, content in configs.items():
        _refuse_redirections(name, file, content)
        if not trust_remote_code:
            _refuse_code(name, file, content)
    config = configs["config.json"]
    _check_classes(name, config)
    if not (trust_remote_code and config.get("auto_map")):
        _check_model_type(name, config)
    weights = _weight_files(name, folder) if need_weights else ()
    headers = [_check_weights(name, path) for path in weights]
    stored = None
    if weights and weights[0].suffix == ".safetensors":
        stored = Stored(sum(h.tensors for h in headers if h), sum(h.numbers for h in headers if h))
    notes: tuple[str, ...] = ()
    if weights and weights[0].suffix == ".bin":
        notes = (f"{name}: no safetensors, {weights[0].name} is read with torch.load(weights_only=True)",)
    return LocalCheckpoint(name, folder, commit, config, weights, notes, trust_remote_code, stored, max_layers)


def _locate(
    name: str, revision: str | None, trust_remote_code: bool, need_weights: bool
) -> tuple[str, Path, str | None]:
    """Return name, folder and commit of a complete model."""
    folder, commit = _resolve(name, revision, trust_remote_code, need_weights)
    _check_files(name, folder, commit, need_weights)
    artifacts = artifacts_in(folder)
    in_run = artifacts.get("model") or artifacts.get("encoder")
    if not (folder / "config.json").is_file() and in_run is not None:
        folder = in_run
        name = str(folder) if commit is None else name
    if list(artifacts) == ["adapter"]:
        remedy = "start from the checkpoint that it adapts, or from a run with model/ or encoder/"
        raise InputError(f"{name}: a run whose adapter could not be merged; expected a complete model: {remedy}")
    if (folder / "adapter_config.json").is_file():
        raise InputError(f"{name}: a PEFT adapter, expected a complete model; merge it into its base model first")
    if not (folder / "config.json").is_file():
        raise InputError(f"{name}: no config.json in it; expected a folder written by save_pretrained, or a Hub id")
    return name, folder, commit


def _resolve(
    name: str, revision: str | None, trust_remote_code: bool, need_weights: bool = True
) -> tuple[Path, str | None]:
    """Return folder and commit of a checkpoint, fetched from the Hub if necessary."""
    if not name:
        raise InputError("model.checkpoint: no such folder ''; expected a checkpoint folder or a Hub id")
    path = Path(name).expanduser()
    if path.is_dir():
        return path, None
    if path.is_file():
        raise InputError(f"{name}: a file; expected a folder with config.json and {SAFETENSORS}, or a Hub id")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"{name}: no such folder; expected a checkpoint folder or a Hub id")
    patterns = [*PLAIN_FILES, *(SAFETENSORS_FILES if need_weights else ()), *(["*.py"] if trust_remote_code else ())]
    folder = _download(name, revision, patterns)
    if need_weights and not any((folder / file).exists() for file in (SAFETENSORS, f"{SAFETENSORS}.index.json")):
        folder = _download(name, revision, patterns + BIN_FILES)
    if not (folder / "config.json").is_file():
        # The repository of a run without model/.
        parts = [f"{part}/{pattern}" for part in ("encoder", "adapter") for pattern in patterns]
        parts += [HEAD_FILE, f"adapter/{ADAPTER_FILE}"]
        folder = _download(name, revision, parts, too_deep="*/*/*")
    return folder, folder.name


def unmerged_adapter(checkpoint: str | Path, *, revision: str | None = None) -> Path | None:
    """Return the adapter's folder in a run whose adapter cannot be merged, None for any other checkpoint.

    Raises:
        InputError: the checkpoint does not exist, or the adapter's weights are missing or damaged.
        GateError: see `_check_files`.
    """
    found, commit = _resolve(str(checkpoint), revision, False)
    artifacts = artifacts_in(found)
    if list(artifacts) != ["adapter"]:
        return None
    _check_files(str(checkpoint), found, commit)
    folder = artifacts["adapter"]
    if not (folder / ADAPTER_FILE).is_file():
        raise InputError(f"{checkpoint}: no {ADAPTER_FILE} in its adapter/; fetch it again")
    if not (folder / "config.json").is_file():
        why = "its adapter/ has no class names (config.json)"
        raise InputError(f"{checkpoint}: {why}; keep model/ next to it")
    _check_weights(str(checkpoint), folder / ADAPTER_FILE)
    return folder


def _check_files(name: str, folder: Path, commit: str | None, need_weights: bool = True) -> None:
    """Compare the files of a run's folder or repository with the manifest of the run.

    Raises:
        InputError: result.json is damaged.
        GateError: a file is missing, was added, or differs.
    """
    manifest = Manifest.find(folder)
    if manifest is None:
        return
    weights = [*SAFETENSORS_FILES, ADAPTER_FILE, HEAD_FILE] if need_weights else []
    if commit is None:
        manifest.check(["*"] if need_weights else PLAIN_FILES)
        return
    # Other artifacts of the repository, and other files, were not fetched.
    used = replace(manifest, part=next(iter(artifacts_in(folder)), None))
    used.check([*PLAIN_FILES, *weights], name=name, remedy=REMEDY_ON_HUB.format(folder))


def fetch_run(name: str, *, revision: str | None = None) -> tuple[Path, str | None]:
    """Return a run's folder; or a copy of the repository of a run, with all artifacts, and its commit.

    Raises:
        InputError: there is no such folder or repository.
    """
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser(), None
    _resolve(name, revision, trust_remote_code=False, need_weights=False)
    patterns = ["*.json", *LOADED_FROM_ROOT, *(f"{part}/*" for part in get_args(Part))]
    folder = _download(name, revision, patterns, too_deep="*/*/*")
    return folder, folder.name


def _download(repo: str, revision: str | None, patterns: list[str], *, too_deep: str = "*/*") -> Path:
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, ignore_patterns=[too_deep]))
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.HFValidationError) as error:
        raise InputError(f"{repo}: {_hub_refusal(repo, revision, error)}") from error


def _hub_refusal(repo: str, revision: str | None, error: Exception) -> str:
    """Return why a download failed, and the remedy."""
    match error:
        case errors.GatedRepoError():
            remedy = f"accept its terms at {constants.ENDPOINT}/{repo} and log in with `hf auth login`"
            return f"access to this checkpoint is gated; {remedy}"
        case errors.RepositoryNotFoundError():
            remedy = "check the name, or log in with `hf auth login` if it is private"
            return f"neither a folder here nor a model on the Hub; {remedy}"
        case errors.RevisionNotFoundError():
            return f"no branch, tag or commit {revision!r} on the Hub; check model.revision"
        case errors.LocalEntryNotFoundError():
            why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hub cannot be reached"
            return f"no such folder, not in the local cache, and {why}; go online or give a folder"
        case errors.HFValidationError():
            return "neither a folder here nor a Hub id (owner/name)"
    return f"the Hub refused it; {one_line(error)}"


def _read_json(name: str, path: Path) -> dict[str, Any]:
    with input_errors(f"{name}: {path.name} is not JSON; fetch it again"):
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise InputError(f"{name}: {path.name} holds a {type(content).__name__}, expected a JSON object")
    return content


def _values(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield every value in nested JSON with its key; items of lists have the key ""."""
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else (("", value) for value in content):
            yield key, value
            yield from _values(value)


def _refuse_code(name: str, file: str, content: dict[str, Any]) -> None:
    for key, value in _values(content):
        if key in CODE_KEYS and value:
            remedy = "read that code, then pass --trust-remote-code"
            raise InputError(f"{name}: {file} refers to Python code ({key}); {remedy}")
        kernels = [key] if key in KERNEL_KEYS and value else []
        if ATTENTION_KEY.search(key):
            texts = [text for _, text in (("", value), *_values(value)) if isinstance(text, str)]
            kernels += [f"{key}: {text}" for text in texts if text not in SAFE_ATTENTION]
        if kernels:
            remedy = "which can be code from the Hub; expected eager or sdpa; remove the entry"
            raise InputError(f"{name}: {file} names compute kernels ({kernels[0]}), {remedy}")


def _refuse_redirections(name: str, file: str, content: dict[str, Any]) -> None:
    for key in REDIRECTING_KEYS:
        if content.get(key):
            raise InputError(f"{name}: {file} redirects to other files ({key}); remove the entry")
    if content.get("quantization_config"):
        remedy = "use the checkpoint it was made from"
        raise InputError(f"{name}: a quantized model cannot be fine-tuned in float32; {remedy}")


def check_layers(config: Mapping[str, Any], limit: int, stored: Stored | None, where: str) -> None:
    """Refuse a config with so many layers that building the network takes minutes, even without memory for weights.

    Args:
        limit: see `Model.max_layers`.
        stored: what the files of the same checkpoint hold.
        where: begins the message.
    """
    for field, value in config.items():
        numbers = value if isinstance(value, list | tuple) else [value]
        layers = sum(n for n in numbers if isinstance(n, int | float) and not isinstance(n, bool))
        if field in AT_LEAST_ONE and isinstance(value, int) and value < 1:
            raise InputError(f"{where}{field}: expected 1 or more, got {value}")
        if not LAYERS.search(field):
            continue
        if stored is not None and layers > max(stored.tensors, FEW_LAYERS):
            held = f"its files hold {stored.tensors} tensors"
            raise InputError(f"{where}{field}: {layers:,} layers, but {held}; the two do not belong together")
        if layers > limit:
            raise InputError(
                f"{where}{field}: expected {limit:,} layers or less, got {layers:,}; raise model.max_layers"
            )


def _check_classes(name: str, config: dict[str, Any]) -> None:
    for field in ("num_labels", "id2label", "label2id"):
        value = config.get(field)
        classes = value if isinstance(value, int) else len(value) if isinstance(value, dict | list) else 0
        if classes > MAX_CLASSES:
            raise InputError(f"{name}: config.json: {field}: expected {MAX_CLASSES:,} classes or less, got {classes:,}")


def _check_model_type(name: str, config: dict[str, Any]) -> None:
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise InputError(f"{name}: config.json has no model_type (`bert`, `vit`); is it a transformers checkpoint?")
    if model_type == "timm_wrapper":
        # These include paths of more files, which are not checked here.
        why = "whose config passes any arguments to timm.create_model"
        families = "a ViT, DeiT, DINOv2, Swin, BEiT, ConvNeXt, ResNet, EfficientNet or PoolFormer"
        raise InputError(f"{name}: expected a family of transformers, got timm_wrapper, {why}; use {families}")
    if model_type not in CONFIG_MAPPING:
        hint = did_you_mean(model_type, CONFIG_MAPPING) or "; a newer transformers may know it"
        raise InputError(f"{name}: config.json has the unknown model_type {model_type!r}{hint}")


def _weight_files(name: str, folder: Path) -> tuple[Path, ...]:
    indices = {file: folder / f"{file}.index.json" for file in (SAFETENSORS, BIN)}
    shards = {file: _shards(name, folder, index) for file, index in indices.items() if index.is_file()}
    if any(folder.glob("shard-*-model-*.safetensors")):
        # transformers prefers such shards to the files that are checked here.
        raise InputError(f"{name}: a distributed checkpoint (shard-*); save it again with save_pretrained")
    for file in (SAFETENSORS, BIN):
        if (folder / file).is_file():
            return (folder / file,)
        if file in shards:
            return shards[file]
    raise InputError(f"{name}: no weights in it; expected {SAFETENSORS}, or {BIN}")


def _shards(name: str, folder: Path, index: Path) -> tuple[Path, ...]:
    content = _read_json(name, index)
    weight_map, metadata = content.get("weight_map"), content.get("metadata")
    if not isinstance(weight_map, dict) or not weight_map or not isinstance(metadata, dict):
        raise InputError(f"{name}: {index.name} lacks its weight_map or metadata; fetch it again")
    root = folder.resolve()
    if root.parent.name == "snapshots":
        # In the Hub's cache, snapshots/<commit>/* are links to the repository's blobs/.
        root = root.parent.parent
    files = sorted({str(file) for file in weight_map.values()})
    for file in files:
        path = folder / file
        unsafe = "\\" in file or Path(file).is_absolute() or ".." in Path(file).parts
        if unsafe or not path.resolve().is_relative_to(root):
            where = f"{index.name} points outside its folder ({file})"
            raise InputError(f"{name}: {where}; do not trust this checkpoint")
        if not path.is_file():
            raise InputError(f"{name}: {file}, named by {index.name}, is missing; fetch it again")
    return tuple(folder / file for file in files)


def _check_weights(name: str, path: Path) -> Stored | None:
    """Check a file of weights; return what its header says, None for a pickle."""
    with path.open("rb") as file:
        start = file.read(40)
    if start.startswith(b"version https://git-lfs"):
        raise InputError(f"{name}: {path.name} is a git-lfs pointer, not the weights; run `git lfs pull` there")
    if path.suffix == ".safetensors" and len(start) >= 8:
        (length,) = struct.unpack("<Q", start[:8])
        if length > MAX_TENSORS * HEADER_BYTES:
            why = f"its header is of {length:,} bytes, expected {MAX_TENSORS * HEADER_BYTES:,} or less"
            raise InputError(f"{name}: {path.name} is damaged, or no model: {why}; fetch it again")
    with input_errors(f"{name}: {path.name} is damaged or cut off; fetch it again"), warnings.catch_warnings():
        if path.suffix == ".safetensors":
            # This compares the offsets in the header with the size of the file.
            with safe_open(path, framework="pt") as weights:
                names = list(weights.keys())
                numbers = sum(math.prod(weights.get_slice(key).get_shape()) for key in names)
                return Stored(len(names), numbers)
        # torch warns about unusual pickle protocols before it refuses them.
        warnings.simplefilter("ignore")
        try:
            torch.load(path, map_location="meta", weights_only=True)
        except pickle.UnpicklingError as error:
            why = "holds more than weights and is not read, it could run code"
            raise InputError(f"{name}: {path.name} {why}; ask for safetensors") from error
    return None
