"""Search by reinforcement: a small recurrent network draws candidates, and draws more often what came out well."""

from __future__ import annotations

import torch
from torch import nn

from hf_finetune.search.searchers.base import Candidate, Decision, Halving, Searcher, SearchSpace, Trial, halved

WIDTH = 6
LEARNING_RATE = 0.05
ENTROPY_BONUS = 0.02
"""What a nat of uncertainty left is worth, in standard deviations of the score."""
DECAY = 0.8
"""Of the moving averages of the score and its square."""
FINALISTS = 4
"""Candidates at most that are tried on more steps in the end."""


class Controller(nn.Module):
    """Draws decision after decision, each depending on those before it (AutoAugment's controller, arXiv:1805.09501, at
    a size that a few dozen rewards can teach something).

    Args:
        decisions: one after the other; those of a kind are made by the same layer.
    """

    def __init__(self, decisions: list[Decision]) -> None:
        super().__init__()
        counts = {decision.kind: len(decision.options) for decision in decisions}
        choices, kinds = list(counts.values()), list(counts)
        self.order = [kinds.index(decision.kind) for decision in decisions]
        self.start = nn.Parameter(torch.zeros(WIDTH))
        self.cell = nn.GRUCell(WIDTH, WIDTH)
        self.heads = nn.ModuleList(nn.Linear(WIDTH, count) for count in choices)
        self.drawn = nn.ModuleList(nn.Embedding(count, WIDTH) for count in choices)
        with torch.no_grad():
            for parameter in self.heads.parameters():
                # All options alike at first.
                parameter.zero_()

    def forward(self, generator: torch.Generator) -> tuple[list[int], torch.Tensor, torch.Tensor]:
        """Draw all decisions.

        Returns:
            The decisions, the logarithm of the probability of them all, and the sum of the entropies they were drawn
            with.
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
        advantage = 0.0
        if self.weight:
            mean = self.mean / self.weight
            spread = max(self.square / self.weight - mean**2, 0.0) ** 0.5
            # Early on the spread says little.
            advantage = float(min(max((score - mean) / max(spread, 1e-3), -3.0), 3.0))
        self.mean = DECAY * self.mean + (1 - DECAY) * score
        self.square = DECAY * self.square + (1 - DECAY) * score**2
        self.weight = DECAY * self.weight + (1 - DECAY)
        return advantage


class Reinforce(Searcher):
    """Candidates drawn by the controller, all on the lowest rung, where their scores compare; then the best of them on
    more steps, by halves."""

    def __init__(self, space: SearchSpace, *, trials: int, seed: int = 0) -> None:
        self.space, self.left = space, self.counts(trials, space)[0]
        self.finalists = _finalists(trials)
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.controller = Controller(_decisions(space))
        self.optimizer = torch.optim.Adam(self.controller.parameters(), lr=LEARNING_RATE)
        self.scale = MovingScale()
        self.scores: dict[Candidate, float] = {}
        self.final: Halving | None = None
        self.log_probability = self.entropy = torch.zeros(())

    @staticmethod
    def counts(trials: int, space: SearchSpace) -> tuple[int, ...]:
        """See `Searcher`."""
        later = halved(_finalists(trials), start=1)
        return (max(1, trials - sum(later)), *later[1:])

    def ask(self) -> Trial | None:
        """See `Searcher`."""
        if self.final is not None:
            return self.final.ask()
        choices, self.log_probability, self.entropy = self.controller(self.generator)
        following = iter(choices)
        return Trial((self.space.candidate(lambda decision: decision.options[next(following)]),), 0)

    def tell(self, trial: Trial, score: float) -> None:
        """See `Searcher`."""
        if self.final is not None:
            self.final.tell(trial, score)
            return
        advantage = self.scale.advantage(score)
        loss = reinforce_loss(self.log_probability, self.entropy, advantage=advantage, bonus=ENTROPY_BONUS)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scores[trial.candidate] = score
        self.left -= 1
        if self.left == 0:
            best = sorted(self.scores, key=lambda candidate: -self.scores[candidate])[: self.finalists]
            self.final = Halving(best, start=1)


def _decisions(space: SearchSpace) -> list[Decision]:
    """All decisions of a candidate: where the last option is chosen throughout, none is left out."""
    decisions: list[Decision] = []

    def choose(decision: Decision) -> Candidate:
        decisions.append(decision)
        return decision.options[-1]

    space.candidate(choose)
    return decisions


def _finalists(trials: int) -> int:
    return max(1, min(FINALISTS, trials // 6))
