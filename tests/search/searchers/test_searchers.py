"""All searchers behind one interface: they end, repeat themselves, and find what chance does not."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from hf_finetune.augmentation.mixing import CutMix, Mixup
from hf_finetune.augmentation.text.words import SwapWords
from hf_finetune.search.augmentation.policy import Move, Policy
from hf_finetune.search.augmentation.space import Space
from hf_finetune.search.searchers.base import RUNGS, Trial, at_random
from hf_finetune.search.searchers.halving import Halving, Sweep, halving_counts, max_candidates
from hf_finetune.search.searchers.population import Population
from hf_finetune.search.searchers.table import SEARCHERS

SPACE = Space({name: SwapWords for name in "ABCDEFGH"})
MIXING = replace(SPACE, mixings=(Mixup, CutMix))
EVERY = pytest.mark.parametrize("name", SEARCHERS)


def value(policy: Policy) -> float:
    """At most 2: operation A throughout, at the middle magnitude."""
    moves = [move for branch in policy.branches for move in branch]
    return float(np.mean([(m.operation == "A") + 1 - abs(m.magnitude - 0.6) for m in moves]))


def any_value(policy: Policy) -> float:
    """As `value`; of a policy of mixing alone 1."""
    return value(policy) if policy.branches else 1.0


def trials(
    name: str, count: int, seed: int = 0, score: Callable[[Policy], float] = value, space: Space = SPACE
) -> list[tuple[Trial, float]]:
    searcher, history = SEARCHERS[name](space, trials=count, seed=seed), []
    while (trial := searcher.ask()) is not None:
        history.append((trial, score(trial.candidate)))
        searcher.tell(*history[-1])
    return history


@EVERY
@pytest.mark.parametrize("space", [SPACE, MIXING], ids=["alone", "mixing"])
@pytest.mark.parametrize("count", [3, 10, 40])
def test_number_of_trials_on_each_rung(name: str, count: int, space: Space) -> None:
    history = trials(name, count, score=any_value, space=space)
    assert 1 <= len(history) <= max(count, RUNGS)
    by_rung = [sum(trial.rung == rung for trial, _ in history) for rung in range(RUNGS)]
    assert by_rung[-1] >= 1
    if name != "tpe":
        # Its pruning depends on the scores.
        assert tuple(by_rung) == SEARCHERS[name].counts(count, space)


@EVERY
def test_searchers_are_deterministic(name: str) -> None:
    assert trials(name, 24, seed=3) == trials(name, 24, seed=3)
    if name != "sweep":
        assert trials(name, 24, seed=3) != trials(name, 24, seed=4)


@pytest.mark.parametrize("name", [n for n in SEARCHERS if n != "sweep"])
def test_searchers_beat_chance(name: str) -> None:
    count, seeds = 60, range(8)
    by_chance = [
        max(value(SPACE.candidate(at_random(np.random.default_rng((9, seed, i))))) for i in range(count))
        for seed in seeds
    ]
    actual = [max(score for trial, score in trials(name, count, seed) if trial.rung == RUNGS - 1) for seed in seeds]
    assert np.mean(actual) > np.mean(by_chance) + 0.04


def test_halving_keeps_the_better_half() -> None:
    policies = [SPACE.rand_augment(level) for level in (0.2, 0.4, 0.6, 0.8)]
    halving, order = Halving(policies), []
    while (trial := halving.ask()) is not None:
        order.append((policies.index(trial.candidate), trial.rung))
        halving.tell(trial, [1.0, 4.0, 2.0, 3.0][policies.index(trial.candidate)])
    assert order == [(0, 0), (1, 0), (2, 0), (3, 0), (1, 1), (3, 1), (1, 2)]
    assert halving_counts(4) == (4, 2, 1) and halving_counts(4, start=1) == (0, 4, 2)
    assert max_candidates(7) == 4 and max_candidates(6) == 3 and max_candidates(0) == 1


def test_a_sweep_has_two_numbers_and_the_middle_ones_first() -> None:
    shown = [trial.candidate for trial, _ in trials("sweep", 1000) if trial.rung == 0]
    assert shown[0] == SPACE.trivial_augment()
    assert shown[1:4] == [SPACE.rand_augment(0.6), SPACE.rand_augment(0.6, 2), SPACE.rand_augment(0.4)]
    assert len(shown) == 11 and sum(Sweep.counts(1000, SPACE)) == len(trials("sweep", 1000)) == 20


def test_a_sweep_with_mixing_tries_it_alone_and_after_any_operation() -> None:
    shown = [trial.candidate for trial, _ in trials("sweep", 1000, score=any_value, space=MIXING) if trial.rung == 0]
    mixup, cutmix = Move("Mixup", 1.0, 0.2), Move("CutMix", 1.0, 1.0)
    any_magnitude = SPACE.trivial_augment()
    assert shown[:3] == [any_magnitude, SPACE.rand_augment(0.6), SPACE.rand_augment(0.6, 2)]
    assert shown[3:7] == [
        Policy(mix=mixup),
        replace(any_magnitude, mix=mixup),
        Policy(mix=cutmix),
        replace(any_magnitude, mix=cutmix),
    ]
    assert len(shown) == 15 and shown[7:] == [SPACE.rand_augment(m, d) for m in (0.4, 0.8, 0.2, 1.0) for d in (1, 2)]


@pytest.mark.parametrize("name", [n for n in SEARCHERS if n != "sweep"])
def test_searchers_learn_to_mix(name: str) -> None:
    """CutMix alone earns something: of the policies that end the search most have it, by chance a third would."""
    actual = []
    for seed in range(6):
        history = trials(name, 60, seed, lambda p: float(p.mix is not None and p.mix.operation == "CutMix"), MIXING)
        actual += [trial.candidate.mix for trial, _ in history if trial.rung == RUNGS - 1]
        tried = {None if t.candidate.mix is None else t.candidate.mix.operation for t, _ in history}
        assert tried == {None, "Mixup", "CutMix"}
    assert np.mean([mix is not None and mix.operation == "CutMix" for mix in actual]) > 0.6


def test_the_worst_of_a_population_take_the_place_of_the_best() -> None:
    population = Population(SPACE, trials=32)
    first = [trial.candidate for trial in population.waiting]
    assert len(first) == 4
    worst, best = first[1], first[2]
    schedules = []
    while (trial := population.ask()) is not None:
        # The second one is always the worst, the third the best.
        population.tell(trial, {worst: -1.0, best: 3.0}.get(trial.candidate, 1.0))
        if trial.rung == 1:
            schedules.append(trial.schedule)
    assert all(worst not in schedule for schedule in schedules)
    assert (best, best) in schedules
    # Rows are mixed in one way throughout, also where it changed on the way.
    history = trials("population", 60, score=any_value, space=MIXING)
    assert all(len({policy.mix for policy in trial.schedule}) == 1 for trial, _ in history)
    assert any(len({replace(policy, mix=None) for policy in trial.schedule}) > 1 for trial, _ in history)
    # One explores: it has the best one's past, and a policy near it.
    assert any(schedule[0] == best and schedule[1] != best for schedule in schedules)
