"""Whether a rung of the ladder is better than the best one before it: a paired test on the validation rows.

Legend: N rows, C classes.
"""

from dataclasses import dataclass
from typing import Any

from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.paired import Verdict, corrected, verdict
from hf_finetune.tasks.base import Task

COMPARISONS = 5
"""Comparisons of a whole climb: the linear model, and four methods of training."""


@dataclass(frozen=True)
class Comparison:
    """A rung against the best one before it."""

    against: str
    difference: Interval
    """Of `Task.judged_by`, with an interval that holds for all comparisons of the climb together."""
    verdict: Verdict
    metric: str

    def to_dict(self) -> dict[str, Any]:
        """Return the section of result.json."""
        return {
            "against": self.against,
            **self.difference.to_dict(),
            "verdict": self.verdict,
            "metric": self.metric,
            "comparisons": COMPARISONS,
        }


def compare(task: Task, labels: Any, scores_NC: Any, best_NC: Any, *, against: str) -> Comparison:
    """Compare a rung with the best one before it.

    Args:
        task: as it is before training, without thresholds of its own.
        labels: of the validation rows.
        scores_NC, best_NC: settled scores of both, see `Task.settled`.
        against: name of the best one.
    """
    difference = corrected(task.difference(labels, scores_NC, best_NC), COMPARISONS)
    return Comparison(against, difference, verdict(difference, margin=task.margin()), task.judged_by)
