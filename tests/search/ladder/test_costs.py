"""What a rung costs, and which rows it has time for."""

from pathlib import Path

from helpers.small_runs import small_recipe

from hf_finetune.pipeline.evaluate import Scoring
from hf_finetune.pipeline.run import prepare
from hf_finetune.search.ladder.costs import with_rows


def test_a_head_on_fewer_rows_is_compared_with_baselines_of_all_rows(tmp_path: Path) -> None:
    """They cost no time, and are what the rung before it was."""
    prepared = prepare(small_recipe(tmp_path))
    fewer = with_rows(prepared, 20)
    assert len(fewer.data.splits.train) == 20 and fewer.data.splits.fingerprint != prepared.data.splits.fingerprint
    assert Scoring.of(fewer).splits is prepared.data.splits
    assert with_rows(prepared, 54) is prepared
