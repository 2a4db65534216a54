"""What the files of a checkpoint may hold, checked before any library opens them.

A checkpoint is data. Anything that would run code, fetch code, or read files outside its folder is refused, whether or
not the installed transformers would refuse it; and so are sizes that would take minutes or gigabytes. Every refusal is
an `InputError`, whose message begins with the checkpoint's name.
"""

import json
import math
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import CONFIG_MAPPING

from hf_finetune.errors import InputError
from hf_finetune.models.contexts import input_errors
from hf_finetune.utils.messages import did_you_mean

SAFETENSORS = "model.safetensors"
BIN = "pytorch_model.bin"
# Classes and pipelines in Python code of the checkpoint.
CODE_KEYS = ("auto_map", "custom_pipelines")
# Compiled or Python code from another Hub repository (CVE-2026-4372).
KERNEL_KEYS = ("use_kernels", "kernel_config")
ATTENTION_KEY = re.compile(r"(attn|experts)_implementation")
SAFE_ATTENTION = {"eager", "sdpa"}
# Keys that make transformers read files that are not checked here.
REDIRECTING_KEYS = ("configuration_files", "transformers_weights")
# The usual length of a tensor's entry in a header.
HEADER_BYTES = 200
# ALBERT's layers share their tensors.
FEW_LAYERS = 100
# Fields with numbers of layers or of stages' layers, in the families' words.
LAYERS = re.compile(r"layers$|depth|num_blocks|repeats")
LAYERS_AND_HEADS = ("num_hidden_layers", "n_layers", "num_attention_heads", "n_heads", "num_heads")
WIDTHS = ("vocab_size", "hidden_size", "dim", "intermediate_size", "hidden_dim")
AT_LEAST_ONE = (*LAYERS_AND_HEADS, *WIDTHS)


@dataclass(frozen=True)
class Stored:
    """What the headers of the files with weights, or their pickles, say."""

    tensors: int
    numbers: int
    """Numbers in all tensors."""


