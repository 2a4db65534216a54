"""The parity gate of a pipeline: plain scikit-learn in a fresh process must predict the same from the saved file."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets

from hf_finetune.features.pipelines import placed
from hf_finetune.features.skops_file import trusted_types
from hf_finetune.hub.plain_scripts import CLASSICAL
from hf_finetune.pipeline.context import ClassicalRun
from hf_finetune.pipeline.evaluate import Evaluation
from hf_finetune.pipeline.parity import Check, Checks, compare, with_small_images
from hf_finetune.pipeline.stopwatch import Stopwatch
from hf_finetune.tasks.trained_pipeline import TrainedPipeline, load_trained_pipeline
from hf_finetune.utils.artifacts import PIPELINE_FILE
from hf_finetune.utils.fresh_process import in_fresh_process

TOLERANCE = 1e-6
"""Of probabilities, and of numbers relative to their size."""


@contextmanager
def verifying(
    run: ClassicalRun, trained: TrainedPipeline, folder: Path, evaluation: Evaluation, clock: Stopwatch
) -> Iterator[Callable[[], Checks]]:
    """Compare the saved pipeline with the trained one on the judged rows, and on training rows where these are few.

    Yields:
        Waits for a fresh process, which runs beside the block, and returns the checks. `reload`: plain scikit-learn, in
        that process, on the table of the rows. `rows`: this package, from the rows.
    """
    with clock.measure("parity_s", shown=False), ExitStack() as stack:
        rows = concatenate_datasets([evaluation.judged_split.rows, run.splits.train])
        rows = with_small_images(rows.select(range(min(run.recipe.evaluate.parity_rows, len(rows)))))
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="hf_finetune_parity_"))
        job, pipeline = Path(name) / "job.json", folder / "classical" / PIPELINE_FILE
        trained.fitted.table(rows).to_parquet(job.with_name("table.parquet"))
        description = {
            "pipeline": str(pipeline),
            "trusted": trusted_types(pipeline),
            "table": str(job.with_name("table.parquet")),
            "outputs": trained.fitted.outputs,
        }
        job.write_text(json.dumps(description))
        end = stack.enter_context(in_fresh_process(CLASSICAL, job))
        expected_NC = trained.fitted.scores(rows)
        tolerance = TOLERANCE * max(1.0, float(np.abs(expected_NC).max()))
        again_NC = load_trained_pipeline(folder / "classical", str(folder)).fitted.scores(rows)
        running = stack.pop_all()

    def checks() -> Checks:
        here = {"rows": compare(again_NC, expected_NC, tolerance)}
        if (error := end()) is not None:
            return {"reload": Check(ok=False, error=error), **here}
        with np.load(job.with_suffix(".npz")) as archive:
            scores, classes = archive["scores"], archive["classes"].tolist()
        reloaded_NC = placed(scores.reshape(len(rows), -1), classes or trained.labels, trained.labels)
        return {"reload": compare(reloaded_NC, expected_NC, tolerance), **here}

    with running:
        yield clock.measure("parity_s")(checks)


def compare_pulled(local: TrainedPipeline, pulled: Path, rows: Dataset) -> Check:
    """Compare a pulled pipeline with that of the run.

    Args:
        pulled: folder of the pulled files.
        rows: texts or images. Further columns are left empty.
    """
    empty = [None] * len(rows)
    for canonical in local.fitted.table.canonical.values():
        if canonical not in rows.column_names:
            rows = rows.add_column(canonical, [""] * len(rows) if canonical == "text_pair" else empty)
    expected_NC = local.fitted.scores(rows)
    tolerance = TOLERANCE * max(1.0, float(np.abs(expected_NC).max()))
    return compare(load_trained_pipeline(pulled, local.name).fitted.scores(rows), expected_NC, tolerance)
