"""Configuration of the evaluation of a run."""

from typing import Annotated, Literal

from hf_finetune.utils.config import Count, between, configclass, flag
from hf_finetune.utils.config_errors import Check

EpochMetric = Literal[
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "matthews_correlation",
    "log_loss",
    "quadratic_kappa",
    "within_one",
    "micro_f1",
    "sample_f1",
    "subset_accuracy",
    "hamming_loss",
    "mean_average_precision",
    "lrap",
    "r2",
    "spearman",
    "pearson",
    "mae",
    "rmse",
    "entity_f1",
    "entity_precision",
    "entity_recall",
    "sentence_accuracy",
]
"""Metrics that can select the best epoch, of all tasks."""


@configclass
class Evaluate:
    """Metrics, baselines and the parity gate."""

    metric: EpochMetric | None = None
    """Validation metric that chooses the best epoch. None: the last epoch, unless that of the best metric is shown to
    be better by a paired test on the validation rows. That metric is accuracy for classes, micro_f1 for tags, r2 for
    numbers, and for tags of words entity_f1 if they mark entities, else accuracy. It chooses by itself for words, and
    beside early stopping and averages of the weights."""
    folds: Annotated[int | None, Check(lambda n: n is None or 2 <= n <= 100, "2 to 100"), flag("--folds")] = None
    """Estimate the model out of fold: train so many networks, each without one part of the training and validation
    rows, which it predicts. Parts have every class by its share, and repeats of a row are in one. The saved network is
    trained on all rows, for all epochs. Takes so many times as long. None: the validation rows judge, and choose the
    epoch."""
    repeats: Annotated[Count, flag("--repeats")] = 1
    """Repeats of the folds, each with other parts. Metrics and their intervals are means over the repeats."""
    group: Annotated[str | None, flag("--group")] = None
    """Column of the data; rows of one value, such as an author, are in one fold, and on one side where validation or
    test rows are held out from train."""
    fold_temperature: bool = True
    """Divide the classification layer by the temperature that minimizes the log loss of the validation rows, or of all
    rows out of fold, where a paired test on them finds it lower. The saved model's probabilities become calibrated, and
    its labels stay the same. For one class a row."""
    constrained_decoding: bool = False
    """Predict the most likely tags of a sentence of which each may follow the one before (Viterbi), for words with BIO
    or BIOES tags. It is stored with the model, and `predict` and `evaluate` do so, too. False: the most likely tag of
    each word by itself."""
    resamples: Annotated[int, between(100, 100_000)] = 1000
    """Bootstrap resamples of every 95% interval."""
    extra: tuple[str, ...] = ()
    """Further metrics, as modules of `evaluate`: a script NAME.py or a folder NAME with it, the dotted name of an
    installed module, or a metric in the cache of `evaluate`; with --trust-remote-code also one on the Hub. Arguments
    follow a colon: `f1:average=macro,zero_division=0`. Each has an interval of 200 resamples, which takes 200 times as
    long as the metric itself."""
    baselines: bool = True
    """Fit the majority and the linear baseline."""
    plots: bool = True
    """Draw the plots of DIR/plots, which the card shows."""
    parity_rows: Count = 64
    """Rows whose logits the saved folder must reproduce in a fresh process."""
