"""Verify the saved artifacts: loaded in a fresh process, each must reproduce the logits of the trained network."""

from __future__ import annotations

from collections.abc import Sequence

from datasets import concatenate_datasets

from hf_finetune.pipeline import parity
from hf_finetune.pipeline.evaluate import Evaluation
from hf_finetune.pipeline.train import TrainedRun


def verify(
    trained: TrainedRun, artifacts: Sequence[parity.Artifact], evaluation: Evaluation
) -> dict[str, parity.Check]:
    """Compare the artifacts with the network on the judged rows, and on training rows where these are few."""
    run, recipe = trained.run, trained.run.recipe
    with trained.clock.measure("parity_s"):
        rows = concatenate_datasets([evaluation.judged_split.rows, run.data.splits.train])
        rows = rows.select(range(min(recipe.evaluate.parity_rows, len(rows))))
        inputs = run.data.inputs.for_inference()
        return parity.check_artifacts(
            artifacts,
            rows=rows,
            expected_NC=parity.reference_logits(trained.network, inputs, inputs.encode(rows)),
            labels=run.data.splits.labels,
            task=recipe.task,
            trust_remote_code=recipe.model.trust_remote_code,
        )
