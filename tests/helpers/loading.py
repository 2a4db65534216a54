"""`load`, `stream` and `locate` with the fields of their options given flat."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from datasets import Dataset

from hf_finetune.data import loading, sources
from hf_finetune.data.config import Kind, Source, SourceSplit, SplitOptions

OPTIONS = {field.name for field in fields(SplitOptions)}


def load(path: Any, kind: Kind = "text", **options: Any) -> loading.Splits:
    where = Source(str(path), **{name: value for name, value in options.items() if name not in OPTIONS})
    return loading.load(where, kind, SplitOptions(**{n: value for n, value in options.items() if n in OPTIONS}))


def stream(
    path: Any, kind: Kind = "text", labels: Any = None, batch_rows: int = 1024, **where: Any
) -> Iterator[Dataset]:
    return loading.stream(SourceSplit(str(path), **where), kind, labels=labels, batch_rows=batch_rows)


def locate(path: Any, kind: Kind | None = "text", labeled: bool = True, **where: Any) -> sources.Layout:
    return sources.locate(Source(str(path), **where), kind=kind, labeled=labeled)
