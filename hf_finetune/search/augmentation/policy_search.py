"""`hf-finetune search augmentation`: a policy of augmentation for the user's own data, or the answer that none helps.

A few steps show what a run and a trial cost; then come trials, as many as their share of the time is enough for; then,
in all the time that is left, runs with the best policy and without. Every one of them is in search.json as soon as it
is done, and a search that was stopped goes on from there.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from hf_finetune.augmentation.mixing import Mixing, Mixup
from hf_finetune.config.rules import check
from hf_finetune.errors import InputError, StoppedBySignal
from hf_finetune.evaluation.intervals import paired_difference, paired_macro_f1, verdict
from hf_finetune.pipeline.check import check_mix
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.record import RunRecord
from hf_finetune.pipeline.run import prepare
from hf_finetune.pipeline.run_folder import output_folder, plain_disk_errors
from hf_finetune.search.augmentation import report
from hf_finetune.search.augmentation.measurement import Timing, measure_time
from hf_finetune.search.augmentation.policy import NONE, Policy, describe_schedule
from hf_finetune.search.augmentation.proxy_task import ProxyTask, Stage
from hf_finetune.search.augmentation.rules import CONFLICTS
from hf_finetune.search.augmentation.space import Space, space_of
from hf_finetune.search.budget import Budget, format_duration
from hf_finetune.search.config import SearchOptions
from hf_finetune.search.final_runs import Cost, FinalRun, judged_rows, quiet, train_final
from hf_finetune.search.paired_runs import PairedRuns
from hf_finetune.search.searched_recipe import SearchedRecipe
from hf_finetune.search.searchers.base import RUNGS, Trial
from hf_finetune.search.searchers.table import SEARCHERS
from hf_finetune.search.state import SCHEMA, State, check_same, state_in
from hf_finetune.search.time_plan import (
    FEWEST_SEEDS,
    LEAST_JUDGED,
    MOST_SEEDS,
    Pace,
    enough_budget,
    trial_plan,
    trial_seconds,
)
from hf_finetune.utils.exit_status import notes_afterwards
from hf_finetune.utils.files import write_json, write_text
from hf_finetune.utils.plain import to_plain

logger = logging.getLogger("hf_finetune.run")


def search_policy(
    searched: SearchedRecipe,
    options: SearchOptions,
    *,
    output: str | None = None,
    resume: bool = False,
    used_s: float = 0.0,
) -> State:
    """Find a policy and judge it; write recipe.json, search.json, policy.yaml and search.svg.

    Args:
        searched: the run that the policy is for.
        output: folder; default runs/<name>-search-<n>.
        resume: go on with the search in the folder.
        used_s: seconds of the budget that are gone already.

    Returns:
        What search.json holds.

    Raises:
        InputError: whatever would stop the run; a budget that is too small; nothing was written.
        StoppedBySignal: `resume` goes on.
    """
    _check(searched, options)
    budget = Budget(options.budget_s, used_s)
    folder = output_folder(f"{searched.recipe.name}-search", output, resume=resume)
    state = state_in(folder) if resume else None
    with notes_afterwards():
        search, record = _begin(searched, options, folder, state, budget)
    try:
        with plain_disk_errors(folder):
            if not (folder / "search.json").exists():
                write_json(folder / "recipe.json", record)
                search.write()
            return search.finish()
    except (KeyboardInterrupt, StoppedBySignal):
        raise StoppedBySignal(f"stopped after {len(search.trials)} trials; --resume goes on from there") from None


def _begin(
    searched: SearchedRecipe, options: SearchOptions, folder: Path, state: State | None, budget: Budget
) -> tuple[_Search, dict[str, Any]]:
    """Load everything, and plan the time of a new search; nothing is written.

    Args:
        state: of a search that goes on; None: it is a new one.

    Returns:
        The search, and what its recipe.json holds.

    Raises:
        InputError, StoppedBySignal: see `search_policy`.
    """
    proxy = ProxyTask(searched)
    if proxy.prepared.context.processes > 1:
        raise InputError(f"search: expected one process, got {proxy.prepared.context.processes}")
    record = replace(RunRecord.from_run(proxy.prepared), recipe=to_plain(searched.recipe)).to_dict()
    with proxy.all_layers():
        space, left_out = space_of(proxy.sample(), why_no_mixing(searched, proxy.prepared))
    if state is None:
        search = _Search(searched, options, proxy, space, _new_state(searched, options, proxy, space), folder, budget)
        search.state.update(left_out=list(left_out), folder=str(folder))
        search.plan_time()
    else:
        check_same(folder, state, record, options, _names(space))
        state["folder"] = str(folder)
        budget = Budget(options.budget_s, budget.used_s + state["seconds"])
        search = _Search(searched, options, proxy, space, state, folder, budget)
    return search, record


def why_no_mixing(searched: SearchedRecipe, prepared: Run) -> str | None:
    """Why a policy cannot mix the recipe's rows with one another; None: it can.

    Args:
        prepared: of the recipe, or of one with the same rows, batches and encoder.
    """
    if searched.recipe.objective.mix:
        return "objective.mix has the recipe's own, which all trials and runs have"
    mixing = searched.with_policy((), (Mixup(),)).recipe
    try:
        check(mixing)
        if searched.recipe.uses_adapter:
            # Its own model alone shows whether it takes word embeddings.
            with quiet():
                prepare(mixing)
        else:
            proxy = SearchedRecipe(prepared.recipe).with_policy((), (Mixup(),)).recipe
            check_mix(prepared.variant(recipe=proxy), prepared.model.network)
    except InputError as error:
        return str(error)
    return None


def _check(searched: SearchedRecipe, options: SearchOptions) -> None:
    """Raises: InputError: what no search can be made with."""
    for conflict in CONFLICTS:
        conflict.refuse(searched.recipe)
    seeds, trials, seed = options.seeds, options.trials, searched.recipe.train.seed
    if seeds is not None and seeds < FEWEST_SEEDS:
        raise InputError(f"--seeds {seeds}: expected at least {FEWEST_SEEDS}, or the verdict would be chance")
    if trials is not None and trials < RUNGS:
        raise InputError(f"--trials {trials}: expected at least {RUNGS}")
    largest = 2**32 - (seeds or MOST_SEEDS)
    if seed > largest:
        raise InputError(f"train.seed: expected at most {largest}, as each pair of runs has the next seed, got {seed}")
    SEARCHERS[options.searcher].check_installed()


def _new_state(searched: SearchedRecipe, options: SearchOptions, proxy: ProxyTask, space: Space) -> State:
    splits = proxy.prepared.data.splits
    return {
        "schema": SCHEMA,
        "name": searched.recipe.name,
        "search": asdict(options),
        "seed": searched.recipe.train.seed,
        "space": _names(space),
        "left_out": [],
        "rows": {
            "train": len(splits.train),
            "fit": len(proxy.train_rows),
            "scored": len(proxy.scored_labels),
            "validation": len(splits.validation),
        },
        "plan": {},
        "without": [],
        "trials": [],
        "with": [],
    }


def _names(space: Space) -> list[str]:
    return [*space.names, *space.mixing_names]


@dataclass
class _Search:
    """A search under way; `state` is what search.json holds."""

    searched: SearchedRecipe
    options: SearchOptions
    proxy: ProxyTask
    space: Space
    state: State
    folder: Path
    budget: Budget

    @property
    def plan(self) -> dict[str, Any]:
        """What there is time for."""
        return self.state["plan"]

    @property
    def trials(self) -> list[dict[str, Any]]:
        """Those that are done."""
        return self.state["trials"]

    def write(self) -> None:
        """Write what is known."""
        self.state["seconds"] = round(self.budget.used_s, 2)
        write_json(self.folder / "search.json", self.state)

    # What there is time for

    @property
    def pace(self) -> Pace:
        """As it was measured."""
        measured = self.plan["pace"]
        return Pace(measured["step_s"], measured["rest_s"], Cost(**measured["run"]))

    def plan_time(self) -> None:
        """Measure by a few steps what runs and trials cost, and what the budget is enough for.

        Raises:
            InputError: the budget is too small for the fewest trials and the shortest runs.
            StoppedBySignal: there was nothing to save yet.
        """
        budget, seeds = self.budget, self.options.seeds or FEWEST_SEEDS
        usual = self.space.augment(self.space.every(0.6))
        try:
            with plain_disk_errors(self.folder):
                timing = measure_time(self.searched, self.proxy, usual, seeds=seeds, left=lambda: budget.left_s)
        except StoppedBySignal:
            raise StoppedBySignal("stopped before there was anything to save") from None
        limits = {"budget_s": budget.seconds, "used_s": budget.used_s}
        trials_s = trial_seconds(timing.pace, whole_steps=timing.steps, seeds=seeds, **limits)
        self.plan.update(pace=asdict(timing.pace), wanted_steps=timing.steps, trials_s=trials_s, side=timing.side)
        run_s = timing.pace.run.of(timing.steps)
        logger.info(
            "within %s: trials of policies for %s at most, then runs that decide, a whole one about %s",
            format_duration(budget.seconds),
            format_duration(trials_s),
            format_duration(run_s),
        )
        self._warn_of_little_time(timing, seeds, limits["used_s"])

    def _warn_of_little_time(self, timing: Timing, seeds: int, used_s: float) -> None:
        if (scored := timing.pace.run.scored) < LEAST_JUDGED:
            logger.warning(
                "%d validation rows are to judge: fewer than %d seldom decide anything; --data.validation-fraction "
                "sets more aside",
                scored,
                LEAST_JUDGED,
            )

        def enough_s(pace: Pace) -> float:
            return enough_budget(pace, whole_steps=timing.steps, seeds=seeds, used_s=used_s)

        less = [] if timing.side is None else [f"images of {timing.side} pixels a side"]
        if enough_s(timing.pace) > self.budget.seconds:
            less.append(f"fewer than the recipe's {timing.steps} steps")
        if less:
            logger.warning(
                "the runs that decide will have %s; --budget %s would do for the recipe as it is%s",
                " and ".join(less),
                format_duration(enough_s(replace(timing.pace, run=timing.whole))),
                "" if timing.measured else ", by the pixels",
            )

    def plan_trials(self) -> None:
        """Fix how many trials there are and how long."""
        options, counts = self.options, partial(SEARCHERS[self.options.searcher].counts, space=self.space)
        trials, least = trial_plan(
            self.pace,
            counts,
            requested=options.trials,
            most_steps=self.plan["wanted_steps"],
            available=self.plan["trials_s"],
        )
        self.plan.update(trials=trials, rung_steps=[least * 2**rung for rung in range(RUNGS)])
        self.write()
        if options.trials is not None and trials < options.trials:
            logger.info(
                "--trials %d: %s makes %d: the better ones go on, rung by rung, and with more of its policies they "
                "would be too many, or it has no more",
                options.trials,
                options.searcher,
                trials,
            )
        expected = sum((n + 1) * s for n, s in zip(counts(trials), self.pace.rungs(least), strict=True))
        logger.info("%d trials by %s, about %s", trials, options.searcher, format_duration(expected))

    @property
    def cost(self) -> Cost:
        """Of a run: as it was measured, or more, where the trials took longer than measured."""
        slower = self._trials_s() / sum(self._expected_s(trial["rung"]) for trial in self.trials)
        return self.pace.run.times(max(1.0, slower))

    def _trials_s(self) -> float:
        return sum(trial["seconds"] for trial in self.trials)

    def _expected_s(self, rung: int) -> float:
        return self.pace.rungs(self.plan["rung_steps"][0])[rung]

    # Trials

    def finish(self) -> State:
        """Do all that is not done yet."""
        state = self.state
        if "trials" not in self.plan:
            self.plan_trials()
        with tqdm(desc="search", dynamic_ncols=True, leave=False, disable=None) as self.bar:
            self.bar.total = self.plan["trials"] + RUNGS + 2 * (self.options.seeds or FEWEST_SEEDS)
            best = self._best()
            state["best"] = {
                "policy": describe_schedule(best.schedule),
                "moves": to_plain(best.candidate),
                "schedule": _plain(best),
                "starts": self._starts(best),
            }
            self.write()
            self._decide(best)
        state["evidence"] = self._evidence()
        state["verdict"] = report.VERDICTS.get(state["evidence"]["judgement"], report.NONE_HELPS)
        write_text(self.folder / "policy.yaml", report.fragment(self._with(best), state))
        write_text(self.folder / "search.svg", report.chart(state, self.searched.recipe.name))
        # Last: a search that has a verdict is finished.
        self.write()
        return state

    def _best(self) -> Trial:
        """Run the trials; the best of those that came furthest."""
        searcher = SEARCHERS[self.options.searcher](
            self.space, trials=self.plan["trials"], seed=self.searched.recipe.train.seed
        )
        for rung in range(RUNGS):
            self._score(Trial((NONE,), rung), rung)
        scored: list[tuple[int, float, Trial]] = []
        while (trial := searcher.ask()) is not None:
            number = RUNGS + len(scored)
            if scored and number >= len(self.trials) and self._out_of_time(trial):
                self.bar.clear()
                logger.info("no time for more than %d of %d trials", len(scored), self.plan["trials"])
                break
            score = self._score(trial, number)
            searcher.tell(trial, score)
            scored.append((trial.rung, score, trial))
        return max(scored, key=lambda s: s[:2])[2]

    def _out_of_time(self, trial: Trial) -> bool:
        # Where the user asks for a number of trials, all are made whatever they take.
        over = self._trials_s() + self._expected_s(trial.rung) > self.plan["trials_s"]
        return self.options.trials is None and over

    def _score(self, trial: Trial, number: int) -> float:
        """The trial's score: that of the first time, where it was done before."""
        if number == len(self.trials):
            self.trials.append(self._run(trial))
            self.write()
        known = self.trials[number]
        if (known["schedule"], known["rung"]) != (_plain(trial), trial.rung):
            raise InputError(f"{self.folder / 'search.json'}: trial {number} is of another search; start a new one")
        self.bar.update()
        self.bar.set_postfix_str(f"best {max(t['score'] for t in self.trials):.4f}")
        return known["score"]

    def _run(self, trial: Trial) -> dict[str, Any]:
        """Train by the trial's policies, one on each rung; what search.json holds of it."""
        ends, stages = self.plan["rung_steps"], []
        for rung in range(trial.rung + 1):
            policy = trial.schedule[min(rung, len(trial.schedule) - 1)]
            steps = ends[rung] - (ends[rung - 1] if rung else 0)
            stages.append(Stage(steps, self.space.augment(policy), self._mix(policy)))
        score = self.proxy.run(stages)
        return {
            "policy": describe_schedule(trial.schedule),
            "steps": ends[trial.rung],
            "score": round(score.value, 6),
            "accuracy": round(score.accuracy, 6),
            "seconds": round(score.seconds, 3),
            "rung": trial.rung,
            "schedule": _plain(trial),
        }

    def _mix(self, policy: Policy) -> tuple[Mixing, ...]:
        """How rows are mixed: as the recipe says, else as the policy does."""
        return self.searched.recipe.objective.mix or self.space.mix(policy)

    # Runs that decide

    def _with(self, trial: Trial) -> SearchedRecipe:
        """The recipe with what a trial did, over a whole run."""
        augment = self.space.augment_in_turn(trial.schedule, self._starts(trial))
        return self.searched.with_policy(augment, self._mix(trial.candidate))

    def _starts(self, trial: Trial) -> list[float]:
        """When each policy of a trial but the first started, as a share of its steps."""
        ends = self.plan["rung_steps"]
        return [round(ends[i] / ends[trial.rung], 4) for i in range(len(trial.schedule) - 1)]

    def _decide(self, best: Trial) -> None:
        """Runs with the policy and without, in all the time that is left."""
        plan, state = self.plan, self.state
        pairs = PairedRuns(
            state,
            self.cost,
            whole_steps=plan["wanted_steps"],
            seeds=self.options.seeds,
            first_seed=self.searched.recipe.train.seed,
            left=lambda: self.budget.left_s,
        )
        self.bar.clear()
        if "steps" not in plan:
            pairs.begin()
            self.write()
            logger.info("runs of %d of the recipe's %d steps are to decide", plan["steps"], plan["wanted_steps"])
        self.bar.update(len(state["without"]) + len(state["with"]))

        def train(side: str, seed: int, steps: int, judged: int) -> FinalRun:
            self.bar.set_postfix_str("run without augmentation" if side == "without" else "run with the policy")
            variant = self._with(Trial((NONE,), 0) if side == "without" else best)
            variant = variant if plan["side"] is None else variant.with_side(plan["side"])
            return train_final(variant, seed=seed, steps=steps, whole=plan["wanted_steps"], judged=judged)

        def after_run() -> None:
            self.write()
            done = plan["trials"] + RUNGS + len(state["without"]) + len(state["with"])
            self.bar.total = max(self.bar.total, done)
            self.bar.update()

        pairs.run(train, after_run)

    def _evidence(self) -> dict[str, Any]:
        """The paired difference between the runs with the policy and those without, and what it allows to say."""
        labels_N = np.asarray(judged_rows(self.proxy.prepared.data.splits, self.plan["judged"])["label"][:])
        mine, theirs = (np.array([run["predicted"] for run in self.state[side]]) for side in ("with", "without"))
        metric = self.searched.recipe.evaluate.metric
        if metric == "macro_f1":
            difference = paired_macro_f1(labels_N, mine, theirs)
        else:
            difference = paired_difference(mine == labels_N, theirs == labels_N)
        # One seed or two would be chance; that is where everything became so slow that no third one ended in time. So
        # would be macro F1 of few rows, whose interval is none for them.
        enough = len(mine) >= FEWEST_SEEDS and (metric == "accuracy" or len(labels_N) >= LEAST_JUDGED)
        judgement = verdict(difference) if enough else "undecided"
        return {"metric": metric, **difference.to_dict(), "side": self.plan["side"], "judgement": judgement}


def _plain(trial: Trial) -> list[Any]:
    """The policies of a trial as JSON has them."""
    return [to_plain(policy) for policy in trial.schedule]
