"""The rows of a source for a finished classifier, a part at a time, with a progress bar."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from datasets import Dataset
from tqdm import tqdm

from hf_finetune.data.config import SourceSplit
from hf_finetune.data.loading import stream
from hf_finetune.evaluation.logits import PART_ROWS
from hf_finetune.training.classifier import Classifier

logger = logging.getLogger("hf_finetune")


def read_parts(classifier: Classifier, source: SourceSplit, *, labeled: bool, progress: str) -> Iterator[Dataset]:
    """Yield canonical rows of the source, in its order; a part is at most `PART_ROWS` long.

    Args:
        labeled: every row needs a label that the classifier knows.
        progress: name of the bar on stderr.

    Raises:
        InputError: an unreadable row, or one without such a label.
    """
    kind, labels = classifier.kind, classifier.labels if labeled else None
    # On a terminal only, and wiped off at the end: a bad row is the first line of stderr.
    with tqdm(desc=progress, unit="row", dynamic_ncols=True, leave=False, disable=None) as bar:
        for number, rows in enumerate(stream(source, kind, labels=labels, batch_rows=PART_ROWS[kind])):
            if number == 0 and classifier.pairs and "text_pair" not in rows.column_names:
                logger.warning(
                    "%s: the model was trained on pairs of texts and these are single texts, which it was never shown; "
                    "name the second column by --text-pair",
                    source.path,
                )
            yield rows
            bar.update(len(rows))
