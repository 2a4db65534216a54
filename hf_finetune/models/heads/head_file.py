"""head.safetensors: the head of a classifier that is no stock class, saved next to its stock encoder.

Its header has strings only: `pooling` (cls, mean, max, attention), `last_layers`, `first` (number of the first token
that is pooled), `chunks` (how the pooled states of a text's chunks are combined: mean, max, attention; absent: a text
is one chunk), `network` (what reads the hidden states before they are pooled: gru, lstm, convolution; absent: nothing),
`activation` (of the hidden layer; empty: there is none), `task`, `labels` (a JSON list). Its tensors: `out.weight`
(C, D) and `out.bias` (C,); `dense.weight`, `dense.bias` of a hidden layer; `query` of attention pooling, `chunk_query`
of attention over chunks, `network.*` of the layer over the tokens, with torch's names.

Legend: C classes, D width.
"""

import json
from pathlib import Path
from typing import cast, get_args

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from transformers import AutoModel, PreTrainedModel

from hf_finetune.errors import InputError
from hf_finetune.models.checkpoint_config import Task, name_classes
from hf_finetune.models.contexts import input_errors
from hf_finetune.models.families import width_of
from hf_finetune.models.family import PoolingKind, TokenNetworkKind
from hf_finetune.models.heads.classification import ACTIVATIONS
from hf_finetune.models.heads.custom import CustomHeadClassifier
from hf_finetune.models.heads.pooling import PoolingSpec
from hf_finetune.models.heads.token_network import token_network_of
from hf_finetune.utils.artifacts import HEAD_FILE
from hf_finetune.utils.files import write_bytes

FORMAT = "hf_finetune head 1"
WITH_CHUNKS = "hf_finetune head 2"
"""A head that combines chunks, which an earlier version must not load."""
WITH_NETWORK = "hf_finetune head 3"
"""A head with a network over the tokens, with chunks or without."""
CHUNK_QUERY, NETWORK = "chunk_query", "network."


def save_head(model: CustomHeadClassifier, path: Path, task: Task) -> None:
    """Write the file atomically."""
    names, spec = dict(model.config.id2label or {}), model.spec
    header = {
        "format": _format(has_network=model.token_network is not None, has_chunks=model.chunk_pooling is not None),
        "task": task,
        "pooling": spec.kind,
        "last_layers": str(spec.last_layers),
        "first": str(spec.first),
        "activation": model.head.activation if model.head.has_hidden else "",
        "labels": json.dumps([name for _, name in sorted(names.items())], ensure_ascii=False),
    }
    tensors = {**model.head.state_dict(), **model.pooling.state_dict()}
    if model.chunk_pooling is not None:
        header["chunks"] = model.chunk_pooling.spec.kind
        if model.chunk_pooling.spec.kind == "attention":
            tensors[CHUNK_QUERY] = model.chunk_pooling.query
    if model.token_network is not None:
        header["network"] = model.token_network.kind
        tensors |= {NETWORK + name: tensor for name, tensor in model.token_network.layer.state_dict().items()}
    content = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, header)
    write_bytes(path, _with_sorted_metadata(content))


def _format(*, has_network: bool, has_chunks: bool) -> str:
    return WITH_NETWORK if has_network else WITH_CHUNKS if has_chunks else FORMAT


def _with_sorted_metadata(content: bytes) -> bytes:
    """Return a safetensors file in which the same tensors and metadata have the same bytes.

    safetensors writes the metadata in another order each time.
    """
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def load_custom_head(folder: Path) -> tuple[CustomHeadClassifier, Task, tuple[str, ...]]:
    """Load a classifier in float32, its task and its class names.

    Args:
        folder: a run's folder with an encoder (see `utils.artifacts`) that `inspect_checkpoint` has checked.

    Raises:
        InputError: head.safetensors is damaged, has unknown contents, or does not fit the encoder.
    """
    path = folder / HEAD_FILE
    with input_errors(f"{path}: expected the head of a finished run"), safe_open(path, "pt") as file:
        header, tensors = file.metadata() or {}, load_file(path)
    spec, task, labels = _read_header(path, header)
    chunks = cast(PoolingKind | None, header.get("chunks"))
    body = _load_encoder(folder / "encoder")
    name_classes(body.config, labels)
    hidden = len(tensors["dense.weight"]) if "dense.weight" in tensors else None
    activation = header.get("activation") or "tanh"
    of_network = {name.removeprefix(NETWORK): each for name, each in tensors.items() if name.startswith(NETWORK)}
    with input_errors(f"{path}: does not fit the encoder"):
        network = None
        if kind := cast(TokenNetworkKind | None, header.get("network")):
            network = token_network_of(kind, width_of(body.config) * spec.last_layers, of_network)
        model = CustomHeadClassifier(
            body, spec, chunks=chunks, token_network=network, hidden=hidden, activation=activation
        )
        model.pooling.load_state_dict({name: tensor for name, tensor in tensors.items() if name == "query"})
        if model.chunk_pooling is not None:
            model.chunk_pooling.load_state_dict({"query": tensors[CHUNK_QUERY]} if chunks == "attention" else {})
        others = ("query", CHUNK_QUERY, *(NETWORK + name for name in of_network if network is not None))
        model.head.load_state_dict({name: tensor for name, tensor in tensors.items() if name not in others})
    return model.eval(), task, labels


def _read_header(path: Path, header: dict[str, str]) -> tuple[PoolingSpec, Task, tuple[str, ...]]:
    known = {
        "format": (_format(has_network="network" in header, has_chunks="chunks" in header),),
        "pooling": get_args(PoolingKind),
        "task": get_args(Task),
    }
    known["activation"] = ("", *ACTIVATIONS)
    known["chunks"] = ("", "mean", "max", "attention")
    known["network"] = ("", *get_args(TokenNetworkKind))
    if any(header.get(name, "") not in values for name, values in known.items()):
        raise InputError(f"{path}: its header is not one of {FORMAT!r}; expected the head of a finished run")
    with input_errors(f"{path}: its header cannot be read"):
        spec = PoolingSpec(cast(PoolingKind, header["pooling"]), int(header["last_layers"]), int(header["first"]))
        return spec, cast(Task, header["task"]), tuple(str(name) for name in json.loads(header["labels"]))


def _load_encoder(folder: Path) -> PreTrainedModel:
    body, info = AutoModel.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation=None if torch.accelerator.is_available() else "eager",
        weights_only=True,
        output_loading_info=True,
    )
    missing = [key for key in info["missing_keys"] if "pooler" not in key]
    if missing or info["mismatched_keys"]:
        raise InputError(f"{folder}: weights are missing or of another shape ({missing[:1]}); save it again")
    return body
