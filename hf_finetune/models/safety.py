"""What a checkpoint may not do, checked on its files before any library opens it.

A checkpoint is data. Whatever would make loading it run code, fetch other code, or read files outside its folder is
refused here by name, whether or not the installed transformers would already refuse it.
"""

from __future__ import annotations

import difflib
import json
import pickle
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING

from hf_finetune.errors import InputError
from hf_finetune.utils.artifacts import ADAPTER_FILE, HEAD_FILE, artefacts_in

SAFETENSORS = "model.safetensors"
BIN = "pytorch_model.bin"
# Root files only, by name: never optimizer states, training arguments or other pickles, never chat templates.
WANTED = ["*.json", "*.txt", "*.model", "*.spm"]
WANTED_SAFETENSORS = [SAFETENSORS, "model-*.safetensors"]
WANTED_BIN = [BIN, "pytorch_model-*.bin"]

CONFIG_FILES = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
# Python that comes with the checkpoint: classes, and pipelines of its own.
CODE_KEYS = ("auto_map", "custom_pipelines")
# Kernels are compiled or Python code from another Hub repository (CVE-2026-4372).
KERNEL_KEYS = ("use_kernels", "kernel_config")
ATTENTION_KEY = re.compile(r"(attn|experts)_implementation")
PLAIN_ATTENTION = {"eager", "sdpa"}
# Keys that make transformers read other files than those inspected here.
REDIRECTING_KEYS = ("configuration_files", "transformers_weights")


@dataclass(frozen=True)
class LocalCheckpoint:
    """A checkpoint on this machine whose files passed `inspect_checkpoint`."""

    name: str
    """Hub id or folder, as the user wrote it; of a run's folder its model/ or encoder/."""
    folder: Path
    """Where its files lie."""
    commit: str | None
    """Commit on the Hub; None for a folder."""
    config: dict[str, Any]
    """config.json."""
    weights: tuple[Path, ...]
    """Files that hold the weights: safetensors, or `.bin` when there are none; (): they were not needed."""
    notes: tuple[str, ...]
    """What the user should hear about it."""


def inspect_checkpoint(
    checkpoint: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    need_weights: bool = True,
) -> LocalCheckpoint:
    """Find a checkpoint, fetch what is needed of it, and refuse it unless its files are plain, whole data.

    Weights in pickle format are read here once through `torch.load(weights_only=True)`, without their storages, so
    that the answer does not depend on how the installed transformers reads them.

    Args:
        checkpoint: a folder (of a model, or of a run, whose model/ or encoder/ is meant), else a Hub id. Of a Hub repository only
            root files are fetched: json, txt, sentencepiece models and safetensors; `.bin` only when there are no
            safetensors; `.py` only with `trust_remote_code`.
        revision: branch, tag or commit on the Hub.
        trust_remote_code: let the checkpoint bring Python code and name kernels.
        need_weights: False: for its config, tokenizer or processor alone. Weights are then not looked at: they are not fetched,
            and need not be there.

    Raises:
        InputError: the checkpoint is not there, access is denied or the Hub is out of reach; config.json is missing,
            broken or of an unknown `model_type`; code, a hub kernel, a redirection, a quantised model or a PEFT adapter
            stands where plain weights should; a weight index leaves the folder; a weight file is missing or damaged.
    """
    checkpoint = str(checkpoint)
    folder, commit = _resolve(checkpoint, revision, trust_remote_code, need_weights)
    found = artefacts_in(folder)
    if not (folder / "config.json").is_file() and ("model" in found or "encoder" in found):
        folder = found.get("model") or found["encoder"]
        checkpoint = str(folder) if commit is None else checkpoint
    if list(found) == ["adapter"]:
        raise InputError(
            f"{checkpoint}: a run whose adapter could not be merged; expected a whole model: start from the checkpoint that it "
            "adapts, or from a run with model/ or encoder/"
        )
    if (folder / "adapter_config.json").is_file():
        raise InputError(f"{checkpoint}: a PEFT adapter, expected a whole model; merge it into its base model first")
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{checkpoint}: no config.json in it; expected a folder written by save_pretrained, or a Hub id"
        )
    configs = {name: _read_json(checkpoint, folder / name) for name in CONFIG_FILES if (folder / name).is_file()}
    for name, content in configs.items():
        _refuse_redirections(checkpoint, name, content)
        if not trust_remote_code:
            _refuse_code(checkpoint, name, content)
    _check_model_type(checkpoint, configs["config.json"], trust_remote_code)
    weights = _weight_files(checkpoint, folder) if need_weights else ()
    for path in weights:
        _check_weights(checkpoint, path)
    notes = ()
    if weights and weights[0].suffix == ".bin":
        notes = (f"{checkpoint}: no safetensors, {weights[0].name} is read with torch.load(weights_only=True)",)
    return LocalCheckpoint(checkpoint, folder, commit, configs["config.json"], weights, notes)


