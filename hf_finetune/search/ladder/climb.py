"""Method auto: an anytime climb from simple models to full fine-tuning, within a budget of time.

    classical        the constant, a linear model of words or pixels, and boosted trees of further columns, in seconds
    head             a linear head on frozen features, which are computed once
    linear+head      the linear model and the head together
    top, lora, full  from the head of the rung before, as long as the time that is left holds
    soup             the mean of full fine-tuning and of a second one, if there is time for that

A rung is a run of a variant of the recipe in DIR/rungs/. A paired test on the validation rows, corrected for the number
of rungs, promotes it; else the simpler one stays. The best one so far is always in DIR, verified and usable. A killed
climb resumes from the last rung, and the last checkpoint within it.
"""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from hf_finetune.config.recipe import Launch
from hf_finetune.config.rules import check
from hf_finetune.data.loading import Splits
from hf_finetune.errors import InputError
from hf_finetune.pipeline.choose_layer import lower_layer
from hf_finetune.pipeline.context import Run, RunInput
from hf_finetune.pipeline.evaluate import Evaluation, evaluate_validation
from hf_finetune.pipeline.fold_temperature import trained_heads
from hf_finetune.pipeline.parity import recorded_checks
from hf_finetune.pipeline.run import finalize, set_aside, train_prepared, with_network
from hf_finetune.pipeline.run_folder import is_finished
from hf_finetune.pipeline.train import TrainedRun
from hf_finetune.search.budget import Budget
from hf_finetune.search.ladder import decisions
from hf_finetune.search.ladder.classical_rungs import climb_classical
from hf_finetune.search.ladder.costs import MethodCosts, RungCost, Scoring, scoring_of
from hf_finetune.search.ladder.decisions import RungPlan
from hf_finetune.search.ladder.ensemble import plan_student
from hf_finetune.search.ladder.folds import trainings_of, with_folds
from hf_finetune.search.ladder.head_rung import prepare_head
from hf_finetune.search.ladder.joined_rung import climb_joined, may_join
from hf_finetune.search.ladder.judges import with_scored
from hf_finetune.search.ladder.soup_rung import plan_soup
from hf_finetune.search.ladder.standing import Standing
from hf_finetune.search.ladder.state import (
    SOUP_RUNG,
    LadderState,
    RungRecord,
    read_heads,
    read_scores,
    write_heads,
    write_scores,
)
from hf_finetune.search.recipe_variant import RecipeVariant, SingleMethod
from hf_finetune.training.warm_start import FittedHead
from hf_finetune.utils.console import show_board
from hf_finetune.utils.durations import format_duration
from hf_finetune.utils.environment import seconds_since_start
from hf_finetune.utils.files import discard, read_json
from hf_finetune.utils.messages import listed

logger = logging.getLogger("hf_finetune.run")


