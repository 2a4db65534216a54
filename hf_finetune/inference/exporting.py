"""Export a finished classifier, verified on rows of its data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets

from hf_finetune.compression.config import EXPORT_OPTIONS, ExportOptions
from hf_finetune.compression.export import Exported, check_exportable, check_options, export_rows
from hf_finetune.compression.quantization.quantize import needs_rows
from hf_finetune.data.config import SourceSplit
from hf_finetune.data.duplicates import row_digests
from hf_finetune.errors import InputError, LossError, NoLabels
from hf_finetune.inference.alternatives import best_alternatives
from hf_finetune.inference.parts import read_parts
from hf_finetune.pipeline.parity import refuse_unverified
from hf_finetune.tasks.trained_model import TrainedModel, run_folder
from hf_finetune.tasks.trained_pipeline import Trained
from hf_finetune.utils.files import read_json

REMEDY = "name rows by --data"
MOST_READ = 20_000
"""Rows of a source among which those to compare with are drawn, at most."""


def export(
    classifier: Trained,
    source: SourceSplit | None = None,
    output: Path | None = None,
    options: ExportOptions = EXPORT_OPTIONS,
) -> Exported:
    """Export a classifier, see `compression.export.export_rows`.

    Args:
        source: rows to compare with. None: the data of the run.
        output: folder. None: see `ExportOptions.folder`, in that of the run.

    Raises:
        InputError: the classifier has no graph, or the rows cannot be read.
        GateError: the exported classifier is not what the classifier is; or the parity gate of its run failed.
        LossError: it loses too much; names the two best formats of those that were measured instead.
    """
    if not isinstance(classifier, TrainedModel):
        raise InputError(f"{classifier.name}: a pipeline of scikit-learn, which has no graph; expected a network")
    check_exportable(classifier)
    refuse_unverified(run_folder(classifier.files))
    check_options(options)
    rows = _rows(classifier, source, options)

    def calibration(chosen: ExportOptions) -> Dataset:
        return _calibration_rows(classifier, source, rows, chosen)

    try:
        return export_rows(classifier, rows, output, options, calibration(options) if needs_rows(options) else None)
    except LossError as error:
        others = best_alternatives(classifier, rows, options, calibration)
        raise LossError(f"{error}; {others}, or allow more") from None


def _own_data(classifier: TrainedModel) -> SourceSplit:
    """Return the data that the run was trained on."""
    folder = run_folder(classifier.files)
    try:
        data = read_json(folder / "recipe.json", REMEDY)["recipe"]["data"]
        source = SourceSplit(str(data["path"]), config_name=data.get("config_name"), revision=data.get("revision"))
    except (OSError, LookupError, TypeError, AttributeError, InputError):
        raise InputError(f"{classifier.name}: no recipe.json names its data; {REMEDY}") from None
    if source.path.startswith("memory:"):
        raise InputError(f"{classifier.name}: it was trained on a table in memory; {REMEDY}")
    return source


def _rows(classifier: TrainedModel, source: SourceSplit | None, options: ExportOptions) -> Dataset:
    """Return rows of a source, or of the data of the run: with labels if they have them.

    Raises:
        InputError: they cannot be read; or rounded weights are to be judged, and they have no labels.
    """

    def read(rows: SourceSplit, *, labeled: bool) -> Dataset:
        parts = read_parts(classifier, rows, labeled=labeled, progress="read rows")
        return _drawn(parts, options.most_rows, half=options.rows is None and needs_rows(options))

    if source is None:
        return read(_own_data(classifier), labeled=True)
    try:
        return read(source, labeled=True)
    except NoLabels as error:
        if options.weights != "float32":
            raise InputError(f"{error}; {options.weights} is judged by labeled rows") from None
        return read(source, labeled=False)


def _calibration_rows(
    classifier: TrainedModel, source: SourceSplit | None, judged: Dataset, options: ExportOptions
) -> Dataset:
    """Return rows without those that judge: of the training split of the run's data, or of the source.

    Raises:
        InputError: none are left.
    """
    most = options.quantization.rows + len(judged)

    def read(rows: SourceSplit) -> Dataset:
        return _drawn(read_parts(classifier, rows, labeled=False, progress="read calibration rows"), most)

    if source is not None:
        rows = read(source)
    else:
        own = _own_data(classifier)
        try:
            rows = read(replace(own, split="train"))
        except InputError:  # its splits have other names
            rows = read(own)
    known, keys = (row_digests(each.with_format("arrow")[:]) for each in (judged, rows))
    judges = set(known)
    free = [index for index, key in enumerate(keys) if key not in judges][: options.quantization.rows]
    if len(free) < 2:
        raise InputError(
            f"--rows {options.most_rows}: it leaves no rows for calibration; compare by fewer, or name more by --data"
        )
    return rows.select(free)


def _drawn(parts: Iterator[Dataset], most: int, *, half: bool = False) -> Dataset:
    """Return rows that are drawn at random: in a sorted file the first ones are of one class.

    Args:
        half: leave at least half of them, for calibration.
    """
    taken: list[Dataset] = []
    for part in parts:
        taken.append(part)
        if sum(map(len, taken)) >= MOST_READ:
            break
    rows = concatenate_datasets(taken)
    if len(rows) < 2:
        raise InputError("export: expected two rows or more to compare with")
    most = min(most, len(rows) // 2) if half else most
    return rows.select(np.sort(np.random.default_rng(0).permutation(len(rows))[:most]))
