"""`hf-finetune search augmentation`: find an augmentation policy for the user's own data, and test whether it helps.

A few steps measure what trials and final runs cost. Trials take their share of the time; final runs with the best
policy and without it take the rest. Each is saved in search.json as soon as it is done, and a stopped search resumes
from there.
"""

import logging
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hf_finetune.augmentation.mixing import Mixup
from hf_finetune.config.rules import check
from hf_finetune.data.labels import labels_of
from hf_finetune.errors import InputError, StoppedBySignal
from hf_finetune.pipeline.check import check_mix
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.record import RunRecord
from hf_finetune.pipeline.run import prepare
from hf_finetune.pipeline.run_folder import owned_folder, plain_disk_errors
from hf_finetune.search import planning
from hf_finetune.search.augmentation import measurement, report
from hf_finetune.search.augmentation.policy import NONE, describe_schedule
from hf_finetune.search.augmentation.proxy_task import ProxyTask
from hf_finetune.search.augmentation.rules import CONFLICTS
from hf_finetune.search.augmentation.search_run import SearchRun, plain_schedule
from hf_finetune.search.augmentation.space import space_of
from hf_finetune.search.budget import Budget
from hf_finetune.search.config import SearchOptions
from hf_finetune.search.final_runs import FinalRun, evaluation_rows, train_final
from hf_finetune.search.paired_comparison import PairedRuns, compare
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.search.searchers.base import RUNGS, Trial
from hf_finetune.search.searchers.table import SEARCHERS
from hf_finetune.search.state import SCHEMA, State, check_same, read_state
from hf_finetune.utils.console import Progress
from hf_finetune.utils.core_sharing import shared_cores
from hf_finetune.utils.exit_status import notes_afterwards
from hf_finetune.utils.files import write_json, write_text
from hf_finetune.utils.messages import silenced
from hf_finetune.utils.plain import to_plain
from hf_finetune.utils.plots import write_plot

logger = logging.getLogger("hf_finetune.run")


@shared_cores()
def search_policy(
    base: RecipeVariant,
    options: SearchOptions,
    *,
    output: str | None = None,
    resume: bool = False,
    used_s: float = 0.0,
) -> State:
    """Search a policy and compare it with no augmentation; write recipe.json, search.json, policy.yaml, and the plot
    search.png and search.svg.

    Args:
        base: the recipe to find a policy for.
        output: folder; default runs/<name>-search-<n>.
        resume: resume the search in the folder.
        used_s: seconds of the budget that are already used.

    Returns:
        The content of search.json.

    Raises:
        InputError: whatever would stop a run, or a budget that is too small; nothing was written.
        StoppedBySignal: `resume` continues.
    """
    _check(base, options)
    with ExitStack() as stack:
        with notes_afterwards():
            folder = stack.enter_context(owned_folder(f"{base.recipe.name}-search", output, resume=resume)).path
            state = read_state(folder) if resume else None
            run, record = _begin(base, options, folder, state, Budget(options.budget_s, used_s))
        try:
            with plain_disk_errors(folder):
                if not (folder / "search.json").exists():
                    write_json(folder / "recipe.json", record)
                    run.save()
                return _finish(run)
        except (KeyboardInterrupt, StoppedBySignal):
            raise StoppedBySignal(f"stopped after {len(run.trials)} trials; --resume goes on from there") from None


def _begin(
    base: RecipeVariant, options: SearchOptions, folder: Path, state: State | None, budget: Budget
) -> tuple[SearchRun, dict[str, Any]]:
    """Load everything, and plan the time of a new search; nothing is written.

    Args:
        state: state of a search to resume; None for a new one.

    Returns:
        The search, and the content of its recipe.json.

    Raises:
        InputError, StoppedBySignal: see `search_policy`.
    """
    proxy = ProxyTask(base)
    if proxy.prepared.context.processes > 1:
        raise InputError(f"search: expected one process, got {proxy.prepared.context.processes}")
    record = replace(RunRecord.from_run(proxy.prepared), recipe=to_plain(base.recipe)).to_dict()
    with proxy.all_layers():
        space, left_out = space_of(proxy.sample(), why_no_mixing(base, proxy.prepared))
    names = [*space.names, *space.mixing_names]
    if state is not None:
        check_same(folder, state, record, options, names)
        state["folder"] = str(folder)
        budget = Budget(options.budget_s, budget.used_s + state["seconds"])
        return SearchRun(base, options, proxy, space, state, folder, budget), record
    state = {**_new_state(base, options, proxy), "space": names, "left_out": list(left_out), "folder": str(folder)}
    run = SearchRun(base, options, proxy, space, state, folder, budget)
    measurement.plan_time(run)
    return run, record


