"""`extract_features`: features of rows as columns of a table.

Legend: N rows, D features.
"""

from __future__ import annotations

import io
import logging
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset, concatenate_datasets

from hf_finetune.data.columns import LABELS
from hf_finetune.data.config import DEFAULT_LIMITS, FEATURE, DataLimits, Kind, SourceSplit
from hf_finetune.data.rows import Carried
from hf_finetune.data.sources import locate, sniff_kind
from hf_finetune.data.streaming import stream
from hf_finetune.errors import InputError
from hf_finetune.features.clusters import Cluster, Clusters
from hf_finetune.features.config import Classical, EncoderFeatures, Extraction, FeatureExtractor, NearestMean
from hf_finetune.features.encoder_states import load_encoder
from hf_finetune.features.extractors.base import Computed
from hf_finetune.features.pipelines import feature_pipeline, quiet_fit
from hf_finetune.features.table import RowTable
from hf_finetune.inference.python_inputs import source_of
from hf_finetune.inference.session import python_session
from hf_finetune.utils.core_sharing import shared_cores
from hf_finetune.utils.embedded import IMAGE_CHECKPOINT, TEXT_CHECKPOINT
from hf_finetune.utils.files import check_writable_file, write_bytes
from hf_finetune.utils.messages import counted, listed
from hf_finetune.utils.tables import arrow_columns, check_output, table_writer

logger = logging.getLogger("hf_finetune")

ARRAYS = ".npz"
FORMATS = (".csv", ".parquet", ".jsonl", ARRAYS)


@dataclass(frozen=True)
class FeatureTable:
    """Features of all rows of a source."""

    columns: Mapping[str, pa.Array]
    """`row`, `split`, the columns of the source, and `cluster` if there are clusters."""
    names: tuple[str, ...]
    features_ND: np.ndarray
    """Float32."""
    clusters: tuple[Cluster, ...] = ()
    """What is in the clusters of the rows that they were fitted to."""

    def to_arrow(self) -> pa.Table:
        """Return all columns, those of the features last."""
        return pa.table({**self.columns, **dict(zip(self.names, map(pa.array, self.features_ND.T), strict=True))})

    def write(self, output: Path) -> None:
        """Write a .parquet, .csv or .jsonl file with a column for each feature; or a .npz file of arrays, in which
        `features` is one array (N, D) and `names` are the names of its columns."""
        if output.suffix.lower() != ARRAYS:
            table = self.to_arrow()
            with table_writer(output, table.schema) as write:
                write(table)
            return
        arrays = {name: _plain_array(values) for name, values in self.columns.items()}
        arrays |= {"features": self.features_ND, "names": np.asarray(self.names)}
        file = io.BytesIO()
        # As `np.savez`, in which no column could be called `file`.
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
        write_bytes(output, file.getvalue())


def _plain_array(values: pa.Array) -> np.ndarray:
    """Return an array without Python objects, which npz files hold as pickles."""
    array = values.to_numpy(zero_copy_only=False)
    return array if array.dtype != object else np.asarray(["" if v is None else str(v) for v in values.to_pylist()])


