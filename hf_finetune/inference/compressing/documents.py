"""Document compressed candidates: each kept one in the folder of a run, and the chosen one in place of the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_finetune.data.labels import labels_of
from hf_finetune.evaluation.config import Evaluate
from hf_finetune.hub.card import render_card
from hf_finetune.hub.run_facts import RunFacts, read_documents
from hf_finetune.inference.compressing.gate import RESAMPLES, logits_of, metrics_of
from hf_finetune.inference.compressing.rows import CompressRows
from hf_finetune.inference.compressing.state import Candidate
from hf_finetune.pipeline import parity
from hf_finetune.pipeline.document import quality_section
from hf_finetune.pipeline.draw_plots import draw_plots, write_plots
from hf_finetune.pipeline.evaluate import Evaluation, ScoredSplit, save_predictions
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.utils import environment
from hf_finetune.utils.artifacts import HEAD_FILE, artifacts_in
from hf_finetune.utils.files import write_json, write_text
from hf_finetune.utils.manifest import Manifest

PARITY_ROWS = 64
ONLY_SOURCE = (
    *("pretrain", "teacher", "best", "steps", "kernels", "head", "cache"),
    *("rungs", "ladder", "candidates", "seeds", "parameters"),
    *("temperature_scaling", "out_of_fold", "elastic_net"),
)
"""Sections of the run before that say nothing of a compressed network."""


def score(classifier: TrainedModel, rows: CompressRows, candidate: Candidate) -> Evaluation:
    """Return the predictions of a stored candidate for the rows that choose, and for those of the final number.

    Where there are no test rows, those of the final number are the validation rows of the result.
    """
    task, splits = classifier.task, {"validation": rows.choosing, "test": rows.final}
    if not rows.final_is_test:
        splits = {"validation": rows.final}
    scored = {}
    for name, part in splits.items():
        logits_NC, labels = logits_of(classifier, part), labels_of(part)
        intervals = task.intervals(labels, task.scores(logits_NC), resamples=RESAMPLES)
        scored[name] = ScoredSplit(task, part, labels, logits_NC, intervals, candidate.rows_per_s)
    return Evaluation(scored)


def with_final(candidate: Candidate, mine: Evaluation, source: Evaluation) -> Candidate:
    """Add what a candidate does on the rows that do not choose."""
    split, other = mine.judged_split, source.judged_split
    task = split.task
    difference = task.compare(split.labels, split.scores_NC, task.settled(other.scores_NC))
    final = {"metrics": metrics_of(task, split.labels, split.scores_NC), "difference": difference}
    return replace(candidate, final=final)


def check(classifier: TrainedModel, folder: Path, rows: CompressRows) -> dict[str, parity.Check]:
    """Compare a stored candidate, in a fresh process of plain libraries, with the loaded one.

    Raises:
        GateError: it differs.
    """
    few = rows.final.select(range(min(PARITY_ROWS, len(rows.final))))
    artifacts = artifacts_in(folder)
    if "onnx" in artifacts:
        from hf_finetune.compression.gate import check_example

        size = classifier.task.logit_size(logits_of(classifier, few))
        checks = {"onnx": check_example(artifacts["onnx"], classifier, few, size)}
    else:
        encoded = classifier.inputs.encode(few)
        expected_NC = parity.reference_logits(classifier.model, classifier.inputs, encoded)
        head = folder / HEAD_FILE if "encoder" in artifacts else None
        place = artifacts.get("model") or artifacts["encoder"]
        with parity.checking(
            [parity.Artifact("reload", place, head=head)],
            rows=parity.rows_to_load(few, encoded),
            expected_NC=expected_NC,
            labels=classifier.labels,
            task=classifier.task.hub_task(classifier.kind),
            size=classifier.task.logit_size(expected_NC),
            long=parity.plain_settings(classifier.inputs),
        ) as found:
            checks = found()
    parity.refuse_failed(checks)
    return checks


def document(
    source: Path,
    folder: Path,
    classifier: TrainedModel,
    candidate: Candidate,
    rows: CompressRows,
    evaluation: Evaluation,
) -> None:
    """Write what the folder of a run has beside its model: recipe, predictions, result and card.

    Args:
        source: folder of the run that is compressed.
        folder: of the candidate.
    """
    record, result = read_documents(source)
    checks = check(classifier, folder, rows)
    write_json(folder / "recipe.json", {**record, "compression": list(candidate.steps)})
    save_predictions(folder, evaluation)
    facts = RunFacts(RunFacts.read(source).recipe, _result(result, folder, candidate, rows, evaluation, checks))
    drawn = draw_plots(folder, facts, only=("confusion_matrix", "reliability"))
    write_plots(folder, drawn)
    content = {**facts.result, "plots": list(drawn)}
    write_text(folder / "README.md", render_card(replace(facts, result=content)))
    write_json(folder / "result.json", content)


def _result(
    source: Mapping[str, Any],
    folder: Path,
    candidate: Candidate,
    rows: CompressRows,
    evaluation: Evaluation,
    checks: Mapping[str, parity.Check],
) -> dict[str, Any]:
    task = evaluation.judged_split.task
    quality = quality_section(task, evaluation, (), resamples=Evaluate().resamples)
    parts = list(artifacts_in(folder))
    is_graph = "onnx" in parts
    has_stock_class = "model" in parts
    counts = {"train": len(rows.steps.train), **{n: len(split.rows) for n, split in evaluation.splits.items()}}
    return {
        **{name: value for name, value in source.items() if name not in ONLY_SOURCE},
        **quality,
        "parity": {name: check.to_dict() for name, check in checks.items()},
        "doubts": source.get("doubts") or [],
        "rows": counts,
        "standalone": has_stock_class,
        **({"why_not_standalone": "it is a graph for ONNX Runtime"} if is_graph else {}),
        "artefacts": parts,
        "time": {"total_s": candidate.seconds},
        "throughput": {"predict_rows_per_s": candidate.rows_per_s},
        "memory": {"peak_rss_mb": candidate.peak_rss_mb},
        "environment": {**source.get("environment", {}), "versions": environment.versions()},
        "compressed": candidate.to_dict(),
        "artifacts": Manifest.of(folder).hashes,
    }
