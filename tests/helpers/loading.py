"""`load`, `stream` and `locate` with the fields of their options given flat."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from datasets import Dataset

from hf_finetune.data import layout, loading, sources, streaming
from hf_finetune.data.config import Kind, Source, SourceSplit, SplitOptions

OPTIONS = {field.name for field in fields(SplitOptions)}


def load(
    path: Any, kind: Kind = "text", *, keep_left_out: bool = False, group: str | None = None, **fields: Any
) -> loading.Splits:
    source = Source(str(path), **{name: value for name, value in fields.items() if name not in OPTIONS})
    options = SplitOptions(**{name: value for name, value in fields.items() if name in OPTIONS})
    return loading.load(source, kind, options, keep_left_out=keep_left_out, group=group)


def stream(
    path: Any, kind: Kind = "text", labels: Any = None, batch_rows: int = 1024, **where: Any
) -> Iterator[Dataset]:
    options = {name: where.pop(name) for name in ("dropped", "label_values") if name in where}
    return streaming.stream(SourceSplit(str(path), **where), kind, labels=labels, batch_rows=batch_rows, **options)


def locate(path: Any, kind: Kind | None = "text", labeled: bool = True, **where: Any) -> layout.Layout:
    return sources.locate(Source(str(path), **where), kind=kind, labeled=labeled)
