"""The rung of the linear model and the head together: words of the rows, and what an encoder knows of others.

Both models are there, so that their pool is judged by their scores. It is written as one pipeline of scikit-learn, on
TF-IDF and frozen features, whose own scores are those of the result.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np

from hf_finetune.data.inputs import TextInputs
from hf_finetune.data.loading import Splits
from hf_finetune.data.long.config import TRUNCATE
from hf_finetune.errors import InputError
from hf_finetune.features.baselines import BASELINE
from hf_finetune.features.config import Classical, EncoderFeatures
from hf_finetune.features.encoder_states import load_encoder
from hf_finetune.features.joined import EncoderHead, Pool, cross_fitted, fit_joined
from hf_finetune.features.table import RowTable
from hf_finetune.pipeline.choose_layer import layers_of_depth
from hf_finetune.pipeline.classical.run import FittedRun, as_trained, finalize_classical, on_held_out_rows
from hf_finetune.pipeline.context import ClassicalRun, RunInput
from hf_finetune.pipeline.run_folder import is_finished
from hf_finetune.pipeline.stopwatch import Stopwatch
from hf_finetune.search.budget import Budget
from hf_finetune.search.ladder.classical_rungs import classical_run
from hf_finetune.search.ladder.costs import BUILD_S, MEASURED_FROM_S, ROWS_READ, Scoring
from hf_finetune.search.ladder.standing import Standing
from hf_finetune.search.ladder.state import JOINED_RUNG, RungRecord, read_scores, write_scores
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.tasks.base import Task
from hf_finetune.training.warm_start import FittedHead


def may_join(base: RecipeVariant, task: Task, splits: Splits) -> bool:
    """Whether a climb may have the rung: classes of texts that the accuracy judges, on held-out rows, and a checkpoint
    that a pipeline can name. With an ensemble its members teach, which a pipeline with an encoder cannot."""
    recipe, model = base.recipe, base.recipe.model
    is_known = model.revision is None and model.from_config is None and not model.trust_remote_code
    # A pipeline whose features are of a checkpoint that nobody else has is not pushed.
    is_pushed = recipe.hub.repo_id is None or not Path(model.checkpoint).expanduser().exists()
    has_texts = "text" in splits.train.column_names and recipe.evaluate.folds is None
    judges = task.has_classes and task.judged_by == "accuracy"
    return judges and has_texts and is_known and is_pushed and not recipe.search.ensemble


def climb_joined(
    standing: Standing,
    base: RecipeVariant,
    loaded: RunInput,
    heads: Sequence[FittedHead],
    costs: Scoring,
    *,
    command: str | None,
) -> None:
    """Judge the linear model and the head together, if the head is the last rung that was climbed.

    Args:
        heads: of the rung `head`.
        costs: of scoring rows.
        command: the command line, for the card.
    """
    if _is_next(standing, heads) and may_join(base, standing.task, loaded.data.splits):
        _climb(standing, base, loaded, heads[0], costs, command)
        if standing.pending is None:
            # The encoder would fill the memory beside the networks that train next.
            load_encoder.cache_clear()


def _climb(
    standing: Standing,
    base: RecipeVariant,
    loaded: RunInput,
    head: FittedHead,
    costs: Scoring,
    command: str | None,
) -> None:
    started, folder = time.perf_counter(), standing.state.folder / standing.state.next_folder(JOINED_RUNG)
    if is_finished(folder):
        # A kill came before it was recorded.
        standing.judge(JOINED_RUNG, read_scores(folder), folder, started=started)
        return
    # With little time it is written at the end, as the models are whose place it takes.
    later = standing.pending is not None and standing.budget.left_s < MEASURED_FROM_S
    try:
        _refuse_without_time(standing, costs, later=later)
        model = JoinedModel.of(standing, base, loaded, head)
    except InputError as error:
        standing.record(RungRecord(JOINED_RUNG, f"left: {error}"))
        return
    scores_NC = standing.task.settled(standing.task.scores(model.logits_NC))
    write_scores(folder, scores_NC)
    finish = partial(model.finish, folder, standing.budget, command)
    standing.judge(JOINED_RUNG, scores_NC, folder, started=started, title=model.title, finish=finish, later=later)


def _is_next(standing: Standing, heads: Sequence[FittedHead]) -> bool:
    """Whether the head is the last rung, and no other one was begun: a climb of an earlier version may go on later."""
    last = standing.state.rungs[-1]
    is_head = last.name == "head" and last.folder is not None and standing.state.current is None
    return is_head and "linear" in standing.scores and len(heads) == 1


@dataclass(frozen=True)
class JoinedModel:
    """The linear model and the head together, of which nothing is written yet."""

    run: ClassicalRun
    head: EncoderHead
    pool: Pool
    logits_NC: np.ndarray
    """Of the validation rows, by which it is judged, see `cross_fitted`."""
    clock: Stopwatch

    @classmethod
    def of(cls, standing: Standing, base: RecipeVariant, loaded: RunInput, head: FittedHead) -> Self:
        """Weigh both models, and read some validation rows by the encoder.

        Raises:
            InputError: the head reads long texts in windows, or see `EncoderHead.of`.
        """
        splits, inputs, (linear_NC, head_NC) = loaded.data.splits, loaded.data.inputs, validation_scores(standing)
        assert isinstance(inputs, TextInputs), "see `may_join`"
        if inputs.long != TRUNCATE and inputs.one_way(splits.train) is None:
            raise InputError("the head reads long texts whole, an extractor their beginning")
        extractor = EncoderFeatures(base.recipe.model.checkpoint, max_length=inputs.max_length)
        rows_n = np.random.default_rng(0).permutation(len(splits.validation))[:ROWS_READ]
        depth = load_encoder(extractor.checkpoint, "text", extractor.max_length).layers
        layers = [-1, *layers_of_depth(depth)[1:]]
        weight_CD = head.weight_CD.double().numpy()
        found = EncoderHead.of(extractor, layers, weight_CD, splits.validation.select(rows_n), head_NC[rows_n])
        run = classical_run(base.for_classical(Classical(BASELINE)), splits)
        config = Classical(BASELINE, (*RowTable.of(run.splits.train).extractors, found.extractor))
        pool = Pool.fitted(standing.labels, linear_NC, head_NC)
        model = cls(run, found, pool, cross_fitted(standing.labels, linear_NC, head_NC), Stopwatch())
        note = (
            f"the mean of the log-probabilities of a linear model and of a head on frozen features: {model.title}; "
            "the recipe of this rung alone would fit one model to the features of both"
        )
        return replace(model, run=replace(run, recipe=base.for_classical(config).recipe, notes=(note,)))

    @property
    def title(self) -> str:
        """The weights of both."""
        return f"{self.pool.share:.0%} linear + {1 - self.pool.share:.0%} head"

    def finish(self, folder: Path, budget: Budget, command: str | None, promoted: bool) -> None:
        """Fit the pipeline, and save, verify and document it, if it is promoted.

        Raises:
            GateError: see `finalize_classical`.
        """
        if not promoted:
            return
        run = on_held_out_rows(self.run)
        splits, config = run.splits, run.recipe.classical
        with self.clock.measure("train_s", "fit the pipeline"):
            labels, names = splits.labels, splits.columns
            pipeline = fit_joined(config, splits.train, self.head, self.pool, labels=labels, names=names)
        fitted = FittedRun(run, as_trained(run, pipeline), self.clock)
        finalize_classical(fitted, folder, fitted.judged_by(self.logits_NC), command=command)
        budget.exclude(self.clock.seconds("parity_s"))


def validation_scores(standing: Standing) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities of the validation rows by the linear model, and by the head."""
    return standing.scores["linear"], standing.scores["head"]


def _refuse_without_time(standing: Standing, costs: Scoring, *, later: bool) -> None:
    """Refuse a rung for which no time is left.

    Raises:
        InputError: what it would take.
    """
    linear = standing.state.find("linear")
    assert linear is not None, "it has scores"
    # The head has left time for the end, see `Scoring.joined_s`.
    needed_s = BUILD_S + ROWS_READ * costs.row_s if later else costs.joined_s(linear.seconds, later=False)
    left_s = standing.budget.left_s
    if left_s < needed_s:
        raise InputError(f"it would take {needed_s:.0f} s, and {max(left_s, 0):.0f} are left")
