"""Method auto: an anytime climb from simple models to full fine-tuning, within a budget of time.

    simple models    the constant, and a linear model of words or pixels, in seconds
    head             a linear head on frozen features, which are computed once
    top, lora, full  from the head of the rung before, as long as the time that is left holds

A rung is a run of a variant of the recipe in DIR/rungs/. A paired test on the validation rows, corrected for the number
of rungs, promotes it; else the simpler one stays. The best one so far is always in DIR, verified and usable. A killed
climb resumes from the last rung, and the last checkpoint within it.
"""

from __future__ import annotations

import gc
import logging
import math
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from hf_finetune.config.recipe import Launch
from hf_finetune.data.labels import labels_of
from hf_finetune.data.unlabeled import labeled_rows
from hf_finetune.errors import InputError, StoppedBySignal
from hf_finetune.evaluation.report import rungs_table
from hf_finetune.models.modules import classification_layers
from hf_finetune.pipeline.context import Run, RunInput
from hf_finetune.pipeline.evaluate import Evaluation, evaluate_validation
from hf_finetune.pipeline.push import push_if_asked
from hf_finetune.pipeline.record import RunRecord
from hf_finetune.pipeline.resume import refuse_changes
from hf_finetune.pipeline.run import finalize, load_input, set_aside, train_prepared, with_network
from hf_finetune.pipeline.run_folder import UNFINISHED, is_finished, output_folder, owned_folder, plain_disk_errors
from hf_finetune.pipeline.train import TrainedRun
from hf_finetune.search.budget import Budget
from hf_finetune.search.ladder import decisions
from hf_finetune.search.ladder.costs import MethodCosts, RungCost, Scoring, rows_in_time, scoring_of, with_rows
from hf_finetune.search.ladder.decisions import RungPlan
from hf_finetune.search.ladder.judgement import Comparison, compare
from hf_finetune.search.ladder.promotion import promote, write_result
from hf_finetune.search.ladder.state import (
    FOLDER,
    LadderState,
    RungRecord,
    read_heads,
    read_scores,
    write_heads,
    write_scores,
)
from hf_finetune.search.recipe_variant import RecipeVariant, SingleMethod
from hf_finetune.training.warm_start import FittedHead
from hf_finetune.utils.console import Progress, show_board
from hf_finetune.utils.core_sharing import shared_cores
from hf_finetune.utils.durations import format_duration
from hf_finetune.utils.environment import seconds_since_start
from hf_finetune.utils.exit_status import notes_afterwards
from hf_finetune.utils.files import read_json, read_object
from hf_finetune.utils.messages import listed
from hf_finetune.utils.plain import to_plain

logger = logging.getLogger("hf_finetune.run")
DEFAULT_BUDGET = "5m"
MODELS = ("head", "trial", "top", "lora", "full")
"""Rungs whose model can be the result."""


@shared_cores()
def climb(base: RecipeVariant, launch: Launch = Launch(), *, command: str | None = None) -> dict[str, Any]:
    """Climb the ladder within the budget of the recipe.

    Args:
        command: the command line, for the card.

    Returns:
        The content of result.json, and its `folder`.

    Raises:
        InputError, TrainingError, GateError, PushError: see `search.run.run`.
        StoppedBySignal: the best rung so far is in the folder; `launch.resume` goes on.
    """
    _refuse(base, launch)
    output_folder(base.recipe.name, launch.output, resume=launch.resume)
    budget = Budget(base.budget_s(DEFAULT_BUDGET), seconds_since_start())
    with Progress("read the data and the checkpoint", quiet=True):
        loaded = load_input(base.for_rung("head").recipe)
    chosen = base.with_choices(RecipeVariant(loaded.context.recipe))
    first = with_network(loaded)
    with ExitStack() as stack:
        with notes_afterwards():
            folder = stack.enter_context(owned_folder(base.recipe.name, launch.output, resume=launch.resume))
            record = replace(RunRecord.from_run(first, command), recipe=to_plain(base.recipe))
            if folder.is_unfinished and (folder.path / FOLDER / "recipe.json").exists():
                refuse_changes(folder.path / FOLDER, record.to_dict())
            state = LadderState.read(folder.path / FOLDER)
        budget = Budget(budget.seconds, budget.used_s + state.used_s)
        ladder = Climb(chosen, loaded, folder.path, budget, state, command, first)
        del first
        with plain_disk_errors(folder.path):
            for place in (folder.path, folder.path / FOLDER):
                if not (place / "recipe.json").exists():
                    record.write(place)
            try:
                result = ladder.run()
            except (KeyboardInterrupt, StoppedBySignal):
                raise StoppedBySignal(ladder.describe_stop()) from None
    push_if_asked(folder.path, base.recipe.hub)
    return {**result, "folder": str(folder.path)}


