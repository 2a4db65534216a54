"""Configuration of the evaluation of a run."""

from typing import Annotated

from annotated_types import Ge

from hf_finetune.evaluation.metrics import EpochMetric
from hf_finetune.utils.config import Count, configclass


@configclass
class Evaluate:
    """Metrics, baselines and the parity gate."""

    metric: EpochMetric = "accuracy"
    """Validation metric that chooses the best epoch."""
    resamples: Annotated[int, Ge(100)] = 1000
    """Bootstrap resamples of every 95% interval."""
    baselines: bool = True
    """Fit the majority and the linear baseline."""
    parity_rows: Count = 64
    """Rows whose logits the saved folder must reproduce in a fresh process."""
