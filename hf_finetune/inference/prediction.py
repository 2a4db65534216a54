"""Labels for new rows from a finished classifier."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hf_finetune.augmentation.test_time import SeveralViews
from hf_finetune.data.config import SourceSplit
from hf_finetune.data.duplicates import row_digests
from hf_finetune.inference.parts import read_parts
from hf_finetune.inference.scoring import Precision, Scorer
from hf_finetune.training.classifier import Classifier
from hf_finetune.utils.tables import check_output, table_writer

logger = logging.getLogger("hf_finetune")


def predict(
    classifier: Classifier,
    source: SourceSplit,
    output: Path,
    *,
    batch_size: int | None = None,
    precision: Precision = "auto",
    views: SeveralViews | None = None,
    digests: bool = False,
) -> dict[str, Any]:
    """Label every row of `source` and write row, predicted and p:<name> per class, in the source's order.

    The source is read and the predictions are written a part at a time; `output` appears when it is whole. How far
    bfloat16 is from float32, where it was used, is logged, and so is what views change.

    Args:
        batch_size, precision, views: see `Scorer`.
        digests: write the column `digest` as well, see `data.duplicates.row_digests`, by which
            `distillation.teachers.precomputed` finds a row.

    Returns:
        {"rows", "throughput", "precision"}, as in `evaluate`.

    Raises:
        InputError: for an output that is not .csv, .parquet or .jsonl, or unreadable rows; `output` is not touched.
    """
    check_output(output, source.path)
    scorer = Scorer(classifier, precision, batch_size=batch_size, views=views)
    written, changed = 0, 0
    with table_writer(output, classifier.labels, digests=digests) as write:
        for rows in read_parts(classifier, source, labeled=False, progress="predict"):
            probabilities_NC, unchanged_NC = scorer.score(rows)
            keys = [[key.hex() for key in row_digests(rows.with_format("arrow")[:])]] if digests else []
            write(rows["row"][:], probabilities_NC, *keys)
            written += len(rows)
            changed += int((probabilities_NC.argmax(-1) != unchanged_NC.argmax(-1)).sum())
    if views is not None:
        logger.info(
            "%d views: %d of %d labels are not those of the unchanged rows; %.1f times the seconds",
            views.number,
            changed,
            written,
            scorer.cost,
        )
    report = scorer.report()
    if report["format"] != "float32":
        logger.info(
            "computed in bfloat16: probabilities within %.2g of float32's on the %d rows computed in both, "
            "labels the same on %.1f%% of %d; %d rows with two close classes are given in float32",
            report["largest_probability_difference"],
            report["rows_compared"],
            100 * report["label_agreement"],
            report["rows_of_label_agreement"],
            report["rows_in_float32"],
        )
    return {"rows": written, "throughput": scorer.throughput(written), "precision": report}
