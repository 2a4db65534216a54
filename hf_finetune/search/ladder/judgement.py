"""Whether a rung of the ladder is better than the best one before it: a paired test on the validation rows.

Legend: N rows, C classes.
"""

from dataclasses import dataclass
from typing import Any

from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.paired import Verdict, corrected, verdict
from hf_finetune.tasks.base import Task


@dataclass(frozen=True)
class Comparison:
    """A rung against the best one before it."""

    against: str
    difference: Interval
    """Of `Task.judged_by`, with an interval that holds for all comparisons of the climb together."""
    verdict: Verdict
    metric: str
    comparisons: int

    def to_dict(self) -> dict[str, Any]:
        """Return the section of result.json."""
        return {
            "against": self.against,
            **self.difference.to_dict(),
            "verdict": self.verdict,
            "metric": self.metric,
            "comparisons": self.comparisons,
        }


def compare(task: Task, labels: Any, scores_NC: Any, best_NC: Any, *, against: str, comparisons: int) -> Comparison:
    """Compare a rung with the best one before it.

    Args:
        task: as it is before training, without thresholds of its own.
        labels: of the validation rows.
        scores_NC, best_NC: settled scores of both, see `Task.settled`.
        against: name of the best one.
        comparisons: those of the whole climb, by which the level is divided.
    """
    difference = corrected(task.difference(labels, scores_NC, best_NC), comparisons)
    return Comparison(against, difference, verdict(difference, margin=task.margin()), task.judged_by, comparisons)