def read_json(name: str, path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{name}: {path.name} cannot be read ({error.strerror}); check its rights") from error
    with input_errors(f"{name}: {path.name} is not JSON; fetch it again"):
        content = json.loads(text.decode("utf-8"))
    if not isinstance(content, dict):
        raise InputError(f"{name}: {path.name} holds a {type(content).__name__}, expected a JSON object")
    return content


def _values(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield every value in nested JSON with its key; items of lists have the key ""."""
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else (("", value) for value in content):
            yield key, value
            yield from _values(value)


def refuse_code(name: str, file: str, content: dict[str, Any]) -> None:
    """Refuse a config that names Python code or compute kernels."""
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


def refuse_redirections(name: str, file: str, content: dict[str, Any]) -> None:
    """Refuse a config that makes transformers read other files, or weights that are quantized."""
    for key in REDIRECTING_KEYS:
        if content.get(key):
            raise InputError(f"{name}: {file} redirects to other files ({key}); remove the entry")
    if content.get("quantization_config"):
        remedy = "use the checkpoint it was made from"
        raise InputError(f"{name}: a quantized model cannot be fine-tuned in float32; {remedy}")


def check_layers(config: Mapping[str, Any], limit: int, stored: Stored | None, where: str) -> None:
    """Refuse a config with so many layers that building the network takes minutes, even without memory for weights.

    Args:
        limit: see `CheckpointLimits.max_layers`.
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
                f"{where}{field}: expected {limit:,} layers or less, got {layers:,}; raise --model.max-layers"
            )


def check_classes(name: str, config: dict[str, Any], most: int) -> None:
    """Refuse a config.json with too many classes, whose names transformers invents if it only has their number.

    Args:
        most: see `CheckpointLimits.max_classes`.
    """
    for field in ("num_labels", "id2label", "label2id"):
        value = config.get(field)
        classes = value if isinstance(value, int) else len(value) if isinstance(value, dict | list) else 0
        if classes > most:
            remedy = "raise --model.max-classes"
            raise InputError(
                f"{name}: config.json: {field}: expected {most:,} classes or less, got {classes:,}; {remedy}"
            )


def check_model_type(name: str, config: dict[str, Any]) -> None:
    """Refuse a config.json whose `model_type` is missing, unknown, or not of transformers."""
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


def weight_files(name: str, folder: Path) -> tuple[Path, ...]:
    """Return the files that hold the weights: safetensors, else `.bin`; all shards if there are several."""
    indices = {file: folder / f"{file}.index.json" for file in (SAFETENSORS, BIN)}
    shards = {file: _shards(name, folder, index) for file, index in indices.items() if index.is_file()}
    if any(folder.glob("shard-*-model-*.safetensors")):
        # transformers prefers such shards to the files that are checked here.
        raise InputError(f"{name}: a distributed checkpoint (shard-*); save it again with save_pretrained")
    for file in (SAFETENSORS, BIN):
        if (folder / file).is_file():
            return (folder / file,)
        if file in shards:
            missing = [shard.name for shard in shards[file] if not shard.is_file()]
            if missing:
                raise InputError(f"{name}: {missing[0]}, named by {indices[file].name}, is missing; fetch it again")
            return shards[file]
    raise InputError(f"{name}: no weights in it; expected {SAFETENSORS}, or {BIN}")


def _shards(name: str, folder: Path, index: Path) -> tuple[Path, ...]:
    content = read_json(name, index)
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
    return tuple(folder / file for file in files)


def check_weights(name: str, path: Path, max_tensors: int) -> Stored | None:
    """Check a file of weights; return what it holds, None for a pickle of other things than tensors.

    Args:
        max_tensors: see `CheckpointLimits.max_tensors`.
    """
    with path.open("rb") as file:
        start = file.read(40)
    if start.startswith(b"version https://git-lfs"):
        raise InputError(f"{name}: {path.name} is a git-lfs pointer, not the weights; run `git lfs pull` there")
    if path.suffix == ".safetensors" and len(start) >= 8:
        (length,) = struct.unpack("<Q", start[:8])
        if length > max_tensors * HEADER_BYTES:
            why = f"its header is of {length:,} bytes, expected {max_tensors * HEADER_BYTES:,} or less"
            remedy = "fetch it again, or raise --model.max-tensors"
            raise InputError(f"{name}: {path.name} is damaged, or no model: {why}; {remedy}")
    with input_errors(f"{name}: {path.name} is damaged or cut off; fetch it again"), warnings.catch_warnings():
        if path.suffix == ".safetensors":
            # This compares the offsets in the header with the size of the file.
            with safe_open(path, framework="pt") as weights:
                slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
                if of_complex := [name for name, part in slices.items() if part.get_dtype().startswith("C")]:
                    raise InputError(f"{name}: {path.name}: {of_complex[0]} holds complex numbers; fetch it again")
                return Stored(len(slices), sum(math.prod(part.get_shape()) for part in slices.values()))
        # torch warns about unusual pickle protocols before it refuses them.
        warnings.simplefilter("ignore")
        return _check_pickle(name, path, max_tensors)


def _check_pickle(name: str, path: Path, max_tensors: int) -> Stored | None:
    """Check weights of `torch.save`, without reading them.

    Raises:
        InputError: the file holds other things, or expands to more than its size.
    """
    where, size = f"{name}: {path.name}", path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            # `torch.save` does not compress.
            if len(archive.infolist()) > max_tensors:
                raise _too_many(where, len(archive.infolist()), max_tensors)
            if sum(entry.file_size for entry in archive.infolist()) > size:
                raise InputError(f"{where} is compressed and expands to more than its size; ask for safetensors")
            for entry in archive.namelist():
                if entry.endswith("/data.pkl"):
                    _refuse_buffers(where, archive.read(entry))
    try:
        content = torch.load(path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        why = "holds more than weights and is not read, it could run code"
        raise InputError(f"{where} {why}; ask for safetensors") from error
    if not isinstance(content, dict):
        return None
    tensors = [value for value in content.values() if isinstance(value, torch.Tensor)]
    if len(tensors) > max_tensors:
        raise _too_many(where, len(tensors), max_tensors)
    if any(tensor.layout != torch.strided for tensor in tensors):
        raise InputError(f"{where} holds sparse tensors, expected dense ones; ask for safetensors")
    # Tensors may share their numbers, and one may repeat a few of them to any shape.
    storages = {tensor.untyped_storage()._cdata: tensor for tensor in tensors}.values()
    if sum(tensor.untyped_storage().nbytes() for tensor in storages) > size:
        raise InputError(f"{where} has tensors of more bytes than the file; fetch it again")
    numbers = sum(tensor.untyped_storage().nbytes() // tensor.element_size() for tensor in storages)
    return Stored(len(tensors), numbers)


def _too_many(where: str, tensors: int, most: int) -> InputError:
    return InputError(f"{where} holds {tensors:,} tensors, expected {most:,} or less; raise --model.max-tensors")


def _refuse_buffers(where: str, content: bytes) -> None:
    """Refuse a pickle that makes a buffer of any size, which `torch.load` allows."""
    for operation, argument, _ in pickletools.genops(content):
        if operation.name == "GLOBAL" and "bytearray" in str(argument):
            raise InputError(f"{where} holds more than weights ({argument}); ask for safetensors")
