"""Whether a rung of the ladder is better than the best one before it: a paired test on the validation rows.

Legend: N rows, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.paired import Verdict, corrected, verdict
from hf_finetune.tasks.base import Task

FEW_ROWS = 300
"""With fewer rows a paired test rarely decides."""
LEVEL = 0.025
"""Of one side, as that of the bound of a 95% interval. The first tests of all rungs share it; their second tests, by
the log loss or by permutation, share another half of it."""


@dataclass(frozen=True)
class Comparison:
    """A rung against the best one before it."""

    against: str
    difference: Interval
    """Of `Task.judged_by`, with an interval that holds for these of all comparisons of the climb together."""
    verdict: Verdict
    metric: str
    comparisons: int
    log_loss_gain: Interval | None = None
    """By how much the log loss is lower, with an interval of half the level, as it is the second test of a rung. None:
    the other is a constant, or no accuracy judges: the log loss ignores the order of levels."""
    association: float | None = None
    """The p-value of `Task.association`, where the other is a constant that is not proven worse, or a model that took
    the place of one by this test. None: it is neither, or no accuracy judges."""
    is_constant: bool = False
    """Whether the other is a constant."""

    @property
    def tells_apart(self) -> bool:
        """Whether scores say something of the labels, at half the level, as it is the second test of a rung. Where one
        class has nearly all rows, a model that finds the others may be right no more often than a constant."""
        return self.association is not None and self.association <= LEVEL / (2 * self.comparisons)

    @property
    def is_blind(self) -> bool:
        """Whether the other one tells classes apart, and this one is not shown to: it may be right more often as a
        constant is."""
        return not self.is_constant and self.association is not None and not self.tells_apart

    def to_dict(self) -> dict[str, Any]:
        """Return the section of result.json."""
        return {
            "against": self.against,
            **self.difference.to_dict(),
            "verdict": self.verdict,
            "metric": self.metric,
            "comparisons": self.comparisons,
            **({} if self.log_loss_gain is None else {"log_loss_gain": self.log_loss_gain.to_dict()}),
            **({} if self.association is None else {"association": self.association, "tells_apart": self.tells_apart}),
        }


def compare(
    task: Task,
    labels: Any,
    scores_NC: Any,
    best_NC: Any,
    *,
    against: str,
    comparisons: int,
    is_constant: bool = False,
    inputs: Callable[[], np.ndarray] | None = None,
) -> Comparison:
    """Compare a rung with the best one before it.

    Args:
        task: as it is before training, without thresholds of its own.
        labels: of the validation rows.
        scores_NC, best_NC: settled scores of both, see `Task.settled`.
        against: name of the best one.
        comparisons: those of the whole climb, by which the level is divided.
        is_constant: whether the best one is a constant, whose log loss proves nothing: a model that tells no class
            apart may know their frequencies better.
        inputs: see `Task.association`. None: no permutation test counts, see `Comparison.association`.
    """
    difference = corrected(task.difference(labels, scores_NC, best_NC), comparisons)
    by_accuracy = task.judged_by == "accuracy"
    gain = task.log_loss_gain(labels, scores_NC, best_NC) if by_accuracy and not is_constant else None
    found, p_value = verdict(difference, margin=task.margin()), None
    if inputs is not None and by_accuracy and not (is_constant and found == "better"):
        p_value = task.association(labels, scores_NC, inputs)
    gain = None if gain is None else corrected(gain, 2 * comparisons)
    comparison = Comparison(
        against, difference, found, task.judged_by, comparisons, gain, association=p_value, is_constant=is_constant
    )
    return replace(comparison, verdict="undecided") if comparison.is_blind and found == "better" else comparison
