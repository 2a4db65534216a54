"""`train`: fine-tune a classifier in one call."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import torch
from accelerate.utils import broadcast_object_list

from hf_finetune.config.keywords import with_keywords
from hf_finetune.config.recipe import Launch, Method, blank_recipe
from hf_finetune.data.config import Kind, Source
from hf_finetune.data.memory import MemoryData, collect, holding
from hf_finetune.data.sources import sniff_kind
from hf_finetune.errors import InputError
from hf_finetune.inference.classifier import Classifier
from hf_finetune.inference.session import python_session
from hf_finetune.search.run import run
from hf_finetune.utils.environment import started_now
from hf_finetune.utils.plain import short_repr
from hf_finetune.utils.sequences import SequenceKind

TEXT_KEYWORDS, IMAGE_KEYWORDS = (
    {"text", "text_pair", "max_length", "sequence"},
    {"image", "image_root", "low_resolution"},
)


def train(
    data: Any,
    *,
    validation: Any = None,
    test: Any = None,
    model: Any = None,
    method: Method | None = None,
    text: str | None = None,
    label: str | Sequence[str] | None = None,
    epochs: float | None = None,
    seed: int | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    push: str | None = None,
    **fields: Any,
) -> Classifier:
    """Fine-tune, evaluate, verify and document a classifier, as `hf-finetune train` does.

    Args:
        data: a path, a Hub id, a pandas or polars DataFrame, a Dataset or DatasetDict, a mapping of columns or of
            splits, or a tuple of inputs and labels, which may be an array or DataFrame of several columns. Inputs are
            texts, pairs of texts, images of Pillow, arrays of uint8 with the shape (H, W, 3) or (H, W), or paths of
            images.
        validation, test: more data of these kinds, or the name of a split. None: the data's own; without validation
            rows some are held out from the training rows.
        model: Hub id or folder of the checkpoint. None: an embedded one for texts.
        method: full, lora, top or head; auto tries them in turn within `budget`.
        text, label: columns. None: the obvious ones. One column for each tag or target: a list of names.
        epochs: passes over the training rows.
        seed: of the head, the order of the rows, and dropout.
        output: folder of the run. None: `runs/NAME-N`.
        resume: resume the run in `output`. The same data must be passed again.
        push: repository on the Hub.
        fields: any other field of a `Recipe`, by its name (`learning_rate=1e-4`, `max_length=256`, `text_pair="b"`), or
            a whole section (`train=Train(...)`, `optim={"lookahead": True}`).

    Returns:
        The classifier, loaded from the folder of the run. Its `result` has the metrics.

    Examples:
        >>> clf = train(frame, text="review", label="stars", test=test_frame, epochs=2, output="runs/first")
        >>> clf.result.rows
        {'train': 163, 'validation': 17, 'test': 40}
        >>> train(frame, text="review", learning_rat=1e-3)
        Traceback (most recent call last):
        hf_finetune.errors.InputError: learning_rat: no such keyword, did you mean 'learning_rate'?

    Raises:
        InputError: bad data, checkpoint, keyword or output folder. Nothing was written.
        TrainingError: the loss or the weights are not finite, or the disk is full.
        StoppedBySignal: interrupted after a checkpoint, from which `resume=True` continues.
        GateError: a saved artifact does not reproduce the model.
        PushError: the Hub refused the finished run, or kept failing.
    """
    named = {"model": model, "method": method, "text": text, "label": label, "epochs": epochs, "seed": seed}
    keywords = {**{n: v for n, v in {**named, "push": push}.items() if v is not None}, **fields}
    launch = Launch(output=None if output is None else os.fspath(output), resume=resume)
    with started_now(), python_session(), ExitStack() as stack:
        if any(rows is data for rows in (validation, test) if rows is not None) and not isinstance(data, str):
            raise InputError("--validation, --test: these are the training rows; pass other rows, or leave them out")
        recipe = recipe_of(stack, data, dict(keywords), {"validation": validation, "test": test})
        result = run(recipe, launch, command=public_call(data, keywords, validation=validation, test=test))
        folder = [None if result is None else result["folder"]]
        if torch.distributed.is_initialized():
            broadcast_object_list(folder)
    return Classifier.load(str(folder[0]))


def public_call(data: Any, keywords: Mapping[str, Any], **splits: Any) -> str:
    """Return the call that trains the classifier again, for its card: rows in memory by a name, without the push."""
    named = {**{name: rows for name, rows in splits.items() if rows is not None}, **keywords}
    shown = [f"{name}={_shown(name, value)}" for name, value in named.items() if name != "push"]
    return f"hf_finetune.train({', '.join([_shown('data', data), *shown])})"


def _shown(name: str, value: Any) -> str:
    if name in ("data", "validation", "test", "unlabeled") and not _is_source(value):
        return name
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(value, str) and os.sep in value and os.path.exists(value):
        value = Path(value).absolute().name
    return short_repr(tuple(value)) if isinstance(value, list) else short_repr(value)


def recipe_of(stack: ExitStack, data: Any, keywords: dict[str, Any], splits: Mapping[str, Any]) -> Any:
    """Return the recipe of data and keywords; data in memory are held while the stack is open."""
    kind = _kind_of_keywords(keywords)
    sources = {"data": data, **{name: rows for name, rows in splits.items() if rows is not None}}
    unlabeled = keywords.pop("unlabeled", ())
    unlabeled = (unlabeled,) if _is_source(unlabeled) or not isinstance(unlabeled, tuple | list) else unlabeled
    sources |= {f"unlabeled-{number}": rows for number, rows in enumerate(unlabeled, start=1)}
    held: dict[str, MemoryData] = {
        name: collect(rows, kind=kind, name=name) for name, rows in sources.items() if not _is_source(rows)
    }
    stack.enter_context(holding(held))
    if "data" in held and held["data"].label_columns:
        keywords = {"label": held["data"].label_columns, **keywords}
    paths = {name: f"memory:{name}" if name in held else os.fspath(rows) for name, rows in sources.items()}
    if kind is None:
        where = {name: keywords[name] for name in ("config_name", "revision", "encoding") if name in keywords}
        kind = sniff_kind(Source(paths["data"], **where))
    fields = {name: path for name, path in paths.items() if name in ("validation", "test")}
    if unlabeled:
        fields["unlabeled"] = tuple(path for name, path in paths.items() if name.startswith("unlabeled-"))
    sequence = next((each for each in get_args(SequenceKind) if each == keywords.get("sequence")), None)
    blank = blank_recipe(images=kind == "image", sequence=sequence, own_model="model" not in keywords)
    return with_keywords(blank, {**fields, **keywords}).with_data(paths["data"])


def _is_source(data: Any) -> bool:
    return isinstance(data, str | os.PathLike)


def _kind_of_keywords(keywords: Mapping[str, Any]) -> Kind | None:
    if keywords.keys() & IMAGE_KEYWORDS:
        return "image"
    return "text" if keywords.keys() & TEXT_KEYWORDS else None
