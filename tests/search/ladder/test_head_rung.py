"""Which layer and how many rows the head of a climb has."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from hf_finetune.pipeline.choose_layer import LayerChoice
from hf_finetune.search.ladder import head_rung as module
from hf_finetune.search.ladder.costs import Scoring
from hf_finetune.search.ladder.head_rung import prepare_head

SCORING = Scoring(0.01, {"train": 4_000, "validation": 100, "test": 200}, 2.0)


@dataclass
class Input:
    """An input or a run, as far as the rung reads it."""

    recipe: Any = None
    row_s: float | None = None
    rows: int | None = None

    def variant(self, recipe: Any) -> "Input":
        return self


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Prepare a head on the layer of a choice, in a climb of 300 seconds so far without or with a signal."""
    monkeypatch.setattr(module, "with_network", lambda _: Input())
    monkeypatch.setattr(module, "with_rows", lambda run, rows: Input(row_s=run.row_s, rows=rows))

    def prepare(choice: LayerChoice | None, *, signal: bool, begun: Any = None, folds: int | None = None) -> Any:
        most = []
        monkeypatch.setattr(module, "choose_layer", lambda _, most_rows: most.append(most_rows) or (Input(), choice))
        state: Any = SimpleNamespace(folds=folds, beats_constant=signal, find=lambda _: None)
        standing: Any = SimpleNamespace(budget=SimpleNamespace(left_s=300.0), state=state, pending=None)
        options: Any = {"row_s": 0.01, "fine_tunes": True, "joins": True}
        run, layer_rows = prepare_head(Input(), Input(), standing, lambda: SCORING, begun, **options)
        assert most == [layer_rows]
        return run, layer_rows

    return prepare


def choice_of(chosen: int, loss: float) -> LayerChoice:
    return LayerChoice(chosen, 6, {"6": 0.8, str(chosen): loss}, 0.69, rows=1_000, seconds=1.0)


def test_a_head_without_a_signal_reads_rows_for_a_short_time(prepared: Any) -> None:
    """If neither the linear model nor the features of the rows that chose the layer say anything."""
    run, layer_rows = prepared(choice_of(6, 0.75), signal=False)
    assert (run.rows, layer_rows) == (750, 1_000)
    assert (
        prepared(choice_of(6, 0.75), signal=True)[0].rows == prepared(choice_of(6, 0.6), signal=False)[0].rows == 4_000
    )
    assert prepared(None, signal=False)[0].rows == 4_000


def test_the_time_of_a_row_is_that_of_a_network_with_all_layers(prepared: Any) -> None:
    times = [prepared(choice, signal=True)[0].row_s for choice in (choice_of(6, 0.6), None, choice_of(5, 0.6))]
    assert times == [0.01, 0.01, None]


def test_what_was_begun_goes_on_with_its_rows(prepared: Any) -> None:
    run, layer_rows = prepared(choice_of(6, 0.75), signal=False, begun={"rows": 77, "layer_rows": 50})
    assert (run.rows, layer_rows) == (77, 50)
    # Folds judge all rows.
    assert prepared(choice_of(6, 0.75), signal=False, folds=3)[0].rows is None