def extract_features(
    data: Any,
    *,
    text: str | None = None,
    text_pair: str | None = None,
    image: str | None = None,
    features: Sequence[str] = (),
    split: str | None = None,
    output: str | Path | None = None,
    cache_gb: float = 10.0,
    limits: DataLimits = DEFAULT_LIMITS,
    **fields: Any,
) -> pd.DataFrame:
    """Return the features of rows, as `hf-finetune features` writes them.

    Args:
        data: a table, a path, or a Hub id, as for `train`; rows need no labels.
        text, text_pair, image: columns. None: the obvious ones.
        features: columns of numbers and names, which `NumberColumns`, `NominalColumns` and `RowStatistics` read.
        split: a split of the data. None: all.
        output: also write this file, .parquet, .csv, .jsonl or .npz.
        cache_gb: budget of the disk cache of what a checkpoint computes. 0: nothing is cached.
        limits: limits on the rows.
        fields: fields of `Extraction`: `model="bert-base-uncased"`, `layers=(-1, -2)`, `poolings=("mean", "max")`,
            `extractors=(WordTfidf(), TextCounts())`, `transforms=(ReduceFeatures(20),)`, `clusters=8`.

    Returns:
        A row for each row, with `row`, `split`, the columns of the data, and a column of float32 for each feature.

    Examples:
        >>> from hf_finetune import extract_features, TextCounts
        >>> table = extract_features(frame, text="review", extractors=(TextCounts(),))
        >>> [name for name in table.columns if "words" in name]
        ['counts:text:words', 'counts:text:distinct_words']

    Raises:
        InputError: a column, layer or pooling is missing, an extractor has nothing to read, or the file exists.
    """
    extraction = Extraction(**fields)
    path = None if output is None else Path(os.fspath(output)).expanduser()
    columns = {"text": text, "text_pair": text_pair, "image": image, "features": tuple(features) or None}
    with python_session():
        kind: Kind | None = "image" if image is not None else "text" if text is not None else None
        held_kind: Kind = kind or "text"
        with source_of(data, columns, limits, kind=held_kind, split=split) as source:
            table = extract(source, extraction, kind=kind, output=path, cache_gb=cache_gb, overwrite=False)
    return table.to_arrow().to_pandas()


@shared_cores()
def extract(
    source: SourceSplit,
    extraction: Extraction,
    *,
    kind: Kind | None = None,
    output: Path | None = None,
    cache_gb: float = 0.0,
    overwrite: bool = True,
) -> FeatureTable:
    """Compute the features of all rows of a source, and write them.

    Args:
        kind: of the rows. None: what they are.
        output: None: nothing is written.

    Raises:
        InputError: see `extract_features`; nothing was written.
    """
    if output is not None:
        check_features_file(output, source.path, overwrite=overwrite)
    kind = kind or sniff_kind(source)
    splits = _read(source, kind)
    fitted = "train" if "train" in splits else next(iter(splits))
    if len(splits) > 1 and (extraction.transforms or any(not isinstance(e, Computed) for e in extraction.extractors)):
        logger.info("fitted to the %s of %s", counted(len(splits[fitted].rows), "row"), fitted)
    table = RowTable.of(splits[fitted].rows, _extractors(extraction, kind))
    frames = {name: table(part.rows, cache_gb=cache_gb) for name, part in splits.items()}
    names, arrays = _transformed(extraction, table, frames, fitted=fitted)
    parts = [part.columns(name, set(names)) for name, part in splits.items()]
    columns = {name: pa.concat_arrays([_common(part[name]) for part in parts]) for name in parts[0]}
    features_ND = np.concatenate(list(arrays.values()))
    clusters: tuple[Cluster, ...] = ()
    if extraction.clusters is not None:
        label = source.label
        columns["cluster"], clusters = _clustered(extraction.clusters, arrays, splits[fitted], arrays[fitted], label)
    features = FeatureTable(columns, tuple(names), features_ND, clusters)
    logger.info("%s of %s", counted(len(names), "feature"), counted(len(features_ND), "row"))
    if output is not None:
        features.write(output)
    return features


def check_features_file(output: Path, data: str, *, overwrite: bool) -> None:
    """Refuse a file that features cannot be written to.

    Raises:
        InputError: see `utils.tables.check_output`.
    """
    suffix = output.suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"--output {output}: expected a name ending in {', '.join(FORMATS)}")
    if suffix != ARRAYS:
        check_output(output, data, overwrite=overwrite)
        return
    check_writable_file(output)
    if output.exists() and not overwrite:
        raise InputError(f"--output {output}: exists already; name another file, or replace it by --overwrite")


@dataclass(frozen=True)
class _Split:
    """Rows of a split, and the columns of the source."""

    rows: Dataset
    carried: Mapping[str, list[Any]]

    def columns(self, name: str, taken: set[str]) -> dict[str, pa.Array]:
        """Return `row`, `split` and the source's columns, without those of names that are taken."""
        own = {
            "row": pa.array(self.rows["row"][:], pa.int64()),
            "split": pa.array([name] * len(self.rows), pa.string()),
        }
        further = {n: cells for n, cells in self.carried.items() if n not in own and n not in taken}
        if clashes := [n for n in self.carried if n not in further]:
            logger.warning("columns of the data that the features have, too, are left out: %s", listed(clashes))
        return own | arrow_columns(further)


