"""Search by reinforcement: a small recurrent network draws policies, and draws more often what came out well."""

from __future__ import annotations

import torch
from torch import nn

from hf_finetune.search.augmentation.space import BRANCHES, LEVELS, MOVES, Mix, Move, Policy, Space
from hf_finetune.search.searchers.base import Halving, Trial, halved

WIDTH = 6
LEARNING_RATE = 0.05
ENTROPY_BONUS = 0.02
"""What a nat of uncertainty left is worth, in standard deviations of the score."""
DECAY = 0.8
"""Of the moving averages of the score and its square."""
FINALISTS = 4
"""Policies at most that are tried on more steps in the end."""


class Controller(nn.Module):
    """Draws decision after decision, each knowing those before it (AutoAugment's controller, arXiv:1805.09501, at a size that
    a few dozen rewards can teach something).

    Args:
        choices: how many there are of each kind of decision.
        order: the kinds of the decisions, one after the other; a kind's decisions are made by the same layer.
    """

    def __init__(self, choices: tuple[int, ...], order: tuple[int, ...]) -> None:
        super().__init__()
        self.order = order
        self.start = nn.Parameter(torch.zeros(WIDTH))
        self.cell = nn.GRUCell(WIDTH, WIDTH)
        self.heads = nn.ModuleList(nn.Linear(WIDTH, count) for count in choices)
        self.drawn = nn.ModuleList(nn.Embedding(count, WIDTH) for count in choices)
        for head in self.heads:
            # All alike at first.
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, generator: torch.Generator) -> tuple[list[int], torch.Tensor, torch.Tensor]:
        """Draw all decisions.

        Returns:
            The decisions, the logarithm of the probability of them all, and the sum of the entropies they were drawn with.
        """
        decisions, log_probability, entropy = [], torch.zeros(()), torch.zeros(())
        state, read = torch.zeros(1, WIDTH), self.start[None]
        for kind in self.order:
            state = self.cell(read, state)
            logs = self.heads[kind](state)[0].log_softmax(-1)
            choice = torch.multinomial(logs.exp(), 1, generator=generator)
            decisions.append(int(choice))
            log_probability = log_probability + logs[choice[0]]
            entropy = entropy - (logs.exp() * logs).sum()
            read = self.drawn[kind](choice)
        return decisions, log_probability, entropy


def reinforce_loss(
    log_probability: torch.Tensor, entropy: torch.Tensor, *, advantage: float, bonus: float
) -> torch.Tensor:
    """What falls along REINFORCE's estimate of the gradient (Williams 1992, "Simple statistical gradient-following
    algorithms for connectionist reinforcement learning").

    Args:
        log_probability: of what was drawn.
        entropy: of what it was drawn from.
        advantage: the reward above the baseline.
        bonus: what a nat of entropy is worth.
    """
    return -advantage * log_probability - bonus * entropy


class MovingScale:
    """How far a score lies above a moving average, in moving standard deviations; the first one lies at 0."""

    def __init__(self) -> None:
        self.mean, self.square, self.weight = 0.0, 0.0, 0.0

    def advantage(self, score: float) -> float:
        """Of this score over those before it, which it then joins."""
        found = 0.0
        if self.weight:
            mean = self.mean / self.weight
            spread = max(self.square / self.weight - mean**2, 0.0) ** 0.5
            # Early on the spread says little.
            found = float(min(max((score - mean) / max(spread, 1e-3), -3.0), 3.0))
        self.mean = DECAY * self.mean + (1 - DECAY) * score
        self.square = DECAY * self.square + (1 - DECAY) * score**2
        self.weight = DECAY * self.weight + (1 - DECAY)
        return found


class Reinforce:
    """Policies drawn by the controller, all on the lowest rung, where their scores compare; then the best of them on more
    steps, by halves."""

    def __init__(self, space: Space, *, trials: int, seed: int = 0) -> None:
        self.space, self.left = space, self.counts(trials, space)[0]
        self.finalists = _finalists(trials)
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            levels = (len(LEVELS), len(LEVELS))
            choices, order = (len(space.names), *levels), (0, 1, 2) * BRANCHES * MOVES
            if space.mixings:
                # Last, knowing all moves: how rows are mixed, not at all being the first choice.
                choices, order = (*choices, 1 + len(space.mixings), *levels), (*order, 3, 4, 5)
            self.controller = Controller(choices, order)
        self.optimizer = torch.optim.Adam(self.controller.parameters(), lr=LEARNING_RATE)
        self.scale = MovingScale()
        self.told: dict[Policy, float] = {}
        self.final: Halving | None = None
        self.log_probability = self.entropy = torch.zeros(())

    @staticmethod
    def counts(trials: int, space: Space) -> tuple[int, ...]:
        """Trials by rung, of so many."""
        later = halved(_finalists(trials), start=1)
        return (max(1, trials - sum(later)), *later[1:])

    def ask(self) -> Trial | None:
        """See `Searcher`."""
        if self.final is not None:
            return self.final.ask()
        decisions, self.log_probability, self.entropy = self.controller(self.generator)
        threes, mix = list(zip(*(decisions[i::3] for i in range(3)), strict=True)), None
        if self.space.mixings:
            way, probability, alpha = threes.pop()
            if way:
                mix = Mix(self.space.mixing_names[way - 1], LEVELS[probability], LEVELS[alpha])
        moves = [
            Move(self.space.names[operation], LEVELS[probability], LEVELS[magnitude])
            for operation, probability, magnitude in threes
        ]
        branches = tuple(tuple(moves[i : i + MOVES]) for i in range(0, len(moves), MOVES))
        return Trial((Policy(branches, mix=mix),), 0)

    def tell(self, trial: Trial, score: float) -> None:
        """See `Searcher`."""
        if self.final is not None:
            self.final.tell(trial, score)
            return
        loss = reinforce_loss(
            self.log_probability, self.entropy, advantage=self.scale.advantage(score), bonus=ENTROPY_BONUS
        )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.told[trial.policy] = score
        self.left -= 1
        if self.left == 0:
            best = sorted(self.told, key=lambda policy: -self.told[policy])[: self.finalists]
            self.final = Halving(best, start=1)


def _finalists(trials: int) -> int:
    return max(1, min(FINALISTS, trials // 6))
