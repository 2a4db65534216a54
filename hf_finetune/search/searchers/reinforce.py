"""Search by reinforcement learning: a small recurrent controller learns to propose good candidates."""

import torch
from torch import nn

from hf_finetune.search.searchers.base import Candidate, Decision, Searcher, SearchSpace, Trial
from hf_finetune.search.searchers.halving import Halving, halving_counts

WIDTH = 6
LEARNING_RATE = 0.05
ENTROPY_BONUS = 0.02
"""Weight of the entropy in nats, in standard deviations of the score."""
DECAY = 0.8
"""Decay of the moving averages of the score and its square."""
FINALISTS = 4
"""Most candidates that train on the later rungs."""


class Controller(nn.Module):
    """Samples decisions autoregressively (AutoAugment's controller, arXiv:1805.09501, small enough to learn from a few
    dozen rewards).

    Args:
        decisions: in order; decisions of a kind share a layer.
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
                parameter.zero_()  # all options are equally likely at first

    def forward(self, generator: torch.Generator) -> tuple[list[int], torch.Tensor, torch.Tensor]:
        """Sample all decisions.

        Returns:
            The indices of the chosen options, their joint log probability, and the sum of the entropies.
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
    """Return the loss whose gradient is REINFORCE's estimate (Williams 1992, "Simple statistical gradient-following
    algorithms for connectionist reinforcement learning").

    Args:
        log_probability: of the sampled decisions.
        entropy: of the distributions that they were sampled from.
        advantage: the reward minus the baseline.
        bonus: weight of the entropy.
    """
    return -advantage * log_probability - bonus * entropy


class MovingScale:
    """Standardizes scores by a moving mean and standard deviation."""

    def __init__(self) -> None:
        self.mean, self.square, self.weight = 0.0, 0.0, 0.0

    def advantage(self, score: float) -> float:
        """Return the standardized score, 0 for the first one, and update the moving statistics."""
        advantage = 0.0
        if self.weight:
            mean = self.mean / self.weight
            spread = max(self.square / self.weight - mean**2, 0.0) ** 0.5
            # Clipped, as the spread of the first few scores is unreliable.
            advantage = float(min(max((score - mean) / max(spread, 1e-3), -3.0), 3.0))
        self.mean = DECAY * self.mean + (1 - DECAY) * score
        self.square = DECAY * self.square + (1 - DECAY) * score**2
        self.weight = DECAY * self.weight + (1 - DECAY)
        return advantage


class Reinforce(Searcher):
    """The controller proposes candidates on the first rung, where scores are comparable; then the best go through
    successive halving."""

    def __init__(self, space: SearchSpace, *, trials: int, seed: int = 0) -> None:
        self.space, self.remaining = space, self.counts(trials, space)[0]
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
        later = halving_counts(_finalists(trials), start=1)
        return (max(1, trials - sum(later)), *later[1:])

    def ask(self) -> Trial | None:
        if self.final is not None:
            return self.final.ask()
        choices, self.log_probability, self.entropy = self.controller(self.generator)
        remaining = iter(choices)
        return Trial((self.space.candidate(lambda decision: decision.options[next(remaining)]),), 0)

    def tell(self, trial: Trial, score: float) -> None:
        if self.final is not None:
            self.final.tell(trial, score)
            return
        advantage = self.scale.advantage(score)
        loss = reinforce_loss(self.log_probability, self.entropy, advantage=advantage, bonus=ENTROPY_BONUS)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scores[trial.candidate] = score
        self.remaining -= 1
        if self.remaining == 0:
            best = sorted(self.scores, key=lambda candidate: -self.scores[candidate])[: self.finalists]
            self.final = Halving(best, start=1)


def _decisions(space: SearchSpace) -> list[Decision]:
    """Return all decisions of a candidate; none is skipped if the last option is always chosen."""
    decisions: list[Decision] = []

    def choose(decision: Decision) -> Candidate:
        decisions.append(decision)
        return decision.options[-1]

    space.candidate(choose)
    return decisions


def _finalists(trials: int) -> int:
    return max(1, min(FINALISTS, trials // 6))