def _new_state(base: RecipeVariant, options: SearchOptions, proxy: ProxyTask) -> State:
    splits = proxy.prepared.data.splits
    return {
        "schema": SCHEMA,
        "name": base.recipe.name,
        "judged_by": proxy.prepared.data.task.judged_by,
        "search": asdict(options),
        "seed": base.recipe.train.seed,
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


def why_no_mixing(base: RecipeVariant, prepared: Run) -> str | None:
    """Return the reason why a policy cannot mix the recipe's rows, or None if it can.

    Args:
        prepared: the recipe, or one with the same rows, batches and encoder.
    """
    if base.recipe.objective.mix:
        return "objective.mix has the recipe's own, which all trials and runs have"
    mixing = base.with_policy((), (Mixup(),)).recipe
    try:
        check(mixing)
        if base.recipe.uses_adapter:
            # Only the recipe's own model shows whether it accepts word embeddings.
            with silenced():
                prepare(mixing)
        else:
            proxy = RecipeVariant(prepared.recipe).with_policy((), (Mixup(),)).recipe
            check_mix(prepared.variant(recipe=proxy), prepared.model.network)
    except InputError as error:
        return str(error)
    return None


def _check(base: RecipeVariant, options: SearchOptions) -> None:
    """Refuse what cannot be searched.

    Raises:
        InputError: naming the field or flag.
    """
    for conflict in CONFLICTS:
        conflict.refuse(base.recipe)
    seeds, trials, seed = options.seeds, options.trials, base.recipe.train.seed
    if seeds is not None and seeds < planning.MIN_SEEDS:
        raise InputError(f"--seeds {seeds}: expected at least {planning.MIN_SEEDS}, or the verdict would be chance")
    if trials is not None and trials < RUNGS:
        raise InputError(f"--trials {trials}: expected at least {RUNGS}")
    largest = 2**32 - (seeds or planning.MAX_SEEDS)
    if seed > largest:
        raise InputError(f"train.seed: expected at most {largest}, as each pair of runs has the next seed, got {seed}")
    SEARCHERS[options.searcher].check_installed()


def _finish(run: SearchRun) -> State:
    """Run all trials and final runs that are not done yet, and write the result."""
    state = run.state
    if "trials" not in run.plan:
        run.plan_trials()
    with Progress("search", total=run.plan["trials"] + RUNGS + 2 * run.min_seeds, unit="trial") as bar:
        best = run.best_trial(bar)
        state["best"] = {
            "policy": describe_schedule(best.schedule),
            "moves": to_plain(best.candidate),
            "schedule": plain_schedule(best),
            "starts": run.starts(best),
        }
        run.save()
        _run_pairs(run, best, bar)
    rows = evaluation_rows(run.proxy.prepared.data.splits, run.plan["eval_rows"])
    prepared = run.proxy.prepared
    state["evidence"] = compare(state, labels_of(rows), prepared.data.task, prepared.metric)
    state["verdict"] = report.VERDICTS.get(state["evidence"]["judgement"], report.NONE_HELPS)
    write_text(run.folder / "policy.yaml", report.fragment(run.variant(best), state))
    write_plot(run.folder, "search", report.chart(state, run.base.recipe.name))
    run.save()  # last, as a search with a verdict is finished
    return state


def _run_pairs(run: SearchRun, best: Trial, bar: Progress) -> None:
    """Run final runs with the policy and without, in all the remaining time."""
    plan, state = run.plan, run.state
    pairs = PairedRuns(
        state,
        run.costs.run.scaled(run.slowdown()),
        recipe_steps=plan["recipe_steps"],
        seeds=run.options.seeds,
        first_seed=run.base.recipe.train.seed,
        left_s=lambda: run.budget.left_s,
    )
    if "steps" not in plan:
        pairs.begin()
        run.save()
        logger.info("final runs have %d of the recipe's %d steps", plan["steps"], plan["recipe_steps"])
    bar.update(len(state["without"]) + len(state["with"]))

    def train(side: str, seed: int, length: planning.RunPlan) -> FinalRun:
        bar.update(0, remark="run without augmentation" if side == "without" else "run with the policy")
        variant = run.variant(Trial((NONE,), 0) if side == "without" else best)
        if plan["image_size"] is not None:
            variant = variant.with_image_size(plan["image_size"])
        return train_final(
            variant, seed=seed, steps=length.steps, recipe_steps=plan["recipe_steps"], eval_rows=length.eval_rows
        )

    def after_run() -> None:
        run.save()
        done = plan["trials"] + RUNGS + len(state["without"]) + len(state["with"])
        bar.total = max(bar.total or 0, done)
        bar.update()

    pairs.run(train, after_run)
