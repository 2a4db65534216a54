"""head.safetensors: the head of a classifier that is no stock class, beside the stock encoder that it reads.

Its header says, in strings, how it is read: `pooling` (cls, mean, max, attention), `last_layers`, `first` (tokens before
the first one that is pooled), `activation` (of the hidden layer; empty: there is none), `task`, `labels` (a JSON list).
Its tensors: `out.weight` (C, D) and `out.bias` (C,); `dense.weight`, `dense.bias` of a hidden layer; `query` of attention.

Legend: C classes, D width.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from transformers import AutoModel

from hf_finetune.errors import InputError
from hf_finetune.models.heads.classification import ACTIVATIONS
from hf_finetune.models.heads.custom import CustomHeadClassifier
from hf_finetune.models.heads.pooling import Reading
from hf_finetune.models.loading import Task
from hf_finetune.models.safety import first_line
from hf_finetune.utils.artifacts import HEAD_FILE
from hf_finetune.utils.files import write_bytes

FORMAT = "hf_finetune head 1"
POOLINGS = ("cls", "mean", "max", "attention")
TASKS = ("text-classification", "image-classification")


def save_head(model: CustomHeadClassifier, path: Path, task: Task) -> None:
    """Write the file, whole or not at all."""
    names = model.config.id2label
    header = {
        "format": FORMAT,
        "task": task,
        "pooling": model.reading.pooling,
        "last_layers": str(model.reading.last_layers),
        "first": str(model.reading.first),
        "activation": model.head.activation if model.head.has_hidden else "",
        "labels": json.dumps([names[i] for i in sorted(names)], ensure_ascii=False),
    }
    tensors = {**model.head.state_dict(), **model.pooling.state_dict()}
    write_bytes(path, save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, header))


def load_custom_head(folder: Path) -> tuple[CustomHeadClassifier, Task, tuple[str, ...]]:
    """The classifier in float32, its task and its class names.

    Args:
        folder: a run's folder with an encoder, see `utils.artifacts.artefacts_in`, which `safety.inspect_checkpoint` has passed.

    Raises:
        InputError: head.safetensors is damaged, says what is not known here, or does not fit the encoder.
    """
    path = folder / HEAD_FILE
    try:
        with safe_open(path, "pt") as file:
            header, tensors = file.metadata() or {}, load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: cannot be read ({first_line(error)}); expected the head of a finished run"
        ) from error
    activation, pooling, task = (header.get(name, "") for name in ("activation", "pooling", "task"))
    known = pooling in POOLINGS and task in TASKS and activation in ("", *ACTIVATIONS)
    if header.get("format") != FORMAT or not known:
        raise InputError(f"{path}: its header is not one of {FORMAT!r}; expected the head of a finished run")
    try:
        labels = tuple(str(name) for name in json.loads(header["labels"]))
        reading = Reading(pooling, int(header["last_layers"]), int(header["first"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: its header cannot be read ({first_line(error)})") from error
    body, info = AutoModel.from_pretrained(
        folder / "encoder",
        dtype=torch.float32,
        attn_implementation=None if torch.accelerator.is_available() else "eager",
        weights_only=True,
        output_loading_info=True,
    )
    lacking = [key for key in info["missing_keys"] if "pooler" not in key]
    if lacking or info["mismatched_keys"]:
        raise InputError(
            f"{folder / 'encoder'}: weights are missing or of another shape ({lacking[:1]}); save it again"
        )
    body.config.id2label = dict(enumerate(labels))
    body.config.label2id = {name: i for i, name in enumerate(labels)}
    hidden = len(tensors["dense.weight"]) if "dense.weight" in tensors else None
    model = CustomHeadClassifier(body, reading, hidden=hidden, activation=activation or "tanh")
    try:
        model.pooling.load_state_dict({name: tensor for name, tensor in tensors.items() if name == "query"})
        model.head.load_state_dict({name: tensor for name, tensor in tensors.items() if name != "query"})
    except RuntimeError as error:
        raise InputError(f"{path}: does not fit the encoder: {first_line(error)}") from error
    return model.eval(), task, labels