@dataclass
class Climb:
    """A climb in progress: its networks, and what is decided between them."""

    base: RecipeVariant
    loaded: RunInput
    standing: Standing
    command: str | None
    first: Run | None
    """The prepared run of the head, until it is trained."""
    splits: Splits
    """Of classical models, which score all test rows."""
    encoded: tuple[Any, Any] | None = None
    """Encoded training and validation rows."""
    heads: tuple[FittedHead, ...] = ()
    """Those of the rung `head`, from which the next ones start if it reads the top layer."""
    costs: MethodCosts = field(default_factory=MethodCosts)

    @classmethod
    def of(
        cls,
        base: RecipeVariant,
        loaded: RunInput,
        first: Run,
        standing: Standing,
        command: str | None,
        costs: MethodCosts,
    ) -> Self:
        """Return the climb on an input with all test rows, of which networks score those that there is time for."""
        tested, first = with_scored(loaded, first, standing.state, "test")
        return cls(base, tested, standing, command, first, loaded.data.splits, costs=costs)

    def run(self) -> dict[str, Any]:
        """Climb all rungs that are worth their time, and return the content of result.json."""
        logger.info("method auto%s: simple models first, then what is worth its time", self._within)
        try:
            self._take_up()
            assert self.first is not None, "nothing is trained yet"
            climb_classical(self.standing, self.base, self.first.variant(splits=self.splits), command=self.command)
            self._climb_networks()
            return self.standing.end()
        finally:
            show_board("")

    @property
    def state(self) -> LadderState:
        """The rungs so far."""
        return self.standing.state

    @property
    def budget(self) -> Budget:
        """The time of the climb."""
        return self.standing.budget

    @property
    def _within(self) -> str:
        return "" if math.isinf(self.budget.seconds) else f" within {format_duration(self.budget.seconds)}"

    def _take_up(self) -> None:
        """Take up the rungs of a killed climb."""
        self.standing.take_up()
        for rung in self.state.rungs:
            if rung.folder is not None:
                self.heads = read_heads(self.state.folder / rung.folder) or self.heads
        if self.state.rungs:
            logger.info("resumed after %s", listed(decisions.climbed(self.state)))

    # Rungs

    def _climb_networks(self) -> None:
        # What is finished is taken, also where no time is left.
        self._take_finished("head")
        if (reason := self._why_no_network()) is not None:
            self.standing.record(RungRecord("head", reason))
            return
        if self._goes_straight():
            self.standing.record(RungRecord("head", decisions.STRAIGHT))
            # Else its network fills memory beside the one that trains.
            self.first = None
        else:
            self._rung("head", "head", RungPlan("the first network"))
        self._join()
        if self._fine_tunes and decisions.has_no_signal(self.state, self._explained):
            self._try_for_signal()
        for method in decisions.methods_of(self.base.recipe.search.preset):
            self._weigh(method)
        self._average()
        if self.base.recipe.search.ensemble and not self._take_finished("student"):
            student = plan_student(self.standing, self.base, self.loaded, self._cost, self._scoring)
            if student is not None:
                replace(self, base=student.base, loaded=student.loaded)._rung("student", "full", student.plan)

    def _rung(self, name: str, method: SingleMethod, plan: RungPlan) -> None:
        """Train by a method, and judge it, unless that is done."""
        if self._take_finished(name):
            return
        started, folder = time.perf_counter(), self.state.folder / self.state.next_folder(name)
        begun, layer_rows = self.state.current, 0
        if begun is None or begun["name"] != name or is_finished(folder):
            # What came before it was not written before a kill, and is other; or it was set aside, and would now be
            # the result.
            begun = None
            discard(folder)
        if method == "head":
            prepared, layer_rows = self._prepare_head(begun)
        else:
            prepared = self._prepare(method, plan if begun is None else replace(plan, epochs=begun["epochs"]))
        rows = len(prepared.data.splits.train)
        self.standing.begin(begun or {"name": name, "epochs": plan.epochs, "rows": rows, "layer_rows": layer_rows})
        with train_prepared(prepared, Launch(str(folder), resume=folder.exists()), command=self.command) as trained:
            self._keep(trained, folder)
            self._judge(name, trained, folder, started)
        del prepared, trained
        gc.collect()

    def _judge(self, name: str, trained: TrainedRun, folder: Path, started: float) -> None:
        """Judge a rung that was trained, and promote it if it is better."""
        evaluation = evaluate_validation(trained)
        scores_NC = trained.task.settled(evaluation.judged_split.scores_NC)
        write_scores(folder, scores_NC)
        finish = partial(_finish, trained, evaluation, self.budget)
        is_joined = name == "head" and self._may_join
        self.standing.judge(
            name,
            scores_NC,
            folder,
            started=started,
            epochs=round(float(trained.trainer.state.epoch or 0), 3),
            layer=lower_layer(trained.run.pooling_choice),
            finish=finish,
            later=is_joined,
        )
        if is_joined:
            # Both together may take its place, before it is verified for nothing.
            self._join()
            self.standing.settle(name, finish)

    def _take_finished(self, name: str) -> bool:
        """Judge a rung that a kill left finished, and not recorded. Return whether it is on record: one that was set
        aside is not verified, so that it cannot become the result."""
        if self.state.find(name):
            return True
        started, folder = time.perf_counter(), self.state.folder / self.state.next_folder(name)
        if not is_finished(folder):
            return False
        result, scores_NC = read_json(folder / "result.json", "start anew"), read_scores(folder)
        if not recorded_checks(result) and self.standing.would_take(name, scores_NC):
            return False
        self.heads = read_heads(folder) or self.heads
        layer = lower_layer(result["data"].get("pooling_choice"))
        self.standing.judge(name, scores_NC, folder, started=started, layer=layer)
        return True

    @property
    def _explained(self) -> float | None:
        return self.heads[0].explained if self.heads else None

    @property
    def _starts_from_head(self) -> bool:
        return decisions.starts_from_head(self.state, self._explained)

    @property
    def _reads_lower_layer(self) -> bool:
        """Whether the rung `head` reads a layer below the top one, so that no other one starts from it."""
        head = self.state.find("head")
        return head is not None and head.layer is not None

    def _prepare_head(self, begun: Mapping[str, Any] | None) -> tuple[Run, int]:
        assert self.first is not None, "nothing is trained yet"
        prepared = prepare_head(
            self.first,
            self.loaded,
            self.standing,
            lambda: self._scoring,
            begun,
            row_s=self.costs.row_s,
            fine_tunes=self._fine_tunes,
            joins=self._may_join,
        )
        self.first = None
        return prepared

    def _prepare(self, method: SingleMethod, plan: RungPlan) -> Run:
        variant = self.base.for_rung(method, seconds=plan.limit_s)
        if plan.epochs is not None:
            variant = variant.with_length(plan.epochs)
        heads = () if self._reads_lower_layer else self.heads
        if not self._starts_from_head:
            variant, heads = variant.with_random_head, ()
        run = with_network(self.loaded.variant(variant.recipe))
        return replace(run, encoded=self.encoded, start_heads=heads, is_noted=True)

    def _goes_straight(self) -> bool:
        """Whether there is a model with a signal, and so little time that full fine-tuning needs it all. Without a
        signal the head, and a trial, say sooner that there is none."""
        state = self.state
        is_open = self.standing.has_model and state.find("head") is None and state.current is None
        may_be = is_open and self._fine_tunes and state.folds is None and state.beats_constant
        return may_be and self._scoring.goes_straight(self.budget.left_s)

    @property
    def _fine_tunes(self) -> bool:
        return "full" in decisions.methods_of(self.base.recipe.search.preset)

    @property
    def _may_join(self) -> bool:
        return may_join(self.base, self.standing.task, self.loaded.data.splits)

    def _join(self) -> None:
        climb_joined(self.standing, self.base, self.loaded, self.heads, self._scoring, command=self.command)

    def _average(self) -> None:
        if not decisions.averages(self.base.recipe.search.preset) or self._take_finished(SOUP_RUNG):
            return
        alike = self._starts_from_head
        second = plan_soup(self.standing, self.base, self._cost, lambda: self._scoring, starts_alike=alike)
        if second is None:
            return
        try:
            check(second.base.for_rung("full").recipe)
            replace(self, base=second.base)._rung(SOUP_RUNG, "full", second.plan)
        except InputError as error:
            # Of networks and targets whose weights have no mean.
            self.standing.record(RungRecord(SOUP_RUNG, f"left: {error}"))

    def _keep(self, trained: TrainedRun, folder: Path) -> None:
        """Keep what later rungs start from."""
        encoded = trained.setup.encoded
        if len(trained.run.data.splits.train) == len(self.loaded.data.splits.train):
            self.encoded = encoded.train, encoded.validation
        start = trained.setup.record.head
        if trained.run.recipe.effective_method != "head" or start is None:
            return
        self.heads = trained_heads(trained.network, trained.temperature, start.explained)
        write_heads(folder, self.heads)

    # Decisions

    def _why_no_network(self) -> str | None:
        """Return why there is time for no network. None: there is, or there is no other model."""
        state = self.state
        if not self.standing.has_model or state.find("head") is not None:
            return None
        # Of one that was begun, and of folds, it is known that they fit.
        is_open = state.current is None and state.folds is None
        return decisions.why_no_network(self.budget.left_s, (lambda: self._scoring) if is_open else None)

    def _weigh(self, method: SingleMethod) -> None:
        """Climb a rung if it is worth its time, or record why it is left."""
        if self._take_finished(method):
            return
        if not self.state.has_signal:
            plan = RungPlan("left: there is no signal so far")
        else:
            epochs = self.base.recipe.train.epochs
            plan = decisions.weigh(method, self._cost, left_s=self.budget.left_s, epochs=epochs)
        if plan.epochs is None:
            self.standing.record(RungRecord(method, plan.reason))
        else:
            logger.info("%s: %s", method, plan.reason)
            self._rung(method, method, plan)

    def _try_for_signal(self) -> None:
        """Fine-tune for a short time, which decides whether the climb goes on."""
        if self._take_finished("trial"):
            return
        around_s = self._folded(self._scoring.usual()).seconds(0)
        so_far_s = seconds_since_start() + self._scoring.judged_s
        seconds = decisions.trial_seconds(self.budget.left_s, around_s, so_far_s)
        if not seconds:
            return
        constant = self.state.best or self.state.rungs[0]
        reason = f"nothing beats {constant.name} so far: fine-tuning for {seconds:.0f} s decides"
        logger.info("%s", reason)
        limit_s = seconds / trainings_of(self.base.recipe.evaluate)
        self._rung("trial", "full", RungPlan(reason, self.base.recipe.train.epochs, limit_s))

    def _cost(self, method: SingleMethod) -> RungCost:
        """Return the cost of a method, measured once, if it can be worth measuring at all."""

        def prepared() -> Run:
            if self.encoded is None:  # in an earlier process, or of fewer rows
                splits, inputs = self.loaded.data.splits, self.loaded.data.inputs
                self.encoded = inputs.encode(splits.train), inputs.encode(splits.validation)
            return self._prepare(method, RungPlan(""))

        return self.costs.of(method, self._scoring, prepared, left_s=self.budget.left_s, folded=self._folded)

    def _folded(self, cost: RungCost) -> RungCost:
        """Return the cost of a rung with that of its folds, and of the fit of a head of its own."""
        splits, evaluate = self.loaded.data.splits, self.base.recipe.evaluate
        train, validation = len(splits.train), len(splits.validation)
        if self._reads_lower_layer and self._starts_from_head and evaluate.folds is None:
            cost = replace(cost, before_s=cost.before_s + self._scoring.fit_s)
        return with_folds(cost, evaluate, train=train, rows=train + validation, row_s=self._scoring.row_s)

    @property
    def _scoring(self) -> Scoring:
        """What scoring costs, as the run of the head has measured it; before that, as a few rows do."""
        # A head on a lower layer predicts faster than what comes after it.
        head = None if self._reads_lower_layer else self.state.find("head")
        if head is not None and head.folder is not None and is_finished(self.state.folder / head.folder):
            result = read_json(self.state.folder / head.folder / "result.json", "start anew")
            self.costs.row_s = 1 / result["throughput"]["predict_rows_per_s"]
        row_s = self.costs.row(self.first, self.budget.left_s)
        return scoring_of(self.loaded, row_s, self.budget.excludable_s, later_s=self.standing.later_s)


def _finish(trained: TrainedRun, evaluation: Evaluation, budget: Budget, promoted: bool) -> None:
    """Save, and if it is promoted verify and document, the run of a rung."""
    (finalize if promoted else set_aside)(trained, evaluation)
    # The gate is mostly imports, in a fresh process.
    budget.exclude(trained.clock.seconds("parity_s"))
