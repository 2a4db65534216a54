"""The metrics of all tasks by name."""

from collections.abc import Mapping

from hf_finetune.evaluation import metrics, multi_label, ordinal, regression, tokens
from hf_finetune.evaluation.metrics import Metric

METRICS: Mapping[str, Metric] = {
    **tokens.ENTITY_METRICS,
    **regression.METRICS,
    **ordinal.METRICS,
    **multi_label.METRICS,
    **metrics.METRICS,
}
"""Those with the same name have the same direction. Titles are those of classes; `Task.metrics` has a task's own."""