def _read(source: SourceSplit, kind: Kind) -> dict[str, _Split]:
    """Return the rows of the splits, by name; in each the columns that all have."""
    layout = locate(source, kind=kind, labeled=False)
    names = [source.split] if source.split is not None else list(layout.splits)
    splits: dict[str, _Split] = {}
    for name in names:
        carried = Carried()
        parts = list(stream(replace(source, split=name), kind, carried=carried))
        if not parts:
            raise InputError(f"{source.path}: the split {name} has no rows")
        rows = concatenate_datasets(parts)
        texts = {} if kind == "image" else {n: rows[n][:] for n in ("text", "text_pair") if n in rows.column_names}
        beside = {n.removeprefix(FEATURE): rows[n][:] for n in rows.column_names if n.startswith(FEATURE)}
        splits[name] = _Split(rows, {**texts, **beside, **carried.take()})
    shared = set.intersection(*(set(part.carried) for part in splits.values()))
    return {
        name: replace(part, carried={n: cells for n, cells in part.carried.items() if n in shared})
        for name, part in splits.items()
    }


def _common(cells: pa.Array) -> pa.Array:
    """Return a column as texts, unless it holds numbers, which all splits have in one format."""
    if pa.types.is_integer(cells.type):
        return cells.cast(pa.int64())
    if pa.types.is_floating(cells.type) or pa.types.is_string(cells.type):
        return cells
    return pa.array([None if cell is None else str(cell) for cell in cells.to_pylist()], pa.string())


def _extractors(extraction: Extraction, kind: Kind) -> tuple[FeatureExtractor, ...]:
    """Return the extractors that are named, or those of a checkpoint's layers."""
    if extraction.extractors:
        return extraction.extractors
    checkpoint = extraction.model or (TEXT_CHECKPOINT if kind == "text" else IMAGE_CHECKPOINT)
    layers: Sequence[int] = extraction.layers
    if extraction.all_layers:
        layers = range(load_encoder(checkpoint, kind, extraction.max_length).layers + 1)
    return tuple(
        EncoderFeatures(checkpoint, layer, pooling, extraction.max_length)
        for layer in layers
        for pooling in extraction.poolings
    )


def _transformed(
    extraction: Extraction, table: RowTable, frames: Mapping[str, pd.DataFrame], *, fitted: str
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return the names of the features, and the features (N, D) of each split."""
    # A classifier that needs dense features.
    config = Classical(NearestMean(), transforms=extraction.transforms, components=extraction.components)
    with quiet_fit():
        pipeline, _ = feature_pipeline(config, table, frames[fitted], scaled=bool(extraction.transforms))
        pipeline.fit(frames[fitted])
        arrays = {name: np.asarray(pipeline.transform(frame), np.float32) for name, frame in frames.items()}
    # scikit-learn puts the name of the step before that of the feature, which ours have.
    names = [name.split("__", 1)[-1] if ":" in name else name.replace("__", ":") for name in _names(pipeline)]
    return names, arrays


def _names(pipeline: Any) -> Sequence[str]:
    return [str(name) for name in pipeline.get_feature_names_out()]


def _clustered(
    count: int,
    arrays: Mapping[str, np.ndarray],
    fitted: _Split,
    features_ND: np.ndarray,
    label: str | tuple[str, ...] | None,
) -> tuple[pa.Array, tuple[Cluster, ...]]:
    """Return the cluster of each row of all splits, and what is in the clusters of the fitted rows (N, D)."""
    clusters = Clusters(features_ND, count)
    names = chain(*LABELS) if label is None else [label] if isinstance(label, str) else label
    labels = next((fitted.carried[name] for name in names if name in fitted.carried), None)
    texts = fitted.rows["text"][:] if "text" in fitted.rows.column_names else None
    report = clusters.report(features_ND, texts, labels)
    numbers = np.concatenate([clusters.of(each) for each in arrays.values()])
    return pa.array(numbers, pa.int64()), tuple(report)