def _resolve(
    checkpoint: str, revision: str | None, trust_remote_code: bool, need_weights: bool = True
) -> tuple[Path, str | None]:
    if not checkpoint:
        raise InputError("model.checkpoint: no such folder ''; expected a checkpoint folder or a Hub id")
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        return path, None
    if path.is_file():
        raise InputError(f"{checkpoint}: a file; expected a folder with config.json and {SAFETENSORS}, or a Hub id")
    if checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") > 1:
        raise InputError(f"{checkpoint}: no such folder; expected a checkpoint folder or a Hub id")
    wanted = [*WANTED, *WANTED_SAFETENSORS] if need_weights else WANTED
    wanted = [*wanted, "*.py"] if trust_remote_code else wanted
    folder = _download(checkpoint, revision, wanted)
    if need_weights and not any((folder / name).exists() for name in (SAFETENSORS, f"{SAFETENSORS}.index.json")):
        folder = _download(checkpoint, revision, wanted + WANTED_BIN)
    if not (folder / "config.json").is_file():
        # A run that no stock class could hold.
        parts = [f"{part}/{name}" for part in ("encoder", "adapter") for name in wanted]
        parts += [HEAD_FILE, f"adapter/{ADAPTER_FILE}"]
        folder = _download(checkpoint, revision, parts, below="*/*/*")
    return folder, folder.name


def adapter_alone(checkpoint: str | Path, *, revision: str | None = None) -> Path | None:
    """Where the adapter lies of a run that no stock class could hold with it; None for everything else.

    Raises:
        InputError: the checkpoint is not there; the adapter's weights are missing or damaged.
    """
    folder, _ = _resolve(str(checkpoint), revision, False)
    held = artefacts_in(folder)
    if list(held) != ["adapter"]:
        return None
    weights = held["adapter"] / ADAPTER_FILE
    if not weights.is_file():
        raise InputError(f"{checkpoint}: no {weights.name} in its adapter/; fetch it again")
    if not (held["adapter"] / "config.json").is_file():
        raise InputError(
            f"{checkpoint}: its adapter/ does not tell the classes' names (config.json); keep model/ beside it"
        )
    _check_weights(str(checkpoint), weights)
    return held["adapter"]


def _download(repo: str, revision: str | None, wanted: list[str], *, below: str = "*/*") -> Path:
    """`below`: what lies too deep."""
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=wanted, ignore_patterns=[below]))
    except GatedRepoError as error:
        remedy = f"accept its terms at {constants.ENDPOINT}/{repo} and log in with `hf auth login`"
        raise InputError(f"{repo}: access to this checkpoint is gated; {remedy}") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{repo}: neither a folder here nor a model on the Hub; check the name, "
            "or log in with `hf auth login` if it is private"
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{repo}: no branch, tag or commit {revision!r} on the Hub; check model.revision") from error
    except LocalEntryNotFoundError as error:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hub cannot be reached"
        raise InputError(
            f"{repo}: no such folder, not in the local cache, and {why}; go online or give a folder"
        ) from error
    except HFValidationError as error:
        raise InputError(f"{repo}: neither a folder here nor a Hub id (owner/name)") from error
    except HfHubHTTPError as error:
        raise InputError(f"{repo}: the Hub refused it; {first_line(error)}") from error


