"""What is decided between two rungs, each in one line with its reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hf_finetune.config.search import Preset
from hf_finetune.pipeline.choose_pooling import MOST_ROWS
from hf_finetune.search.ladder.costs import MEASURED_FROM_S, RESERVE, RungCost, Scoring
from hf_finetune.search.ladder.judgement import FEW_ROWS, Comparison
from hf_finetune.search.ladder.state import CONSTANTS, JOINED_RUNG, SOUP_RUNG, LadderState, RungRecord
from hf_finetune.search.recipe_variant import SingleMethod
from hf_finetune.utils.durations import format_duration
from hf_finetune.utils.messages import listed

METHODS: dict[Preset, tuple[SingleMethod, ...]] = {
    "fast": (),
    "good": ("full",),
    "best": ("top", "lora", "full"),
}
"""What each preset trains after the head. Without a preset: all that there is time for."""
NETWORKS = ("head", "top", "lora", "full", SOUP_RUNG)
"""Rungs whose models an ensemble has as members."""
FINE_TUNED = ("top", "lora", "full", SOUP_RUNG)
"""Those that predict at the same cost, whatever their training took."""
NOT_SIMPLER = "which is no simpler"
LEAST_EXPLAINED = 0.01
"""Share of the labels' entropy: frozen features that explain less, out of fold, have no signal."""
START_EXPLAINED = 0.2
"""A head that explains less starts no other rung, unless it is better than the rungs before it: the network would first
have to leave the wrong features. It is the default of any fine-tuning, see `training.warm_start.default_fit`."""
LEAST_NETWORK_S = 5.0
"""With less time left, no network is trained, nor a row measured."""
COMPARED_FROM_S = 240.0
"""With less time left, what the head reads is compared on `FEW_ROWS` rows: on 1,000 it took 30 of 120 seconds."""
LEAST_HELD_OUT = 30
"""Rows of validation from which full fine-tuning may be taken without a proof: ten times as many trained it."""
PRIOR = {
    "head": "pretrained features need fewer rows",
    JOINED_RUNG: "words and frozen features mostly complete each other",
    "full": "fine-tuning is mostly better from some hundred rows on",
}
"""Why a rung is taken without a proof."""
SOUP_SHARE = 0.5
"""Epochs of a second full fine-tuning at least, as a share of those of the first: of 3 epochs of movie reviews, one of
1.75 gained a half to two thirds of what one of 3 did."""
LEFT_FREE = 0.02
"""Share of the time that is left which a training's limit leaves free: what surrounds it is not measured exactly."""
STRAIGHT = "left: full fine-tuning needs the time"
TRIAL_S, LEAST_TRIAL_S = 20.0, 6.0
"""Seconds of training by which a climb without a signal so far decides whether to go on: the most, and the least to
which they are cut so that the climb ends after `NO_SIGNAL_S`."""
NO_SIGNAL_S = 50.0
"""Seconds from the start after which a climb without a signal is to end; its end takes some more."""


@dataclass(frozen=True)
class RungPlan:
    """Whether a rung is climbed."""

    reason: str
    epochs: float | None = None
    """Of its recipe. None: it is left."""
    limit_s: float | None = None
    """Most seconds of training. None: no limit."""
    expected: float = 0.0
    """Epochs that the time holds, by its cost."""


def methods_of(preset: Preset | None) -> tuple[SingleMethod, ...]:
    """Return the methods that are weighed after the head, the cheapest first."""
    return METHODS[preset or "best"]


def averages(preset: Preset | None) -> bool:
    """Return whether a second full fine-tuning may follow, whose weights are averaged with those of the first."""
    return preset in (None, "best")


def methods_within(preset: Preset | None, left_s: float) -> tuple[SingleMethod, ...]:
    """Return those of `methods_of` that a climb may train, which is to be known before the first comparison: only full
    fine-tuning is not measured where there is no time for it."""
    methods = methods_of(preset)
    return tuple(method for method in methods if method == "full" or left_s >= MEASURED_FROM_S)


def compared_rows(left_s: float) -> int:
    """Return on how many rows it is compared what the head reads, each of which two networks read. 0: not at all."""
    if left_s < MEASURED_FROM_S:
        return 0
    return FEW_ROWS if left_s < COMPARED_FROM_S else MOST_ROWS


def writes_later(left_s: float) -> bool:
    """Whether a classical model is written at the end, unless a network is better: with little time, the seconds that
    its file, its figures and its gate take are a share of what training has."""
    return left_s < MEASURED_FROM_S


