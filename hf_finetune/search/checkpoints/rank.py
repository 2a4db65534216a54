"""`rank_checkpoints`: which checkpoint suits the rows, before anything is trained."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from hf_finetune.inference.session import python_session
from hf_finetune.search.checkpoints.ranking import Ranking, rank
from hf_finetune.search.fine_tuning import recipe_of
from hf_finetune.utils.core_sharing import shared_cores


@shared_cores()
def rank_checkpoints(data: Any, checkpoints: Sequence[str | os.PathLike[str]], **fields: Any) -> Ranking:
    """Rank checkpoints by heads on their frozen features, cross-validated on training rows, with LogME beside.

    Args:
        data: rows with labels, as for `train`.
        checkpoints: two or more Hub ids, or folders of checkpoints or runs.
        fields: fields of a `Recipe` that say how the rows are read: `text="review"`, `label="stars"`,
            `max_length=256`, `max_train_rows=1_000`.

    Returns:
        The checkpoints, the best first: metric with interval, LogME and seconds. A larger one is `chosen` only if a
        paired test finds it better.

    Examples:
        >>> ranking = rank_checkpoints(frame, [hf_finetune.minilm(), "runs/reviews"], text="review", label="stars")
        >>> train(frame, model=ranking.chosen)

    Raises:
        InputError: bad data, an unknown checkpoint, or fewer than two of them.
    """
    with python_session(), ExitStack() as stack:
        candidates = [os.fspath(checkpoint) for checkpoint in checkpoints]
        recipe = recipe_of(stack, data, {"model": candidates[0] if candidates else "", **fields}, {})
        return rank(candidates, recipe.data, cache_gb=recipe.batching.cache_gb)
