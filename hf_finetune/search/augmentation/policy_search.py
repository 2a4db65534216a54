"""`hf-finetune search augmentation`: a policy of augmentation for the user's own data, or the answer that none helps.

A few steps tell what a run and a trial cost; then come trials, as many as their share of the time is enough for; then, in all
the time that is left, runs with the best policy and without. Every one of them is in search.json as soon as it is done, and a
search that was stopped goes on from there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from hf_finetune.augmentation.mixing import Mixing
from hf_finetune.config.recipe import Recipe
from hf_finetune.errors import InputError, StoppedBySignal
from hf_finetune.evaluation.intervals import paired_difference, paired_macro_f1, verdict
from hf_finetune.pipeline.run_folder import output_folder, plain_disk_errors
from hf_finetune.search.augmentation import report
from hf_finetune.search.augmentation.measurement import timed
from hf_finetune.search.augmentation.policy import NONE, Policy, describe_schedule
from hf_finetune.search.augmentation.proxy_task import ProxyTask, Stage
from hf_finetune.search.augmentation.space import Space, space_of
from hf_finetune.search.budget import spoken
from hf_finetune.search.config import SearchOptions
from hf_finetune.search.final_runs import Cost, FinalRun, judged_rows, retrain, why_no_mixing, with_policy, with_side
from hf_finetune.search.paired_runs import PairedRuns
from hf_finetune.search.searchers.base import RUNGS, Searcher, Trial
from hf_finetune.search.searchers.table import SEARCHERS
from hf_finetune.search.state import SCHEMA, check_same, state_in
from hf_finetune.search.time_plan import (
    FEWEST_SEEDS,
    LEAST_JUDGED,
    MOST_SEEDS,
    Pace,
    enough_budget,
    trial_plan,
    trial_seconds,
)
from hf_finetune.utils import environment
from hf_finetune.utils.exit_status import notes_afterwards
from hf_finetune.utils.files import write_json, write_text
from hf_finetune.utils.plain import to_plain

logger = logging.getLogger("hf_finetune.run")

# Metrics whose paired differences have intervals, see `evaluation.intervals`.
JUDGED_BY = ("accuracy", "macro_f1")


def search_policy(
    recipe: Recipe, wanted: SearchOptions, *, output: str | None = None, resume: bool = False, used_s: float = 0.0
) -> dict[str, Any]:
    """Find a policy and judge it; write recipe.json, search.json, policy.yaml and search.svg.

    Args:
        recipe: the run that the policy is for.
        output: folder; default runs/<name>-search-<n>.
        resume: go on with the search in the folder.
        used_s: seconds of the budget that are gone already.

    Returns:
        What search.json holds.

    Raises:
        InputError: whatever would stop the run; a budget that is too small; nothing was written.
        StoppedBySignal: `resume` goes on.
    """
    _check(recipe, wanted)
    started = time.perf_counter() - used_s
    folder = output_folder(f"{recipe.name}-search", output, resume=resume)
    state = state_in(folder) if resume else None
    with notes_afterwards():
        run, record = _begin(recipe, wanted, folder, state, started)
    try:
        with plain_disk_errors(folder):
            if state is None:
                write_json(folder / "recipe.json", record)
                run.write()
            return run.finish()
    except (KeyboardInterrupt, StoppedBySignal):
        raise StoppedBySignal(f"stopped after {len(run.state['trials'])} trials; --resume goes on from there") from None


def _begin(
    recipe: Recipe, wanted: SearchOptions, folder: Path, state: dict[str, Any] | None, started: float
) -> tuple[_Search, dict[str, Any]]:
    """Load everything, and plan the time of a new search; nothing is written.

    Args:
        state: what search.json holds of a search that goes on; None: it is a new one.

    Returns:
        The search, and what its recipe.json holds.

    Raises:
        InputError, StoppedBySignal: see `search_policy`.
    """
    proxy = ProxyTask(recipe)
    prepared = proxy.prepared
    with proxy.all_layers():
        space, left_out = space_of(proxy.sample(), why_no_mixing(recipe, prepared))
    names = [*space.names, *space.mixing_names]
    if prepared.context.processes > 1:
        raise InputError(f"search: expected one process, got {prepared.context.processes}")
    record = {
        "recipe": to_plain(recipe),
        "fingerprint": prepared.data.splits.fingerprint,
        "weights": prepared.model.weights,
        "mixed_precision": prepared.context.mixed_precision,
        "processes": 1,
        "versions": environment.versions(),
    }
    if state is not None:
        check_same(folder, state, record, asdict(wanted), names)
    new = state is None
    state = state or {
        "schema": SCHEMA,
        "name": recipe.name,
        "search": asdict(wanted),
        "seed": recipe.train.seed,
        "space": names,
        "left_out": list(left_out),
        "rows": {
            "train": len(prepared.data.splits.train),
            "fit": len(proxy.train_rows),
            "scored": len(proxy.scored_labels),
            "validation": len(prepared.data.splits.validation),
        },
        "plan": {},
        "without": [],
        "trials": [],
        "with": [],
    }
    state["folder"] = str(folder)
    run = _Search(recipe, wanted, proxy, space, state, folder, started)
    if new:
        try:
            with plain_disk_errors(folder):
                run.plan_time()
        except StoppedBySignal:
            raise StoppedBySignal("stopped before there was anything to save") from None
    return run, record


def _check(recipe: Recipe, wanted: SearchOptions) -> None:
    """Raises: InputError: what no search can be made with."""
    data = recipe.data
    for name, given in (("augment", data.augment), ("augment_copies", data.augment_copies)):
        if given:
            raise InputError(f"data.{name}: this is what the search looks for; leave it out")
    if recipe.evaluate.metric not in JUDGED_BY:
        raise InputError(
            f"evaluate.metric: a search's runs are judged by {' or '.join(JUDGED_BY)}, whose differences have intervals here, got "
            f"{recipe.evaluate.metric}"
        )
    if wanted.seeds is not None and wanted.seeds < FEWEST_SEEDS:
        raise InputError(f"--seeds {wanted.seeds}: expected at least {FEWEST_SEEDS}, or the verdict would be chance")
    pairs = wanted.seeds or MOST_SEEDS
    if recipe.train.seed + pairs > 2**32:
        raise InputError(
            f"train.seed: expected at most {2**32 - pairs}, as each of up to {pairs} pairs of runs has the next seed, got "
            f"{recipe.train.seed}"
        )
    if wanted.trials is not None and wanted.trials < RUNGS:
        raise InputError(f"--trials {wanted.trials}: expected at least {RUNGS}")
    if recipe.trained == "adalora" or recipe.model.unfreeze_every is not None:
        raise InputError(
            "search: expected weights that train from the first step on, not AdaLoRA or model.unfreeze_every"
        )
    if recipe.pretrain.objective is not None:
        raise InputError(
            "pretrain.objective: expected none here, as every run that decides would be pretrained anew; pretrain once, then "
            "search with --model DIR/pretrained"
        )
    SEARCHERS[wanted.searcher].check_installed()


class _Search:
    """A search under way; `state` is what search.json holds."""

    def __init__(
        self,
        recipe: Recipe,
        wanted: SearchOptions,
        proxy: ProxyTask,
        space: Space,
        state: dict[str, Any],
        folder: Path,
        started: float,
    ) -> None:
        self.recipe, self.wanted, self.proxy, self.space = recipe, wanted, proxy, space
        self.state, self.folder, self.started = state, folder, started
        # What a search that goes on has used before.
        self.before = state.get("seconds", 0.0)
        self.plan = state["plan"]

    @property
    def elapsed(self) -> float:
        """Seconds of the budget that are gone."""
        return self.before + time.perf_counter() - self.started

    def write(self) -> None:
        """Keep what is known."""
        self.state["seconds"] = round(self.elapsed, 2)
        write_json(self.folder / "search.json", self.state)

    # What there is time for

    @property
    def pace(self) -> Pace:
        """As it was measured."""
        known = self.plan["pace"]
        return Pace(known["step_s"], known["rest_s"], Cost(**known["run"]))

    def plan_time(self) -> None:
        """Tell by a few steps what runs and trials cost, and what the budget is enough for.

        Raises:
            InputError: the budget is too small for the fewest trials and the shortest runs.
        """
        budget_s, seeds = self.wanted.budget_s, self.wanted.seeds or FEWEST_SEEDS
        usual = self.space.augment(self.space.every(0.6))
        found = timed(self.recipe, self.proxy, usual, seeds=seeds, left=lambda: budget_s - self.elapsed)
        planned = {"wanted": found.steps, "seeds": seeds, "used_s": self.elapsed}
        trials_s = trial_seconds(found.pace, budget_s=budget_s, **planned)
        self.plan |= {
            "pace": asdict(found.pace),
            "wanted_steps": found.steps,
            "trials_s": trials_s,
            "side": found.side,
        }
        logger.info(
            "within %s: trials of policies for %s at most, then runs that decide, a whole one about %s",
            spoken(budget_s),
            spoken(trials_s),
            spoken(found.pace.run.of(found.steps)),
        )
        if (scored := found.pace.run.scored) < LEAST_JUDGED:
            logger.warning(
                "%d validation rows are to judge: fewer than %d seldom decide anything; --data.validation-fraction sets more "
                "aside",
                scored,
                LEAST_JUDGED,
            )
        less = [] if found.side is None else [f"pictures of {found.side} pixels a side"]
        if enough_budget(found.pace, **planned) > budget_s:
            less.append(f"fewer than the recipe's {found.steps} steps")
        if less:
            enough_s = enough_budget(replace(found.pace, run=found.whole), **planned)
            logger.warning(
                "the runs that decide will have %s; --budget %s would do for the recipe as it is%s",
                " and ".join(less),
                spoken(enough_s),
                "" if found.measured else ", by the pixels",
            )

    def plan_trials(self) -> None:
        """Fix how many trials there are and how long."""
        wanted, counts = self.wanted, partial(SEARCHERS[self.wanted.searcher].counts, space=self.space)
        trials, least = trial_plan(
            self.pace,
            counts,
            wanted=wanted.trials,
            most_steps=self.plan["wanted_steps"],
            available=self.plan["trials_s"],
        )
        self.plan["trials"], self.plan["rung_steps"] = trials, [least * 2**rung for rung in range(RUNGS)]
        self.write()
        if wanted.trials is not None and trials < wanted.trials:
            logger.info(
                "--trials %d: %s makes %d: the better ones go on, rung by rung, and with more of its policies they would be too "
                "many, or it has no more",
                wanted.trials,
                wanted.searcher,
                trials,
            )
        expected = sum((n + 1) * s for n, s in zip(counts(trials), self.pace.rungs(least), strict=True))
        logger.info("%d trials by %s, about %s", trials, wanted.searcher, spoken(expected))

    @property
    def cost(self) -> Cost:
        """Of a run: as it was measured, or more, where the trials took longer than measured."""
        rungs_s, trials = self.pace.rungs(self.plan["rung_steps"][0]), self.state["trials"]
        slower = sum(t["seconds"] for t in trials) / sum(rungs_s[t["rung"]] for t in trials)
        return self.pace.run.times(max(1.0, slower))

    # What is done

    def finish(self) -> dict[str, Any]:
        """Do all that is not done yet."""
        state, wanted = self.state, self.wanted
        if "trials" not in self.plan:
            self.plan_trials()
        with tqdm(desc="search", dynamic_ncols=True, leave=False, disable=None) as self.bar:
            self.bar.total = self.plan["trials"] + RUNGS + 2 * (wanted.seeds or FEWEST_SEEDS)
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
        write_text(self.folder / "search.svg", report.picture(state, self.recipe.name))
        # Last: a search that has a verdict is finished.
        self.write()
        return state

    def _mix(self, policy: Policy) -> tuple[Mixing, ...]:
        """How rows are mixed: as the recipe says, else as the policy does."""
        return self.recipe.objective.mix or self.space.mix(policy)

    def _with(self, trial: Trial) -> Recipe:
        """The recipe with what a trial did, over a whole run."""
        augment = self.space.augment_in_turn(trial.schedule, self._starts(trial))
        return with_policy(self.recipe, augment, self._mix(trial.candidate))

    def _starts(self, trial: Trial) -> list[float]:
        """When each policy of a trial but the first started, as a share of its steps."""
        ends = self.plan["rung_steps"]
        return [round(ends[i] / ends[trial.rung], 4) for i in range(len(trial.schedule) - 1)]

    def _decide(self, best: Trial) -> None:
        """Runs with the policy and without, in all the time that is left."""
        plan, wanted = self.plan, self.wanted
        deciding = PairedRuns(
            self.state,
            self.cost,
            wanted=plan["wanted_steps"],
            seeds=wanted.seeds,
            first_seed=self.recipe.train.seed,
            left=lambda: wanted.budget_s - self.elapsed,
        )
        self.bar.clear()
        if "steps" not in plan:
            deciding.begin()
            self.write()
            logger.info("runs of %d of the recipe's %d steps are to decide", plan["steps"], plan["wanted_steps"])
        self.bar.update(len(self.state["without"]) + len(self.state["with"]))

        def train(side: str, seed: int, steps: int, judged: int) -> FinalRun:
            self.bar.set_postfix_str("run without augmentation" if side == "without" else "run with the policy")
            tried = self._with(Trial((NONE,), 0) if side == "without" else best)
            tried = tried if plan["side"] is None else with_side(tried, plan["side"])
            return retrain(tried, seed=seed, steps=steps, whole=plan["wanted_steps"], judged=judged)

        def keep() -> None:
            self.write()
            done = self.plan["trials"] + RUNGS + len(self.state["without"]) + len(self.state["with"])
            self.bar.total = max(self.bar.total, done)
            self.bar.update()

        deciding.run(train, keep)

    def _best(self) -> Trial:
        """Run the trials; the best of those that came furthest."""
        searcher: Searcher = SEARCHERS[self.wanted.searcher](
            self.space, trials=self.plan["trials"], seed=self.recipe.train.seed
        )
        for rung in range(RUNGS):
            self._score(Trial((NONE,), rung), rung)
        scored: list[tuple[int, float, Trial]] = []
        for number, trial in enumerate(_asked(searcher), start=RUNGS):
            if scored and number >= len(self.state["trials"]) and self._out_of_time(trial):
                self.bar.clear()
                logger.info("no time for more than %d of %d trials", len(scored), self.plan["trials"])
                break
            score = self._score(trial, number)
            searcher.tell(trial, score)
            scored.append((trial.rung, score, trial))
        return max(scored, key=lambda s: s[:2])[2]

    def _out_of_time(self, trial: Trial) -> bool:
        # A number of trials that was asked for is done whatever it takes.
        spent = sum(t["seconds"] for t in self.state["trials"])
        expected = self.pace.rungs(self.plan["rung_steps"][0])[trial.rung]
        return self.wanted.trials is None and spent + expected > self.plan["trials_s"]

    def _score(self, trial: Trial, number: int) -> float:
        """The trial's score: that of the first time, where it was done before."""
        trials, ends = self.state["trials"], self.plan["rung_steps"]
        if number < len(trials):
            known = trials[number]
            if (known["schedule"], known["rung"]) != (_plain(trial), trial.rung):
                raise InputError(f"{self.folder / 'search.json'}: trial {number} is of another search; start a new one")
        else:
            lasts = [end - before for end, before in zip(ends, [0, *ends], strict=False)][: trial.rung + 1]
            held = [trial.schedule[min(i, len(trial.schedule) - 1)] for i in range(trial.rung + 1)]
            found = self.proxy.run(
                [Stage(n, self.space.augment(p), self._mix(p)) for p, n in zip(held, lasts, strict=True)]
            )
            trials.append(
                {
                    "policy": describe_schedule(trial.schedule),
                    "steps": ends[trial.rung],
                    "score": round(found.value, 6),
                    "accuracy": round(found.accuracy, 6),
                    "seconds": round(found.seconds, 3),
                    "rung": trial.rung,
                    "schedule": _plain(trial),
                }
            )
            self.write()
        self.bar.update()
        self.bar.set_postfix_str(f"best {max(t['score'] for t in trials):.4f}")
        return trials[number]["score"]

    def _evidence(self) -> dict[str, Any]:
        """The paired difference between the runs with the policy and those without, and what it allows to say."""
        labels_N = np.asarray(judged_rows(self.proxy.prepared.data.splits, self.plan["judged"])["label"][:])
        mine, theirs = (np.array([run["predicted"] for run in self.state[side]]) for side in ("with", "without"))
        metric = self.recipe.evaluate.metric
        if metric == "macro_f1":
            found = paired_macro_f1(labels_N, mine, theirs)
        else:
            found = paired_difference(mine == labels_N, theirs == labels_N)
        # One seed or two would be chance; that is where everything became so slow that no third one ended in time. So would
        # be macro F1 of few rows, whose interval is none for them.
        enough = len(mine) >= FEWEST_SEEDS and (metric == "accuracy" or len(labels_N) >= LEAST_JUDGED)
        judgement = verdict(found) if enough else "undecided"
        return {"metric": metric, **found.to_dict(), "side": self.plan["side"], "judgement": judgement}


def _asked(searcher: Searcher) -> Iterator[Trial]:
    """One trial after another, each told its score before the next is asked for."""
    while (trial := searcher.ask()) is not None:
        yield trial


def _plain(trial: Trial) -> list[Any]:
    """The policies of a trial as JSON has them."""
    return [to_plain(policy) for policy in trial.schedule]
