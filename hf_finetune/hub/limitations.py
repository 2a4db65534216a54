"""What the numbers of a run do not show: the last section of its card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hf_finetune.config.data import TextData
from hf_finetune.hub.markdown import code, interval, number, percentage_points
from hf_finetune.hub.run_facts import RunFacts

FEW_ROWS = 20
"""A class with fewer training rows is named."""


def limitations(run: RunFacts) -> Iterator[str]:
    """One sentence for each."""
    if run.split == "validation":
        yield "No test split: no claim about rows that had no part in choosing the weights."
    for name, baseline in run.result.get("baselines", {}).items():
        yield from _against(name, baseline, run.metrics.get("accuracy"))
    for note in run.teacher.get("notes", ()):
        yield f"{note[0].upper()}{note[1:]}."
    yield from _of_data(run)
    yield f"One run with seed {run.result['seed']}: the intervals cover the choice of rows, not that of the seed."
    if unknown := [name for name, is_known in _statements(run).items() if not is_known]:
        yield f"Not stated: {'; '.join(unknown)}."


def _against(name: str, baseline: Mapping[str, Any], accuracy: Mapping[str, float] | None) -> Iterator[str]:
    """A baseline that is not beaten: by the paired difference, or by the intervals where the result has none."""
    other, worse, no_signal = (
        baseline.get("accuracy"),
        f"Worse than the {name} baseline",
        f"No signal over the {name} baseline",
    )
    if (difference := baseline.get("difference")) is not None:
        points = f"{percentage_points(difference)} points of accuracy, row by row."
        if difference["verdict"] != "better":
            yield f"{worse if difference['verdict'] == 'worse' else no_signal}: {points}"
    elif accuracy and other and accuracy["high"] < other["low"]:
        yield f"{worse}: its accuracy is {interval(other)}, this model's {interval(accuracy)}."
    elif accuracy and other and accuracy["low"] <= other["high"]:
        yield f"{no_signal}: its accuracy {interval(other)} and this model's {interval(accuracy)} overlap."


def _of_data(run: RunFacts) -> Iterator[str]:
    """Truncated texts, leaks, rare classes."""
    data = run.recipe.data
    if isinstance(data, TextData) and (truncated := run.data.get("truncated_share")):
        share = f"{100 * truncated:.1f}%"
        yield f"{share} of the training texts are longer than {data.max_length} tokens and were truncated."
    for split, count in run.data.get("duplicates", {}).items():
        if count:
            rows = number(run.result["rows"][split])
            yield f"{number(count)} of {rows} {split} rows are in train as well, so the metrics are too good."
    rare = [(name, rows) for name, rows in run.data.get("rows_per_class", {}).items() if rows < FEW_ROWS]
    if rare:
        named = ", ".join(f"{code(name)} ({rows})" for name, rows in rare[:10]) + (", ..." if len(rare) > 10 else "")
        yield f"{len(rare)} classes have fewer than {FEW_ROWS} training rows: {named}."


def _statements(run: RunFacts) -> dict[str, bool]:
    """What a card should state, and whether it is known."""
    hub = run.recipe.hub
    return {
        "the base model's id on the Hub": run.base_model is not None or run.recipe.model.from_config is not None,
        "the language of the texts": not run.reads_text or bool(hub.language),
        "the license of the model": bool(hub.license),
        "the license of the data": bool(run.data_license),
    }
