"""Label new rows by a finished classifier."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import chain, islice
from operator import ne
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
from datasets import Dataset

from hf_finetune.augmentation.test_time import SeveralViews
from hf_finetune.data.config import DEFAULT_LIMITS, DataLimits, SourceSplit
from hf_finetune.data.dropped_rows import write_dropped
from hf_finetune.data.duplicates import row_digests
from hf_finetune.data.readers.table import DROP
from hf_finetune.data.rows import Carried, UnusableRow, count_kinds
from hf_finetune.errors import InputError
from hf_finetune.inference.parts import read_inputs, read_parts
from hf_finetune.inference.scoring import AnyScorer, Precision, scorer_of
from hf_finetune.tasks.base import Task
from hf_finetune.tasks.trained_pipeline import Trained
from hf_finetune.utils.core_sharing import shared_cores
from hf_finetune.utils.messages import listed
from hf_finetune.utils.tables import CONLL, arrow_columns, check_output, table_writer

logger = logging.getLogger("hf_finetune")

MOST_LISTED = 20
"""Dropped rows that the log names where there is no file for them."""


@shared_cores()
def predict(
    classifier: Trained,
    source: SourceSplit | Sequence[Any],
    output: Path | None,
    *,
    batch_size: int | None = None,
    precision: Precision = "auto",
    views: SeveralViews | None = None,
    digests: bool = False,
    collect: bool = False,
    columns: bool = False,
    limits: DataLimits = DEFAULT_LIMITS,
) -> dict[str, Any]:
    """Label every row of a source, or inputs in memory.

    Written are row, predicted and p:<name> per class, in the order of the source.

    Rows are read and predictions written in parts; `output` appears when it is complete. Rows that
    `source.drop_bad_rows` leaves out have no prediction; they are listed beside it, in `<output>.dropped.csv`, or
    without an output in the log.

    Args:
        source: rows, or see `parts.read_inputs`.
        output: None: nothing is written.
        batch_size, precision, views: see `Scorer`.
        digests: also write the column `digest`, see `data.duplicates.row_digests`, by which
            `distillation.teachers.precomputed` matches rows.
        columns: carry the columns of the source along, or the file of each row in a folder of classes. If only they
            are beyond the limits, they are left out with a warning.
        collect: also return the predictions.
        limits: limits on inputs in memory; a source has its own.

    Returns:
        {"rows", "throughput", "precision"}, as in `evaluate`; with `drop_bad_rows` also "dropped" (with "file", or
        without an output "list"), with `collect` also "predictions": the rows of `output`, as mappings.

    Raises:
        InputError: an output that is not .csv, .parquet, .jsonl, or .conll for words; or unreadable rows. `output` is
            not touched.
    """
    if output is not None:
        check_output(output, source.path if isinstance(source, SourceSplit) else "")
        if output.suffix.lower() == CONLL and not classifier.task.has_words:
            raise InputError(
                f"--output {output}: expected .csv, .parquet or .jsonl, as {classifier.name} predicts no tags of words"
            )
    options: dict[str, Any] = {"digests": digests, "collect": collect, "limits": limits}
    new_scorer = partial(scorer_of, classifier, precision, batch_size=batch_size, views=views)
    if columns:
        try:
            return _predict(new_scorer(), source, output, Carried(), **options)
        except _CarriedBeyondLimits as error:
            logger.warning("the other columns are not carried along: %s", error)
    return _predict(new_scorer(), source, output, None, **options)


def _predict(
    scorer: AnyScorer,
    source: SourceSplit | Sequence[Any],
    output: Path | None,
    carried: Carried | None,
    *,
    digests: bool,
    collect: bool,
    limits: DataLimits,
) -> dict[str, Any]:
    classifier, num_changed = scorer.classifier, 0
    dropped: list[UnusableRow] = []
    predictions: list[dict[str, Any]] = []
    if isinstance(source, SourceSplit):
        parts = read_parts(classifier, source, labeled=False, progress="predict", dropped=dropped, carried=carried)
        parts = parts if carried is None else _within_limits(parts, carried, dropped)
    else:
        parts = read_inputs(classifier, source, limits)
    first = list(islice(parts, 1))  # its columns are those of the output
    taken = _carried_columns(carried, classifier.task, warns=True)
    names = list(taken)
    writer = nullcontext() if output is None else table_writer(output, _schema(classifier.task, names, digests=digests))
    with writer as write:
        for rows in chain(first, parts):
            scores_NC, unchanged_NC = scorer.score(rows)
            keys = [key.hex() for key in row_digests(rows.with_format("arrow")[:])] if digests else None
            taken = taken or _carried_columns(carried, classifier.task)
            table = predictions_table(classifier.task, rows, scores_NC, keys, taken)
            taken = {}
            if write is not None:
                write(table)
            if collect:
                predictions += table.to_pylist()
            if scorer.views is not None:
                num_changed += sum(map(ne, *map(classifier.task.predicted, (scores_NC, unchanged_NC))))
    if scorer.views is not None:
        _log_views(scorer.views, scorer, num_changed)
    report = scorer.report()
    if collect:
        report["predictions"] = predictions
    if isinstance(source, SourceSplit) and source.drop_bad_rows:
        report["dropped"] = _report_dropped(dropped, source.split or "", output)
    if report["precision"]["format"] != "float32":
        _log_precision(report["precision"])
    return report


class _CarriedBeyondLimits(Exception):
    """Rows could not be read, perhaps because of the columns that are carried along."""


def _within_limits(parts: Iterator[Dataset], carried: Carried, dropped: Sequence[UnusableRow]) -> Iterator[Dataset]:
    """Yield parts of the rows.

    Raises:
        _CarriedBeyondLimits: a row is refused or dropped at a limit that a carried column may have reached.
    """

    def refuse(reason: str) -> None:
        named = re.search(r"column '(.*?)'", reason)
        if "--data.limits." in reason and carried.names and (named is None or named[1] in carried.names):
            raise _CarriedBeyondLimits(reason.removesuffix(f"; {DROP}"))

    checked = 0
    try:
        for rows in parts:
            for row in dropped[checked:]:
                refuse(f"{row.place}, {row.reason}")
            checked = len(dropped)
            yield rows
    except InputError as error:
        refuse(str(error))
        raise
    for row in dropped[checked:]:
        refuse(f"{row.place}, {row.reason}")


def predictions_table(
    task: Task,
    rows: Dataset,
    scores_NC: Any,
    digests: Sequence[str] | None = None,
    carried: Mapping[str, pa.Array] = MappingProxyType({}),
) -> pa.Table:
    """Return row, the `carried` columns of the input, predicted, with `digests` also digest, and further scores.

    Of words, also the words, and the entities among them.
    """
    columns = {
        "row": pa.array(rows["row"][:], pa.int64()),
        **carried,
        **task.input_columns(rows),
        "predicted": pa.array(task.predicted(scores_NC), task.predicted_type),
        **task.found_columns(rows, scores_NC),
        **({} if digests is None else {"digest": pa.array(digests, pa.string())}),
        **task.score_columns(scores_NC),
    }
    return pa.table(columns)


def _schema(task: Task, carried: Sequence[str], *, digests: bool) -> pa.Schema:
    empty: dict[str, pa.Array] = {name: pa.nulls(0) for name in carried}
    rows = Dataset.from_dict({"row": [], "text": [], "bounds": []})
    return predictions_table(task, rows, task.empty_scores(), [] if digests else None, empty).schema


def _carried_columns(carried: Carried | None, task: Task, *, warns: bool = False) -> dict[str, pa.Array]:
    """Return the columns that predictions carry along, without those whose names predictions have."""
    values = {} if carried is None else carried.take()
    own = {"digest", *_schema(task, [], digests=False).names}
    clashes = [name for name in values if name in own]
    if clashes and warns:
        logger.warning("columns of the input that predictions have, too, are left out: %s", listed(clashes))
    return arrow_columns({name: cells for name, cells in values.items() if name not in own})


def _report_dropped(dropped: Sequence[UnusableRow], split: str, output: Path | None) -> dict[str, Any]:
    """List dropped rows in a file beside the output, or without one in the log, and return their section."""
    report: dict[str, Any] = {"rows": len(dropped), "reasons": count_kinds(dropped)}
    if output is not None:
        file = output.with_name(f"{output.stem}.dropped.csv")
        write_dropped(file, {split: dropped})
        return {**report, "file": str(file)}
    for row in dropped[:MOST_LISTED]:
        logger.warning("dropped: %s: %s", row.place, row.reason)
    if len(dropped) > MOST_LISTED:
        logger.warning("dropped: %d more; --json lists all", len(dropped) - MOST_LISTED)
    return {**report, "list": [{"row": row.row, "place": row.place, "reason": row.reason} for row in dropped]}


def _log_views(views: SeveralViews, scorer: AnyScorer, num_changed: int) -> None:
    logger.info(
        "%d views: %d of %d labels are not those of the unchanged rows; %.1f times the seconds",
        views.number,
        num_changed,
        scorer.rows,
        scorer.cost,
    )


def _log_precision(report: dict[str, Any]) -> None:
    logger.info(
        "computed in bfloat16: probabilities within %.2g of float32 on the %d rows computed in both, "
        "the same labels on %.1f%% of %d; %d rows close to another label have float32's probabilities",
        report["largest_probability_difference"],
        report["rows_compared"],
        100 * report["label_agreement"],
        report["rows_of_label_agreement"],
        report["rows_in_float32"],
    )