def why_no_network(left_s: float, scoring: Callable[[], Scoring] | None) -> str | None:
    """Return why no network is trained at all. None: there is time for one.

    Args:
        scoring: measures a row, if there may be time. None: more than next to no time was decided on before.
    """
    needed_s = LEAST_NETWORK_S
    if left_s >= needed_s and scoring is not None:
        needed_s = scoring().least_head_s
    if left_s >= needed_s:
        return None
    return f"left: a network takes {math.ceil(needed_s)} s at least, and {max(int(left_s), 0)} are left"


def weigh(method: SingleMethod, cost: Callable[[SingleMethod], RungCost], *, left_s: float, epochs: float) -> RungPlan:
    """Decide whether a rung is worth its time, and how long it trains.

    Full fine-tuning takes what is left, up to the recipe's epochs. A cheaper method goes first if both fit whole, and
    takes its place where it does not fit.

    Args:
        cost: measures the cost of a method.
        left_s: seconds of the budget.
        epochs: those of the recipe.
    """
    usable_s = left_s * (1 - RESERVE)
    if method != "full":
        if left_s < MEASURED_FROM_S:
            return RungPlan("left: there is no time to measure it")
        full = cost("full")
        if _fitting(full, usable_s, epochs) >= min(full.least_epochs, epochs):
            room_s = usable_s - full.seconds(epochs)
            # Without room nothing is measured: the steps for that are time, too.
            if room_s <= 0 or cost(method).seconds(epochs) > room_s:
                return RungPlan("left: full fine-tuning needs the time that is left")
    mine = cost(method)
    fitting, least = _fitting(mine, usable_s, epochs), min(mine.least_epochs, epochs)
    if fitting < least:
        need_s, left = mine.seconds(least), format_duration(max(left_s, 1))
        return RungPlan(f"left: it would take {format_duration(need_s)} at least, and {left} are left")
    limit_s = None if math.isinf(left_s) else max(1.0, (left_s * (1 - LEFT_FREE) - mine.around_s) / mine.trainings)
    takes = f"{fitting:.3g} epochs, about {format_duration(mine.seconds(fitting))}"
    # Where the estimate is wrong, the limit and its schedule hold.
    reason = takes if fitting == epochs else f"{takes}, which is the time that is left"
    return RungPlan(reason, epochs, limit_s, fitting)


def weigh_soup(cost: Callable[[SingleMethod], RungCost], *, left_s: float, epochs: float) -> RungPlan:
    """Decide whether there is time for a second full fine-tuning, of no more epochs than the first.

    Args:
        cost, left_s: see `weigh`.
        epochs: of the first one.
    """
    plan = weigh("full", cost, left_s=left_s, epochs=epochs)
    if plan.epochs is None or plan.expected >= SOUP_SHARE * epochs:
        return plan
    return RungPlan(f"left: there is time for {plan.expected:.2g} epochs of a second run, of {epochs:.2g}")


def _fitting(cost: RungCost, seconds: float, epochs: float) -> float:
    return epochs if math.isinf(seconds) else min(epochs, cost.epochs_within(seconds))


def why_preferred(name: str, comparison: Comparison | None, *, folds: int | None = None) -> str | None:
    """Return why a rung takes the place of a simpler one without a proof by `Task.judged_by`. None: it does not.

    First, it tells classes apart, which a constant does not. Second, its log loss is lower by the paired test, which
    tells models apart on fewer rows, and its accuracy no lower. Of two fine-tuned
    networks neither is simpler, so that estimates decide. Third, with few rows no test can decide: then a head on
    frozen features is preferred to a classical model, as a pretrained network knows words that the rows lack; and full
    fine-tuning to the head, where a tenth of some hundred rows judges: on 500 rows it was better by 3 points on movie
    reviews and by 10 on package descriptions, on 16 by nothing. Rows that speak against it, by half of what would prove
    it worse, outweigh that: its checkpoint may never have seen such text.

    Args:
        folds: in which the rungs are judged. None: by rows that are held out.
    """
    if comparison is None or comparison.verdict == "better" or comparison.is_blind:
        return None
    if comparison.is_constant and comparison.tells_apart:
        found = f"it tells classes apart (p = {comparison.association:.4f} by permutation)"
        return f"{found}, though its {comparison.metric} is not proven higher than that of {comparison.against}"
    if comparison.verdict == "worse":
        return None
    difference, gain, other = comparison.difference, comparison.log_loss_gain, comparison.against
    speaks_against = difference.value + difference.high <= 0
    if gain is not None and gain.low > 0 and difference.value >= 0:
        lower = f"{gain.value:.3f} [{gain.low:.3f}, {gain.high:.3f}]"
        return f"its log loss is lower than that of {other}, by {lower}, and its {comparison.metric} is no lower"
    is_held_out = folds is None and difference.n >= LEAST_HELD_OUT and other in ("head", JOINED_RUNG)
    lowers = gain is not None and gain.value > 0
    if name in FINE_TUNED and other in FINE_TUNED:
        if difference.value > 0:
            return f"its {comparison.metric} is higher than that of {other}, {NOT_SIMPLER}"
        if gain is not None and gain.value > 0 and not speaks_against:
            return f"its log loss is lower than that of {other}, {NOT_SIMPLER}"
    may_be = name == "head" or (name == JOINED_RUNG and lowers) or (name == "full" and is_held_out)
    if not may_be or difference.n >= FEW_ROWS or speaks_against:
        return None
    few = f"{difference.n} rows are too few to prove it better than {other}"
    return f"{few}; it is taken, as {PRIOR[name]}"