def _read_json(checkpoint: str, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{checkpoint}: {path.name} is not JSON ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{checkpoint}: {path.name} holds a {type(content).__name__}, expected a JSON object")
    return content


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of nested JSON, with its value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _items(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _items(inner)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _refuse_code(checkpoint: str, name: str, content: dict[str, Any]) -> None:
    for key, value in _items(content):
        if key in CODE_KEYS and value:
            raise InputError(
                f"{checkpoint}: {name} names Python code of its own ({key}); "
                "read that code, then pass --trust-remote-code"
            )
        kernels = [text for text in _strings(value) if text not in PLAIN_ATTENTION] if ATTENTION_KEY.search(key) else []
        if kernels or (key in KERNEL_KEYS and value):
            what = f"{key}: {kernels[0]}" if kernels else key
            raise InputError(
                f"{checkpoint}: {name} asks for compute kernels ({what}), which can be code from the Hub; "
                "expected eager or sdpa; remove the entry"
            )


def _refuse_redirections(checkpoint: str, name: str, content: dict[str, Any]) -> None:
    for key in REDIRECTING_KEYS:
        if content.get(key):
            raise InputError(f"{checkpoint}: {name} sends the reader to other files ({key}); remove the entry")
    if content.get("quantization_config"):
        raise InputError(
            f"{checkpoint}: a quantised model cannot be fine-tuned in float32; use the checkpoint it was made from"
        )


def _check_model_type(checkpoint: str, config: dict[str, Any], trust_remote_code: bool) -> None:
    model_type = config.get("model_type")
    if trust_remote_code and config.get("auto_map"):
        return
    if not isinstance(model_type, str):
        raise InputError(
            f"{checkpoint}: config.json has no model_type (`bert`, `vit`); is it a transformers checkpoint?"
        )
    if model_type == "timm_wrapper":
        # Paths of further files among them, which nothing here would have inspected; no surgery knows its layers either.
        raise InputError(
            f"{checkpoint}: expected a family of transformers itself, got timm_wrapper, whose config hands arguments of any "
            "kind to timm.create_model; use a ViT, DeiT, DINOv2, Swin, BEiT, ConvNeXt, ResNet, EfficientNet or PoolFormer"
        )
    if model_type not in CONFIG_MAPPING:
        close = difflib.get_close_matches(model_type, list(CONFIG_MAPPING), n=1)
        hint = f"did you mean {close[0]!r}?" if close else "a newer transformers may know it"
        raise InputError(f"{checkpoint}: config.json has the unknown model_type {model_type!r}; {hint}")


def _weight_files(checkpoint: str, folder: Path) -> tuple[Path, ...]:
    indices = {name: folder / f"{name}.index.json" for name in (SAFETENSORS, BIN)}
    shards = {n: _shards(checkpoint, folder, index) for n, index in indices.items() if index.is_file()}
    if any(folder.glob("shard-*-model-*.safetensors")):
        # transformers prefers such shards to model.safetensors, wherever that came from.
        raise InputError(f"{checkpoint}: a distributed checkpoint (shard-*); save it again with save_pretrained")
    for name in (SAFETENSORS, BIN):
        if (folder / name).is_file():
            return (folder / name,)
        if name in shards:
            return shards[name]
    raise InputError(f"{checkpoint}: no weights in it; expected {SAFETENSORS}, or {BIN}")


def _shards(checkpoint: str, folder: Path, index: Path) -> tuple[Path, ...]:
    content = _read_json(checkpoint, index)
    weight_map, metadata = content.get("weight_map"), content.get("metadata")
    if not isinstance(weight_map, dict) or not weight_map or not isinstance(metadata, dict):
        raise InputError(f"{checkpoint}: {index.name} lacks its weight_map or metadata; fetch it again")
    root = folder.resolve()
    if root.parent.name == "snapshots":
        # The layout of the Hub's cache: snapshots/<commit>/* are links into the repository's own blobs/.
        root = root.parent.parent
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        path = folder / name
        if (
            "\\" in name
            or Path(name).is_absolute()
            or ".." in Path(name).parts
            or not path.resolve().is_relative_to(root)
        ):
            raise InputError(
                f"{checkpoint}: {index.name} points outside its folder ({name}); do not trust this checkpoint"
            )
        if not path.is_file():
            raise InputError(f"{checkpoint}: {name}, named by {index.name}, is missing; fetch it again")
    return tuple(folder / name for name in names)


def _check_weights(checkpoint: str, path: Path) -> None:
    with path.open("rb") as file:
        if file.read(40).startswith(b"version https://git-lfs"):
            raise InputError(
                f"{checkpoint}: {path.name} is a git-lfs pointer, not the weights; run `git lfs pull` there"
            )
    try:
        if path.suffix == ".safetensors":
            # Opening compares the header's offsets with the size of the file.
            with safe_open(path, framework="pt"):
                pass
        else:
            with warnings.catch_warnings():
                # An odd pickle protocol is one more way to be refused, not news.
                warnings.simplefilter("ignore")
                torch.load(path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{checkpoint}: {path.name} holds more than weights and is not read, it could run code; ask for safetensors"
        ) from error
    except (SafetensorError, RuntimeError, OSError, EOFError) as error:
        raise InputError(
            f"{checkpoint}: {path.name} is damaged or cut off ({first_line(error)}); fetch it again"
        ) from error


def first_line(error: Exception) -> str:
    """First line of an exception's message, or its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def one_line(error: BaseException) -> str:
    """What an error says, without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
