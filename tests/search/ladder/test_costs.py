"""What a rung costs, and which rows it has time for."""

import math
from pathlib import Path

import pytest
from helpers.small_runs import small_recipe

from hf_finetune.pipeline.evaluate import Scoring
from hf_finetune.pipeline.run import prepare
from hf_finetune.search.ladder.costs import Scoring as Costs
from hf_finetune.search.ladder.costs import with_rows


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
