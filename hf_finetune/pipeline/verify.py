"""Verify what was saved: each artifact must give the trained model's logits, loaded in a fresh process."""

from __future__ import annotations

from collections.abc import Sequence

from datasets import concatenate_datasets

from hf_finetune.pipeline.evaluate import Evaluation
from hf_finetune.pipeline.parity import Artifact, Check, check_artifacts, reference_logits
from hf_finetune.pipeline.train import TrainedRun


def verify(trained: TrainedRun, artifacts: Sequence[Artifact], evaluation: Evaluation) -> dict[str, Check]:
    """Compare the artifacts with the model on the judged rows, and training rows where these are few."""
    run, recipe = trained.run, trained.run.recipe
    with trained.clock.measure("parity_s"):
        rows = concatenate_datasets([evaluation.judged_split.rows, run.data.splits.train])
        rows = rows.select(range(min(recipe.evaluate.parity_rows, len(rows))))
        inputs = run.data.inputs.for_inference()
        return check_artifacts(
            artifacts,
            rows=rows,
            expected_NC=reference_logits(trained.network, inputs, inputs.encode(rows)),
            labels=run.data.splits.labels,
            task=recipe.task,
            trust_remote_code=recipe.model.trust_remote_code,
        )
