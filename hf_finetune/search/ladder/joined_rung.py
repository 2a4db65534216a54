"""The rung of the linear model and the head together: words of the rows, and what an encoder knows of others.

Both models are there, so that their pool is judged by their scores. It is written as one pipeline of scikit-learn, on
TF-IDF and frozen features, whose own scores are those of the result.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from hf_finetune.data.inputs import TextInputs
from hf_finetune.data.loading import Splits
from hf_finetune.errors import InputError
from hf_finetune.features.baselines import BASELINE
from hf_finetune.features.config import Classical, EncoderFeatures
from hf_finetune.features.joined import EncoderHead, Pool, cross_fitted, fit_joined
from hf_finetune.features.table import RowTable
from hf_finetune.pipeline.classical.run import FittedRun, as_trained, finalize_classical
from hf_finetune.pipeline.context import ClassicalRun, RunInput
from hf_finetune.pipeline.run_folder import is_finished
from hf_finetune.pipeline.stopwatch import Stopwatch
from hf_finetune.search.ladder.classical_rungs import classical_run
from hf_finetune.search.ladder.costs import BUILD_S, Scoring
from hf_finetune.search.ladder.decisions import JOINED
from hf_finetune.search.ladder.standing import Standing
from hf_finetune.search.ladder.state import RungRecord, read_scores, write_scores
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.tasks.base import Task
from hf_finetune.training.warm_start import FittedHead

COMPARED = 128
"""Validation rows that the encoder reads to find what the head reads."""


def may_join(task: Task, splits: Splits, folds: int | None) -> bool:
    """Whether a climb on these rows may have the rung: classes of texts, without folds."""
    return task.has_classes and folds is None and "text" in splits.train.column_names


def climb_joined(
    standing: Standing,
    base: RecipeVariant,
    loaded: RunInput,
    heads: Sequence[FittedHead],
    costs: Scoring,
    *,
    command: str | None,
) -> None:
    """Judge the linear model and the head together, if there are both, unless that is done.

    Args:
        heads: of the rung `head`.
        costs: of scoring rows.
        command: the command line, for the card.
    """
    state, task = standing.state, standing.task
    if state.find(JOINED) or not may_join(task, loaded.data.splits, state.folds):
        return
    started, folder = time.perf_counter(), state.folder / state.next_folder(JOINED)
    if is_finished(folder):
        # A kill came before it was recorded.
        standing.judge(JOINED, read_scores(folder), folder, started=started)
        return
    try:
        _refuse(standing, base, heads, costs)
        joined = Joined.of(standing, base, loaded, heads[0])
    except InputError as error:
        standing.record(RungRecord(JOINED, f"left: {error}"))
        return
    scores_NC = task.settled(task.scores(cross_fitted(standing.labels, *scores_of(standing))))
    write_scores(folder, scores_NC)

    def finish(promoted: bool) -> None:
        if promoted:
            joined.write(folder, command)
            standing.budget.exclude(joined.clock.seconds("parity_s"))

    later = standing.pending is not None
    standing.judge(JOINED, scores_NC, folder, started=started, title=joined.title, finish=finish, later=later)


@dataclass(frozen=True)
class Joined:
    """The linear model and the head together, of which nothing is written yet."""

    run: ClassicalRun
    head: EncoderHead
    pool: Pool
    clock: Stopwatch

    @classmethod
    def of(cls, standing: Standing, base: RecipeVariant, loaded: RunInput, head: FittedHead) -> Self:
        """Weigh both models, and read some validation rows by the encoder.

        Raises:
            InputError: see `EncoderHead.of`.
        """
        splits, inputs, (linear_NC, head_NC) = loaded.data.splits, loaded.data.inputs, scores_of(standing)
        assert isinstance(inputs, TextInputs), "see `may_join`"
        extractor = EncoderFeatures(base.recipe.model.checkpoint, max_length=inputs.max_length)
        some = splits.validation.select(range(min(COMPARED, len(splits.validation))))
        read = EncoderHead.of(extractor, head.weight_CD.double().numpy(), some, head_NC[: len(some)])
        config = Classical(BASELINE, (*RowTable.of(splits.train).extractors, read.extractor))
        run, pool = classical_run(base.for_classical(config), splits), Pool.fitted(standing.labels, linear_NC, head_NC)
        joined = cls(run, read, pool, Stopwatch())
        note = f"the mean of the log-probabilities of a linear model and of a head on frozen features: {joined.title}"
        return replace(joined, run=replace(run, notes=(note,)))

    @property
    def title(self) -> str:
        """The weights of both."""
        return f"{self.pool.share:.0%} linear + {1 - self.pool.share:.0%} head"

    def write(self, folder: Path, command: str | None) -> None:
        """Fit the pipeline, and save, verify and document it.

        Raises:
            GateError: see `finalize_classical`.
        """
        splits, config = self.run.splits, self.run.recipe.classical
        with self.clock.measure("train_s", "fit the pipeline"):
            labels, names = splits.labels, splits.columns
            fitted = fit_joined(config, splits.train, self.head, self.pool, labels=labels, names=names)
        finalize_classical(FittedRun(self.run, as_trained(self.run, fitted), self.clock), folder, command=command)


def scores_of(standing: Standing) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities of the validation rows by the linear model, and by the head."""
    return standing.scores["linear"], standing.scores["head"]


def _refuse(standing: Standing, base: RecipeVariant, heads: Sequence[FittedHead], costs: Scoring) -> None:
    """Refuse what needs no look at the scores.

    Raises:
        InputError: why the rung is left.
    """
    model, linear = base.recipe.model, standing.state.find("linear")
    if linear is None or len(heads) != 1 or not {"linear", "head"} <= set(standing.scores):
        raise InputError("it needs a linear model and a head")
    if model.revision is not None or model.trust_remote_code or model.from_config is not None:
        raise InputError("its features would be of another checkpoint")
    if base.recipe.hub.repo_id is not None and Path(model.checkpoint).expanduser().exists():
        raise InputError(f"nobody else has {model.checkpoint}, of which its features are: it could not be pushed")
    # Where the linear model is written at the end, it takes its place.
    written_s = 0.0 if standing.pending is not None else linear.seconds + costs.after_s
    needed_s, left_s = BUILD_S + COMPARED * costs.row_s + written_s, standing.budget.left_s
    if left_s < needed_s:
        raise InputError(f"it would take {needed_s:.0f} s, and {max(left_s, 0):.0f} are left")
