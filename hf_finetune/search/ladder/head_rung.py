"""The rung of a head on frozen features: which layer it reads, and how many rows the time holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from hf_finetune.pipeline.choose_layer import LayerChoice, choose_layer
from hf_finetune.pipeline.context import Run, RunInput
from hf_finetune.pipeline.run import with_network
from hf_finetune.search.ladder.costs import DOUBTED_HEAD_S, Scoring, with_rows
from hf_finetune.search.ladder.standing import Standing


def prepare_head(
    first: Run,
    loaded: RunInput,
    standing: Standing,
    scoring: Callable[[], Scoring],
    begun: Mapping[str, Any] | None,
    *,
    row_s: float | None,
    fine_tunes: bool,
    joins: bool,
) -> tuple[Run, int]:
    """Return the run of the head, on the layer that says most and as many rows as the time holds, and on how many rows
    the layers were compared.

    Args:
        first: the prepared run of a head that reads the top layer, on all rows.
        loaded: its input.
        scoring: measures a row, if that was not done.
        begun: what was decided before a kill. None: it is decided now.
        row_s: seconds to predict a row by the network of `first`. None: not measured.
        fine_tunes: whether full fine-tuning may follow.
        joins: whether the linear model and the head may be joined.
    """
    layer_rows = scoring().layer_rows(standing.budget.left_s) if begun is None else begun.get("layer_rows", 0)
    with_layer, choice = choose_layer(loaded.variant(first.recipe), most_rows=layer_rows)
    run = first if choice is None else with_network(with_layer)
    if choice is None or not choice.is_lower:
        run = replace(run, row_s=row_s)
    if standing.state.folds is None:
        rows = begun["rows"] if begun else _rows(scoring(), standing, choice, fine_tunes=fine_tunes, joins=joins)
        run = with_rows(run, rows)
    return run, layer_rows


def _rows(scoring: Scoring, standing: Standing, choice: LayerChoice | None, *, fine_tunes: bool, joins: bool) -> int:
    """Return how many rows the head has."""
    is_doubted = choice is not None and not choice.explains and not standing.state.beats_constant
    linear, joined_s = standing.state.find("linear"), 0.0
    if joins and linear is not None and linear.folder is not None:
        joined_s = scoring.joined_s(linear.seconds, later=standing.pending is not None)
    return scoring.head_rows(
        standing.budget.left_s,
        fine_tunes=fine_tunes,
        joined_s=joined_s,
        cost=1.0 if choice is None else choice.cost,
        most_s=DOUBTED_HEAD_S if is_doubted else math.inf,
    )