def why_judged(comparison: Comparison | None) -> str:
    """Return what the verdict on a rung means, which is not preferred."""
    if comparison is None:
        return "what every other model has to beat"
    if comparison.is_blind:
        return f"not shown to tell classes apart, as {comparison.against} does, which stays"
    if comparison.verdict == "better":
        return f"better than {comparison.against}"
    if comparison.verdict == "worse":
        return f"worse than {comparison.against}, which stays"
    return f"not better than {comparison.against} by the paired test, so that the simpler one stays"


def describe(rung: RungRecord, metric: str) -> str:
    """Return the line of a rung for the log."""
    if rung.folder is None:
        return f"{rung.name}: {rung.reason}"
    score = rung.metrics[metric]
    line = f"{rung.name}: {metric} {score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"
    if rung.comparison is not None:
        difference = rung.comparison
        line += f", {difference['value']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"
    return f"{line}: {rung.reason} ({rung.seconds:.0f} s)"


def has_no_signal(state: LadderState, explained: float | None) -> bool:
    """Return whether nothing beats the constant so far, and frozen features explain nothing."""
    return not state.beats_constant and explained is not None and explained < LEAST_EXPLAINED


def trial_seconds(left_s: float, around_s: float, so_far_s: float) -> float:
    """Return for how long a trial trains, which decides whether there is a signal. 0: there is no time for one.

    Args:
        left_s: seconds of the budget.
        around_s: what surrounds a training, if its model is the result.
        so_far_s: seconds since the start, with those of judging the trial.
    """
    most_s = min(TRIAL_S, left_s - around_s)
    return 0.0 if most_s < 1 else min(most_s, max(LEAST_TRIAL_S, NO_SIGNAL_S - so_far_s))


def starts_from_head(state: LadderState, explained: float | None) -> bool:
    """Return whether the rungs after the head start from a fitted layer: it is better than the rungs before it, or
    frozen features explain enough. One that says little ties the network to the wrong features. Where there was no time
    for the head, there is none for another fit.

    Args:
        explained: by the layer of the head. None: it has none, and a rung fits its own.
    """
    head = state.find("head")
    if head is not None and head.reason == STRAIGHT:
        return False
    return explained is None or explained >= START_EXPLAINED or (head is not None and head.is_better)


def final_verdict(state: LadderState) -> str:
    """Return what the climb has found, in a sentence."""
    on = "the validation rows" if state.folds is None else f"all rows in {state.folds} folds"
    best, chosen = state.best, state.chosen
    if best is None or best.is_constant:
        tried = listed([name for name in climbed(state) if name not in CONSTANTS])
        constant = state.rungs[0].name if best is None else best.name
        return f"no signal: none of {tried} is better than {constant} by a paired test on {on}"
    if chosen is not None and state.rungs.index(chosen) < state.rungs.index(best):
        return f"{best.name}: {best.reason}"
    if chosen is not None and best.name != chosen.name:
        # Of words, whose linear model is measured alone.
        return (
            f"nothing beats the {best.name} model ({best.title or best.name}) by a paired test on {on}; "
            f"{chosen.name} is kept, as that one cannot be saved"
        )
    others = climbed(state)[climbed(state).index(best.name) + 1 :]
    beaten = f"; {listed(others)} {'is' if len(others) == 1 else 'are'} not better than it" if others else ""
    proof = "" if best.preferred else f" by a paired test on {on}"
    return f"{best.name}: {best.reason}{proof}{beaten}"


def climbed(state: LadderState) -> Sequence[str]:
    """Return the names of the rungs that were climbed."""
    return [rung.name for rung in state.rungs if rung.folder is not None]
