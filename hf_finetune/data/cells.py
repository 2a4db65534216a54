"""Check the cells of a source's columns, and convert them to canonical columns: text, text_pair or image, label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa

from hf_finetune.data.config import FEATURE, DataLimits
from hf_finetune.data.image_checks import damage
from hf_finetune.data.image_decoding import EncodedImage, pieces
from hf_finetune.data.image_paths import ImageFolder
from hf_finetune.data.labels import SURROGATE, literal_list, shortened
from hf_finetune.data.layout import Split
from hf_finetune.data.readers.table import Fault
from hf_finetune.data.targets.base import LabelReader
from hf_finetune.data.words import TaggedSentence, read_sentence
from hf_finetune.utils.sequences import SequenceReader

FEATURE_HAS = "the feature has"
Columns = dict[str, pa.Array]
# What is wrong with a row, by its index in the chunk.
Faults = dict[int, Fault]


def convert(
    values: dict[str, list],
    folder: ImageFolder | None,
    *,
    split: Split,
    chosen: dict[str, str],
    labels: LabelReader | None,
    pool: ThreadPoolExecutor,
    words: bool,
    sequences: SequenceReader | None,
) -> tuple[Columns, dict[str, Faults]]:
    """Return Arrow arrays and faults, by canonical name."""
    columns: Columns = {}
    faults: dict[str, Faults] = {}
    if words:
        values = dict(values)
        tags = values[chosen["label"]] if "label" in chosen else None
        columns, sentences, faults["text"] = _sentences(values[chosen["text"]], tags, split.limits)
        chosen = {"label": chosen["label"]} if tags is not None else {}
        if tags is not None:
            values[chosen["label"]] = sentences
    for name, column in chosen.items():
        if name == "image":
            columns[name], faults[name] = _images(values[column], folder, split.limits, pool)
        elif name == "label":
            assert labels is not None
            columns[name], faults[name] = _labels(values[column], labels, split.columns[column].names, split.limits)
        elif name.startswith(FEATURE):
            columns[name], faults[name] = _features(values[column], split.columns[column].names, split.limits)
        else:
            may_be_empty = name == "text_pair"
            columns[name], faults[name] = _texts(values[column], split.limits, sequences, may_be_empty=may_be_empty)
    return columns, faults


def _texts(
    values: list[Any], limits: DataLimits, sequences: SequenceReader | None, *, may_be_empty: bool
) -> tuple[pa.Array, Faults]:
    faults: Faults = {}
    most = limits.text_characters
    for i, value in enumerate(values):
        if value is None or value != value:  # NaN, which JSON files may hold
            values[i] = value = ""
        if not isinstance(value, str):
            faults[i] = Fault("not a text", f"expected text, got {shortened(value)}")
        elif fault := _too_large(value, most):
            faults[i] = fault
        elif not may_be_empty and (not value or value.isspace()):
            faults[i] = Fault("text missing", "the text is empty")
        elif sequences is not None:
            try:
                values[i] = sequences.read(value)
            except ValueError as error:
                faults[i] = Fault("not a sequence", str(error))
    try:
        return pa.array([] if faults else values, pa.string()), faults
    except UnicodeEncodeError:
        invalid = [i for i, value in enumerate(values) if SURROGATE.search(value)]
        half = Fault("undecodable row", "the text holds half a surrogate pair")
        return pa.array([], pa.string()), faults | dict.fromkeys(invalid, half)


def _features(values: list[Any], names: Sequence[str], limits: DataLimits) -> tuple[pa.Array, Faults]:
    """Return cells of numbers or names as texts, as a csv file has them; those that are missing are null."""
    cells: list[str | None] = []
    faults: Faults = {}
    for i, value in enumerate(values):
        if names and isinstance(value, int) and 0 <= value < len(names):
            value = names[value]
        if fault := _too_large(value, limits.label_characters, FEATURE_HAS):
            faults[i] = fault
        text = "" if value is None or value != value else SURROGATE.sub("\ufffd", str(value)).strip()
        cells.append(text or None)
    return pa.array(cells, pa.string()), faults


def _too_large(cell: Any, most: int, what: str = "the text has") -> Fault | None:
    """Return what is wrong with a text of too many characters; None for a shorter one, and for other cells."""
    if not isinstance(cell, str) or len(cell) <= most:
        return None
    field = "label-characters" if what == FEATURE_HAS else "text-characters"
    return Fault(
        "too large",
        f"{what} {len(cell):,} characters, expected at most {most:,}; shorten it, or raise --data.limits.{field}",
    )


def _sentences(
    texts: list[Any], tags: list[Any] | None, limits: DataLimits
) -> tuple[Columns, list[TaggedSentence | None], Faults]:
    """Return the columns `text` and `bounds` of sentences, the sentences with the cells of their tags, and faults."""
    sentences: list[TaggedSentence | None] = []
    faults: Faults = {}
    most = limits.text_characters
    for i, (text, cell) in enumerate(zip(texts, tags or [None] * len(texts), strict=True)):
        sentences.append(None)
        if fault := _too_large(text, most) or _too_large(cell, most, "the tags have"):
            faults[i] = fault
            continue
        text, cell = literal_list(text), literal_list(cell)
        try:
            sentence = read_sentence(text, cell)
        except ValueError as error:
            faults[i] = Fault("not words", str(error))
            continue
        if sentence is None:
            faults[i] = Fault("text missing", "the text is empty" if isinstance(text, str) else "there are no words")
        elif fault := _too_large(sentence.text, most):
            faults[i] = fault
        else:
            sentences[i] = TaggedSentence(sentence, cell, isinstance(text, str))
    read = [each.sentence for each in sentences if each is not None and not faults]
    columns = {"text": pa.array([each.text for each in read], pa.string())}
    columns["bounds"] = pa.array([each.bounds for each in read], pa.list_(pa.int64()))
    return columns, sentences, faults


def _images(
    values: list[Any], folder: ImageFolder | None, limits: DataLimits, pool: ThreadPoolExecutor
) -> tuple[pa.Array, Faults]:
    images = [EncodedImage(bytes=None, path=None) for _ in values]
    faults: Faults = {}
    for i, value in enumerate(values):
        try:
            images[i] = _image(value, folder)
        except ValueError as error:
            faults[i] = Fault("image missing", str(error))
    present = [i for i in range(len(images)) if i not in faults]
    check = partial(damage, limits=limits)
    parts = pieces([images[i] for i in present], thumbnails=True, most_reads=limits.image_reads)
    reasons = [reason for part in parts for reason in pool.map(check, part)]
    for i, reason in zip(present, reasons, strict=True):
        if reason is not None:
            faults[i] = Fault("unreadable image", f"unreadable image ({reason})")
    return pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()})), faults


def _image(value: Any, folder: ImageFolder | None) -> EncodedImage:
    """Return an image of a source, with its path resolved.

    Raises:
        ValueError: it is missing, of another type, or its path cannot be used.
    """
    if isinstance(value, bytes):
        value = {"bytes": value, "path": None}
    elif isinstance(value, str):
        value = {"bytes": None, "path": value.strip()}
    match value:
        case None | b"" | {"bytes": None | b"", "path": None | ""}:
            raise ValueError("the image is missing")
        case {"bytes": bytes(content), "path": str() | None as path} if content:
            return {"bytes": content, "path": path}
        case {"bytes": None | b"", "path": str(path)}:
            if folder is None:
                raise ValueError("the image is a path, expected its bytes")
            return {"bytes": None, "path": folder.resolve(path)}
    raise ValueError(f"expected the bytes or the path of an image, got {shortened(value)}")


def _labels(
    values: list[Any], reader: LabelReader, names: Sequence[str], limits: DataLimits
) -> tuple[pa.Array, Faults]:
    labels: list[Any] = []
    faults: Faults = {}
    most = limits.label_characters
    for i, value in enumerate(values):
        try:
            longest = max((len(name) for name in _names_in(value) if isinstance(name, str | bytes)), default=0)
            if longest > most:
                raise ValueError(
                    f"the label has {longest:,} characters, expected at most {most:,}; name another column by "
                    "--label, or raise --data.limits.label-characters"
                )
            labels.append(reader.read(value, names))
            if labels[-1] is None:
                reason = "the label is empty" if not isinstance(value, int) else "the label is -1, which means none"
                faults[i] = Fault("label missing", reason)
        except ValueError as error:
            labels.append(None)
            faults[i] = Fault(reader.fault, str(error))
    return pa.array(labels, reader.cell), faults


def _names_in(cell: Any) -> list[Any]:
    """Return the names, or numbers, of a label cell: of several columns, of lists, of tags of words, and of spans."""
    if isinstance(cell, TaggedSentence):
        cell = cell.tags.split() if isinstance(cell.tags, str) else cell.tags
    cells = cell.values() if isinstance(cell, Mapping) else [cell]
    parts = [part for each in cells for part in (each if isinstance(each, list | tuple) else [each])]
    return [name for part in parts for name in (part.values() if isinstance(part, Mapping) else [part])]
