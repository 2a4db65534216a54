"""The doubts of a finished run: see `evaluation.doubts`."""

from hf_finetune.evaluation import doubts
from hf_finetune.evaluation.doubts import Doubt, Training
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.evaluate import Evaluation, ScoredSplit
from hf_finetune.pipeline.train import TrainedRun
from hf_finetune.pipeline.training_loss import class_weights

SHARES = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "micro_f1",
    "sample_f1",
    "subset_accuracy",
    "mean_average_precision",
    "lrap",
)
"""Metrics from 0 to 1 whose interval shows whether the rows are enough."""
MOST_HELD_OUT = 0.4
"""Largest share of the rows that is proposed for validation; beyond it more labeled rows are needed."""


def run_doubts(trained: TrainedRun, evaluation: Evaluation) -> tuple[Doubt, ...]:
    """Return all doubts, those about single classes first."""
    run, splits = trained.run, evaluation.splits
    recipe = run.recipe
    task, train_labels = trained.task, run.data.train_labels
    training = Training(
        task.support(train_labels),
        recipe.train.epochs,
        weighted=class_weights(run) is not None or recipe.batching.sampling != "none",
        weights=task.rare_remedy,
        rows=len(train_labels) if task.counted == "row" else None,
    )
    return (
        *doubts.unrecognized({name: split.per_class for name, split in splits.items()}, training, noun=task.counted),
        *(
            doubt
            for name, split in splits.items()
            for doubt in doubts.missing_classes(
                name, split.per_class, split.metrics, remedy=_more_classes(run, name), noun=task.counted
            )
        ),
        *_few_validation_rows(run, splits["validation"]),
        *doubts.baseline_doubts(evaluation.baselines, remedy=_better(run)),
        *doubts.start_doubts(trained.gain),
        *doubts.truncation_doubts(trained.setup.encoded.truncation),
    )


def _more_classes(run: Run, split: str) -> str:
    if split in run.data.splits.drawn:
        return doubts.MORE_TIME
    if split in run.data.splits.held_out:
        return "label more rows of such classes: one of a single row stays in train"
    return f"label {split} rows of such classes, or name rows that have them by --{split}"


def _few_validation_rows(run: Run, validation: ScoredSplit) -> tuple[Doubt, ...]:
    chooses_only = run.data.splits.test is not None
    widest = doubts.WIDEST_OF_CHOICE if chooses_only else doubts.WIDEST
    metric = run.metric
    if metric not in SHARES:  # on another scale
        metric = run.data.task.epoch_metric
    if metric not in SHARES or metric not in validation.metrics:
        return ()
    remedy = "name about {rows} rows by --validation"
    if "validation" in run.data.splits.drawn:
        remedy = doubts.MORE_TIME
    elif run.recipe.evaluate.folds is not None:
        remedy = "label more rows: {rows} would do"
    elif "validation" in run.data.splits.held_out:
        half = (validation.metrics[metric].high - validation.metrics[metric].low) / 2
        rows = len(validation.rows)
        fraction = run.recipe.data.validation_fraction * (half / widest) ** 2
        remedy = (
            f"hold out more by --data.validation-fraction {fraction:.2g}, or label more rows"
            if fraction <= MOST_HELD_OUT
            else f"label more rows; {rows:,} are held out now, {{rows}} would do"
        )
    return doubts.few_rows(
        "validation",
        metric,
        validation.metrics[metric],
        purpose="to choose epochs and settings by" if chooses_only else "to judge a model by",
        remedy=remedy,
        widest=widest,
    )


def _better(run: Run) -> str:
    epochs = run.recipe.train.epochs
    return (
        f"more --epochs (now {epochs:g}), a learning rate from --find-lr, another --model, or more labeled rows; "
        "if none helps, use the simpler model"
    )
