"""What a rung costs, and which rows it has time for."""

import math
from pathlib import Path

import pytest
from helpers.small_runs import small_recipe

from hf_finetune.pipeline import measure_row as module
from hf_finetune.pipeline.evaluate import Scoring
from hf_finetune.pipeline.measure_row import measure_row
from hf_finetune.pipeline.run import prepare
from hf_finetune.search.ladder.costs import MethodCosts, with_rows
from hf_finetune.search.ladder.costs import Scoring as Costs


def test_a_head_on_fewer_rows_is_compared_with_baselines_of_all_rows(tmp_path: Path) -> None:
    """They cost no time, and are what the rung before it was."""
    prepared = prepare(small_recipe(tmp_path))
    fewer = with_rows(prepared, 20)
    assert len(fewer.data.splits.train) == 20 and fewer.data.splits.fingerprint != prepared.data.splits.fingerprint
    assert Scoring.of(fewer).splits is prepared.data.splits
    assert with_rows(prepared, 54) is prepared


@pytest.mark.parametrize(
    ("left_s", "train", "outputs", "compared"),
    [
        (math.inf, 9000, 77, 1000),
        # Three hundredths of the time, a row in 3 ms.
        (30, 9000, 2, 300),
        (30, 9000, 77, 0),
        (15, 9000, 2, 0),
        # Fewer rows are all of them.
        (15, 100, 2, 150),
        (240, 9000, 77, 1000),
    ],
)
def test_layers_are_compared_on_rows_that_the_time_holds(
    left_s: float, train: int, outputs: int, compared: int
) -> None:
    costs = Costs(0.009, {"train": train, "validation": 100}, 1.0, outputs=outputs)
    assert costs.layer_rows(left_s) == compared


def test_a_row_is_measured_by_few_rows_where_there_is_little_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, read = prepare(small_recipe(tmp_path)), list[int]()
    monkeypatch.setattr(module, "FEWEST_ROWS", 4)
    monkeypatch.setattr(module, "TIMED_ROWS", 16)
    monkeypatch.setattr(module, "predict_encoded", lambda *parts: read.append(len(parts[-1])))
    assert 0 < measure_row(run) < 1 and read == [4, 16, 16]
    read.clear()
    assert 0 < measure_row(run, most_s=1e-9) < 1 and read == [4, 4]
    # A share of what is left, once.
    read.clear()
    costs = MethodCosts()
    assert costs.row(run, 1e-9) == costs.row(run, 100.0) and read == [4, 4]
