"""Whether a rung of the ladder is better than the best one before it: a paired test on the validation rows.

Legend: N rows, C classes.
"""

from dataclasses import dataclass
from typing import Any

from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.paired import Verdict, corrected, verdict
from hf_finetune.tasks.base import Task

FEW_ROWS = 300
"""With fewer rows a paired test rarely decides."""


@dataclass(frozen=True)
class Comparison:
    """A rung against the best one before it."""

    against: str
    difference: Interval
    """Of `Task.judged_by`, with an interval that holds for all comparisons of the climb together."""
    verdict: Verdict
    metric: str
    comparisons: int
    log_loss_gain: Interval | None = None
    """By how much the log loss is lower, with an interval of half the level, as it is the second test of a rung. None:
    the other is a constant, or no accuracy judges: the log loss ignores the order of levels."""

    def to_dict(self) -> dict[str, Any]:
        """Return the section of result.json."""
        return {
            "against": self.against,
            **self.difference.to_dict(),
            "verdict": self.verdict,
            "metric": self.metric,
            "comparisons": self.comparisons,
            **({} if self.log_loss_gain is None else {"log_loss_gain": self.log_loss_gain.to_dict()}),
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
) -> Comparison:
    """Compare a rung with the best one before it.

    Args:
        task: as it is before training, without thresholds of its own.
        labels: of the validation rows.
        scores_NC, best_NC: settled scores of both, see `Task.settled`.
        against: name of the best one.
        comparisons: those of the whole climb, by which the level is divided.
        is_constant: whether the best one is a constant, which only the accuracy can beat: a model that tells no class
            apart may know their frequencies better.
    """
    difference = corrected(task.difference(labels, scores_NC, best_NC), comparisons)
    has_gain = task.judged_by == "accuracy" and not is_constant
    gain = task.log_loss_gain(labels, scores_NC, best_NC) if has_gain else None
    return Comparison(
        against,
        difference,
        verdict(difference, margin=task.margin()),
        task.judged_by,
        comparisons,
        None if gain is None else corrected(gain, 2 * comparisons),
    )
