"""Evaluation results in the format of the Hub: `.eval_results/NAME.yaml`, read by leaderboards of benchmarks.

The card has the same numbers as `model-index`, for any data; this file is for data sets that are registered as a
benchmark, which only the user knows. No verify token is written: the Hub issues it to evaluations that it can repeat.
"""

import re
from collections.abc import Mapping
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from hf_finetune.errors import InputError
from hf_finetune.evaluation.metric_tables import METRICS
from hf_finetune.tasks.choose import task_kind
from hf_finetune.utils.files import parse_yaml
from hf_finetune.utils.messages import counted

BENCHMARK = re.compile(r"(?P<dataset>\w[\w.-]*/(?P<name>\w[\w.-]*)):(?P<task>\w[\w.-]*)")
COMMIT = re.compile(r"[0-9a-f]{40}")
FILES = ".eval_results/*.yaml"
LARGEST_BYTES = 100_000  # a larger file is not ours
# The end of the notes of each entry, by which a later push knows a file of an earlier one.
SIGNATURE = "fine-tuned and measured by hf_finetune"


def check_benchmark(benchmark: str) -> re.Match[str]:
    """Return the parts of DATASET:TASK.

    Raises:
        InputError: it has another form.
    """
    match = BENCHMARK.fullmatch(benchmark)
    if match is None:
        raise InputError(f"hub.benchmark {benchmark}: expected OWNER/DATASET:TASK, as `cais/hle:default`")
    return match


def eval_results_file(benchmark: str, recipe: Mapping[str, Any], result: Mapping[str, Any]) -> tuple[str, bytes]:
    """Return path and content of the file of evaluation results in a repository.

    The value is that of the metric that chooses the epoch, on the test split.

    Args:
        benchmark: OWNER/DATASET:TASK.
        recipe: the recipe as plain values.
        result: content of result.json.

    Raises:
        InputError: see `check_benchmark`; or the run has no test split.
    """
    match = check_benchmark(benchmark)
    metrics = result["metrics"].get("test")
    if not metrics:
        raise InputError(
            f"hub.benchmark {benchmark}: the run has no test split, whose result it would be; leave it out"
        )
    name = (recipe.get("evaluate") or {}).get("metric") or task_kind(result).epoch_metric
    score, data = metrics[name], recipe.get("data") or {}
    revision = str(data.get("revision") or "")
    entry = EvalResultEntry(
        dataset_id=match["dataset"],
        task_id=match["task"],
        value=round(score["value"], 4),
        dataset_revision=revision if data.get("path") == match["dataset"] and COMMIT.fullmatch(revision) else None,
        notes=(
            f"{METRICS[name].title} of {counted(score['n'], 'test row')}, "
            f"95% interval {score['low']:.4f} to {score['high']:.4f}; {SIGNATURE}"
        ),
    )
    text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)
    return f".eval_results/{match['name']}.yaml", text.encode()


def is_ours(content: bytes) -> bool:
    """Return whether a file of evaluation results holds what this package measured, and nothing else."""
    try:
        entries = parse_yaml(content.decode())
    except (InputError, UnicodeDecodeError):
        return False
    notes = [entry.get("notes") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return bool(notes) and len(notes) == len(entries) and all(str(note).endswith(SIGNATURE) for note in notes)
