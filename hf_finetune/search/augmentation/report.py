"""The output of a search: the policy as a recipe fragment, a chart, and a summary."""

import textwrap
from typing import Any

import yaml

from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.search.state import State
from hf_finetune.utils.durations import format_duration
from hf_finetune.utils.plain import to_plain
from hf_finetune.utils.plots import Draw, line_chart

TABLE_ROWS = 8
"""Number of trials in the table, the best first."""
HELPS, UNDECIDED, NONE_HELPS = "helps", "undecided", "none helps"
VERDICTS = {"better": HELPS, "undecided": UNDECIDED}
"""Verdicts by the judgement of the paired difference; any other judgement means that none helps."""
MORE = {UNDECIDED: ": no augmentation stays the choice; more validation rows, seeds or time may tell"}


def fragment(variant: RecipeVariant, state: State) -> str:
    """Return the recipe fields that set the policy, as YAML for `--config`; commented out unless the policy helps.

    Args:
        variant: the recipe with the policy in `data.augment` and `objective.mix`.
    """
    policy = state["best"]["policy"]
    head = f"# {state['verdict']}: {_evidence(state)}\n# Found by `hf-finetune search augmentation`: {policy}\n"
    recipe = variant.recipe
    plain, fields = to_plain(recipe), {}
    if recipe.data.augment:
        fields["data"] = {"type": type(recipe.data).__name__, "augment": plain["data"]["augment"]}
    if recipe.objective.mix:
        fields["objective"] = {"mix": plain["objective"]["mix"]}
    text = yaml.safe_dump(fields, sort_keys=False, default_flow_style=None, width=120)
    if state["verdict"] == HELPS:
        return head + text
    return f"{head}# It would be the following, and is left out:\n{textwrap.indent(text, '# ')}"


def chart(state: State, name: str) -> Draw:
    """Return what draws the scores of all trials in order, a line for each number of steps."""
    trials = state["trials"]
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for steps in sorted({t["steps"] for t in trials}):
        indices = [i for i, t in enumerate(trials) if t["steps"] == steps and t["policy"] != "none"]
        if indices:
            lines[f"{steps} steps"] = [float(i) for i in indices], [trials[i]["score"] for i in indices]
        for t in trials:
            if t["steps"] == steps and t["policy"] == "none":
                lines[f"none, {steps} steps"] = [0.0, float(len(trials) - 1)], [t["score"]] * 2
    return line_chart(lines, title=f"{name}: scores of trials", x_label="trial", y_label="score")


def describe(state: State) -> str:
    """Summarize a finished search as text."""
    plan, rows, trials = state["plan"], state["rows"], state["trials"]
    tried = [t for t in trials if t["policy"] != "none"]
    best_first = sorted(tried, key=lambda t: (-t["steps"], -t["score"]))
    table = [
        *best_first[:TABLE_ROWS],
        *(t for t in trials if t["policy"] == "none" and t["steps"] == best_first[0]["steps"]),
    ]
    left = f", {len(tried) - TABLE_ROWS} more in search.json" if len(tried) > TABLE_ROWS else ""
    seconds, metric = sum(t["seconds"] for t in trials), state["judged_by"]
    width = max(8, len(metric))
    return "\n".join(
        [
            f"{state['name']}: {rows['fit']} training rows for trials, {rows['scored']} to score them, "
            f"{plan['eval_rows']} of {rows['validation']} validation rows to evaluate final runs",
            f"space         {len(state['space'])} operations: {', '.join(state['space'])}",
            *(f"note          {note}" for note in state["left_out"]),
            f"tried         {len(tried)} trials by {state['search']['searcher']} in {format_duration(seconds)}{left}",
            f"                 score  {metric:>{width}}  steps  policy",
            *(
                f"              {t['score']:8.4f}  {t['judged']:{width}.4f}  {t['steps']:5}  {t['policy']}"
                for t in table
            ),
            f"policy        {state['best']['policy']}",
            f"final runs    {len(state['without'])} seeds each, {plan['steps']} of {plan['recipe_steps']} steps"
            f"{_image_size(plan)}; {metric} {_mean(state['with'])} with it, {_mean(state['without'])} without",
            f"evidence      {_evidence(state)}",
            f"verdict       {state['verdict']}" + MORE.get(state["verdict"], ""),
            f"time          {format_duration(state['seconds'])} of {format_duration(state['search']['budget_s'])}",
            f"fragment      {state['folder']}/policy.yaml" + ("" if state["verdict"] == HELPS else " (in comments)"),
            f"chart         {state['folder']}/search.svg",
        ]
    )


def _mean(runs: list[dict[str, Any]]) -> str:
    return f"{sum(r['judged'] for r in runs) / len(runs):.4f}"


def _image_size(plan: dict[str, Any]) -> str:
    return "" if plan["image_size"] is None else f", images of {plan['image_size']} pixels a side"


def _evidence(state: State) -> str:
    evidence = state["evidence"]
    # R² is no percentage.
    factor, unit = (1, "") if evidence["metric"] == "r2" else (100, "percentage points ")
    value, low, high = (factor * evidence[name] for name in ("value", "low", "high"))
    return (
        f"{value:+.2f} {unit}of {evidence['metric']} [{low:+.2f}, {high:+.2f}] against no augmentation, "
        f"{evidence['n']} validation rows, {len(state['with'])} paired seeds{_image_size(state['plan'])}: "
        f"{evidence['judgement']}"
    )
