"""Read the rows of a source, or inputs in memory, in parts, and count them."""

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

from datasets import Dataset

from hf_finetune.data.config import DataLimits, SourceSplit
from hf_finetune.data.memory import MemoryData, holding, input_columns
from hf_finetune.data.readers.memory_table import memory_table
from hf_finetune.data.readers.table import DROP
from hf_finetune.data.rows import Carried, UnusableRow
from hf_finetune.data.streaming import stream
from hf_finetune.errors import InputError
from hf_finetune.evaluation.logits import PART_ROWS
from hf_finetune.tasks.trained_pipeline import Trained, TrainedPipeline
from hf_finetune.utils.console import Progress

PATH = "memory:rows"
CANONICAL = {"text", "text_pair", "image"}
logger = logging.getLogger("hf_finetune")


def read_parts(
    classifier: Trained,
    source: SourceSplit,
    *,
    labeled: bool,
    progress: str,
    dropped: list[UnusableRow] | None = None,
    carried: Carried | None = None,
) -> Iterator[Dataset]:
    """Yield canonical rows in the order of the source, at most `PART_ROWS` at a time.

    Args:
        labeled: require a label of the classifier for every row.
        progress: title under which the rows are counted.
        dropped: collects the rows that `source.drop_bad_rows` leaves out.
        carried: collects the other columns of the rows.

    Raises:
        InputError: an unreadable row, or a row without such a label.
    """
    kind, labels = classifier.kind, classifier.labels if labeled else None
    options: dict[str, Any] = {"label_values": classifier.label_values, "trained": classifier.columns}
    options |= {"dropped": dropped, "carried": carried, "task": classifier.task.name}
    if source.label_separator is None and labeled:
        source = replace(source, label_separator=classifier.label_separator)
    if isinstance(classifier, TrainedPipeline):
        source = replace(source, features=classifier.features)
    if source.sequence is None:
        source = replace(source, sequence=classifier.sequence)
    with Progress(progress, quiet=True) as bar:
        for number, rows in enumerate(stream(source, kind, labels=labels, batch_rows=PART_ROWS[kind], **options)):
            if number == 0 and classifier.pairs and "text_pair" not in rows.column_names:
                logger.warning(
                    "%s: expected pairs of texts, on which the model was trained, got single texts; "
                    "name the second column by --text-pair",
                    source.path,
                )
            yield rows
            bar.update(len(rows))


def read_inputs(classifier: Trained, inputs: Iterable[Any], limits: DataLimits) -> Iterator[Dataset]:
    """Yield canonical rows of inputs in memory, at most `PART_ROWS` at a time.

    Args:
        inputs: texts, lists of words, pairs of texts, images or paths of images; a generator is read part by part.
        limits: limits on the inputs.

    Raises:
        InputError: an input is of another type, empty or damaged.
    """
    rows, first = iter(inputs), 0
    while part := list(islice(rows, PART_ROWS[classifier.kind])):
        columns = (
            {"text": part} if classifier.task.has_words else input_columns(part, kind=classifier.kind, name="inputs")
        )
        table = memory_table("inputs", columns)
        # Columns that are named by us are not inferred, which would be noted.
        ours: dict[str, Any] = {name: name for name in columns} if columns.keys() <= CANONICAL else {}
        with holding({"rows": MemoryData({"rows": replace(table, first=first)})}), every_row_has_a_label():
            source = SourceSplit(PATH, limits=limits, **ours)
            yield from read_parts(classifier, source, labeled=False, progress="predict")
        first += len(part)


@contextmanager
def every_row_has_a_label() -> Iterator[None]:
    """Do not propose to leave out rows: the labels are those of all inputs, in their order."""
    try:
        yield
    except InputError as error:
        error.args = (re.sub(rf"[,;] (or )?{DROP}", "", str(error)),)
        raise