def _refuse(base: RecipeVariant, launch: Launch) -> None:
    if launch.num_processes not in (None, 1):
        raise InputError(f"--num-processes {launch.num_processes}: expected 1 with method auto")
    if base.recipe.evaluate.folds is not None:
        raise InputError(
            f"evaluate.folds: expected null with method auto, got {base.recipe.evaluate.folds}; run what it has chosen "
            "with folds afterwards, `hf-finetune run DIR --folds N`"
        )


@dataclass
class Climb:
    """A climb in progress."""

    base: RecipeVariant
    loaded: RunInput
    folder: Path
    budget: Budget
    state: LadderState
    command: str | None
    first: Run | None
    """The prepared run of the head, until it is trained."""
    encoded: tuple[Any, Any] | None = None
    """Encoded training and validation rows."""
    heads: tuple[FittedHead, ...] = ()
    """Those of the rung that the next ones start from."""
    scores: dict[str, Any] = field(default_factory=dict)
    """Settled scores of the validation rows, by rung."""
    costs: MethodCosts = field(default_factory=MethodCosts)

    def run(self) -> dict[str, Any]:
        """Climb all rungs that are worth their time, and return the content of result.json."""
        logger.info("method auto%s: simple models first, then what is worth its time", self._within)
        try:
            self._read_finished()
            self._simple_models()
            self._rung("head", "head", RungPlan("the first network"))
            if decisions.has_no_signal(self.state, self.heads[0].explained if self.heads else None):
                self._try_for_signal()
            for method in decisions.methods_of(self.base.recipe.search.preset):
                self._weigh(method)
            return self._end()
        finally:
            show_board("")

    @property
    def _within(self) -> str:
        return "" if math.isinf(self.budget.seconds) else f" within {format_duration(self.budget.seconds)}"

    def describe_stop(self) -> str:
        """Say what a stopped climb leaves."""
        if (chosen := self.state.chosen) is None:
            return "stopped before there was a model; --resume goes on from there"
        return f"stopped; the best model so far ({chosen.name}) is in {self.folder}; --resume goes on from there"

    # Rungs

    def _read_finished(self) -> None:
        """Take up the rungs of a killed climb."""
        for rung in self.state.rungs:
            if rung.folder is not None:
                folder = self.state.folder / rung.folder
                self.scores[rung.name] = read_scores(folder)
                self.heads = read_heads(folder) or self.heads
        if self.state.rungs:
            logger.info("resumed after %s", listed(decisions.climbed(self.state)))
        if (chosen := self.state.chosen) is not None:
            assert chosen.folder is not None, "it was trained"
            result = read_object(self.folder / "result.json") or {}
            if (result.get("ladder") or {}).get("chosen") != chosen.name:
                promote(self.state.folder / chosen.folder, self.folder, self._sections(unfinished=True))

    def _simple_models(self) -> None:
        """Score the constant and a linear model, which are measured in seconds, and are no result themselves."""
        if self.state.find("head") or "linear" in {rung.name for rung in self.state.rungs}:
            return
        splits, task = self.loaded.data.splits, self.loaded.data.task
        started = time.perf_counter()
        with Progress("fit the simple models"):
            baselines = task.baselines(labeled_rows(splits.train), splits.validation)
        for name, baseline in baselines.items():
            if self.state.find(name) is None:
                title = None if baseline.name == name else baseline.name
                folder = self.state.folder / self.state.next_folder(name)
                write_scores(folder, baseline.scores_NC)
                self._judge(name, baseline.scores_NC, folder, title=title, started=started)
            started = time.perf_counter()

    def _rung(self, name: str, method: SingleMethod, plan: RungPlan) -> None:
        """Train by a method, judge it, and promote it if it is better, unless that is done."""
        if self.state.find(name):
            return
        started = time.perf_counter()
        folder = self.state.folder / self.state.next_folder(name)
        if is_finished(folder):
            # A kill came before it was recorded.
            self.heads = read_heads(folder) or self.heads
            self._judge(name, read_scores(folder), folder, started=started)
            return
        begun = self.state.current or {}
        is_resumed = begun.get("name") == name
        prepared = self._prepare(method, replace(plan, epochs=begun["epochs"]) if is_resumed else plan)
        if method == "head":
            rows = begun["rows"] if is_resumed else rows_in_time(prepared, self.budget.left_s)
            prepared = with_rows(prepared, rows)
        rows = len(prepared.data.splits.train)
        self.state.current = begun if is_resumed else {"name": name, "epochs": plan.epochs, "rows": rows}
        self._save()
        with train_prepared(prepared, Launch(str(folder), resume=folder.exists()), command=self.command) as trained:
            self._keep(trained, folder)
            evaluation = evaluate_validation(trained)
            scores_NC = trained.task.settled(evaluation.judged_split.scores_NC)
            write_scores(folder, scores_NC)
            self._judge(name, scores_NC, folder, started=started, trained=trained, evaluation=evaluation)
        del prepared, trained
        gc.collect()

    def _prepare(self, method: SingleMethod, plan: RungPlan) -> Run:
        if method == "head" and self.first is not None:
            first, self.first = self.first, None
            return first
        variant = self.base.for_rung(method, seconds=plan.limit_s)
        if plan.epochs is not None:
            variant = variant.with_length(plan.epochs)
        heads = self.heads
        if heads and not decisions.starts_from_head(self.state, heads[0].explained):
            variant, heads = variant.with_random_head, ()
        run = with_network(self.loaded.variant(variant.recipe))
        return replace(run, encoded=self.encoded, start_heads=heads)

    def _keep(self, trained: TrainedRun, folder: Path) -> None:
        """Keep what later rungs start from."""
        encoded = trained.setup.encoded
        if len(trained.run.data.splits.train) == len(self.loaded.data.splits.train):
            self.encoded = encoded.train, encoded.validation
        start = trained.setup.record.head
        if trained.run.recipe.effective_method != "head" or start is None:
            return
        self.heads = tuple(
            FittedHead(layer.weight.detach().float().cpu(), layer.bias.detach().float().cpu(), start.explained)
            for layer in classification_layers(trained.network)
        )
        write_heads(folder, self.heads)

    def _judge(
        self,
        name: str,
        scores_NC: Any,
        folder: Path,
        *,
        started: float,
        title: str | None = None,
        trained: TrainedRun | None = None,
        evaluation: Evaluation | None = None,
    ) -> None:
        """Compare a rung with the best one before it, finish its run, and promote it if it is better.

        Args:
            scores_NC: settled scores of the validation rows.
            folder: of the rung.
            started: when it began.
            title: of a simple model.
            trained, evaluation: the run to finish. None: there is none, or it is finished already.
        """
        comparison = self._compare(scores_NC)
        is_better = comparison is None or comparison.verdict == "better"
        # The first model that can be saved is the result whatever its verdict.
        promoted = name in MODELS and (is_better or self.state.chosen is None)
        if trained is not None and evaluation is not None:
            (finalize if promoted else set_aside)(trained, evaluation)
        record = RungRecord(
            name,
            decisions.why_judged(comparison),
            folder.name,
            title,
            self._metrics(scores_NC),
            None if comparison is None else comparison.to_dict(),
            seconds=round(time.perf_counter() - started, 2),
            ended_s=round(self.budget.used_s, 2),
            epochs=None if trained is None else round(float(trained.trainer.state.epoch or 0), 3),
            promoted=promoted,
        )
        self.scores[name] = scores_NC
        self._record(record)
        if promoted:
            promote(folder, self.folder, self._sections(unfinished=True))

    def _compare(self, scores_NC: Any) -> Comparison | None:
        """Compare scores with those of the best rung so far. None: it is the first."""
        if (best := self.state.best) is None:
            return None
        return compare(self.loaded.data.task, self._labels, scores_NC, self.scores[best.name], against=best.name)

    def _metrics(self, scores_NC: Any) -> dict[str, Any]:
        task = self.loaded.data.task
        intervals = task.intervals(self._labels, scores_NC, resamples=self.loaded.data.evaluate.resamples)
        return {metric: intervals[metric].to_dict() for metric in task.summary if metric in intervals}

    @property
    def _labels(self) -> Any:
        return labels_of(self.loaded.data.splits.validation)

    def _record(self, record: RungRecord) -> None:
        self.state.rungs.append(record)
        self.state.current = None
        self._save()
        metric = self.loaded.data.task.judged_by
        if not show_board(rungs_table([rung.to_dict() for rung in self.state.rungs], metric)):
            logger.info("%s", decisions.describe(record, metric))

    def _save(self) -> None:
        self.state.used_s = self.budget.used_s
        self.state.save()

    # Decisions

    def _weigh(self, method: SingleMethod) -> None:
        """Climb a rung if it is worth its time, or record why it is left."""
        if self.state.find(method):
            return
        if not self.state.has_signal:
            plan = RungPlan("left: there is no signal so far")
        else:
            epochs = self.base.recipe.train.epochs
            plan = decisions.weigh(method, self._cost, left_s=self.budget.left_s, epochs=epochs)
        if plan.epochs is None:
            self._record(RungRecord(method, plan.reason))
        else:
            logger.info("%s: %s", method, plan.reason)
            self._rung(method, method, plan)

    def _try_for_signal(self) -> None:
        """Fine-tune for a short time, which decides whether the climb goes on."""
        seconds = min(decisions.TRIAL_S, self.budget.left_s - self._scoring.after_s)
        if seconds < 1:
            return
        reason = f"nothing beats {self.state.rungs[0].name} so far: fine-tuning for {seconds:.0f} s decides"
        logger.info("%s", reason)
        self._rung("trial", "full", RungPlan(reason, self.base.recipe.train.epochs, seconds))

    def _cost(self, method: SingleMethod) -> RungCost:
        """Return the cost of a method, measured once, if it can be worth measuring at all."""
        if self.encoded is None:  # in an earlier process, or of fewer rows
            splits, inputs = self.loaded.data.splits, self.loaded.data.inputs
            self.encoded = inputs.encode(splits.train), inputs.encode(splits.validation)
        prepared = partial(self._prepare, method, RungPlan(""))
        return self.costs.of(method, self._scoring, prepared, self.encoded[0], left_s=self.budget.left_s)

    @property
    def _scoring(self) -> Scoring:
        """What scoring costs, as the run of the head has measured it."""
        head = self.state.find("head")
        assert head is not None and head.folder is not None, "it is the first network"
        result = read_json(self.state.folder / head.folder / "result.json", "start anew")
        gate_s = result["time"].get("parity_s", self.loaded.context.startup_s)
        return scoring_of(self.loaded.data.splits, 1 / result["throughput"]["predict_rows_per_s"], gate_s)

    # Result

    def _sections(self, *, unfinished: bool = False) -> dict[str, Any]:
        best, chosen = self.state.best, self.state.chosen
        return {
            "name": self.base.recipe.name,
            "rungs": [rung.to_dict() for rung in self.state.rungs],
            "ladder": {
                "chosen": None if chosen is None else chosen.name,
                "best": None if best is None else best.name,
                "budget_s": None if math.isinf(self.budget.seconds) else self.budget.seconds,
                "seconds": round(self.budget.used_s, 2),
                "verdict": decisions.final_verdict(self.state),
            },
            **({UNFINISHED: True} if unfinished else {}),
        }

    def _end(self) -> dict[str, Any]:
        self._save()
        result = read_json(self.folder / "result.json", "start anew")
        result.pop(UNFINISHED, None)
        result = write_result(self.folder, {**result, **self._sections()})
        logger.info("%s", result["ladder"]["verdict"])
        return result
