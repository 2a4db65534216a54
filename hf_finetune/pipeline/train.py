"""Train the network: build the trainer, and take all steps."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from transformers import EarlyStoppingCallback, PreTrainedModel, TrainingArguments

from hf_finetune.data.inputs import Inputs, TextInputs
from hf_finetune.data.labels import labels_of
from hf_finetune.data.word_inputs import by_row, word_counts
from hf_finetune.distillation.cache.logits import WordLogits
from hf_finetune.distillation.trainer import DistillationTrainer, Teaching
from hf_finetune.pipeline.augment import run_augmenter
from hf_finetune.pipeline.average_runs import average_with_runs
from hf_finetune.pipeline.batch_plan import batch_plan, trains_unpadded
from hf_finetune.pipeline.build_hooks import build_hooks
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.fold_temperature import Temperature, calibrated, fit_temperature, fits_temperature, fold
from hf_finetune.pipeline.optimization import shortcuts, trainer_arguments, update_rule
from hf_finetune.pipeline.out_of_fold import OutOfFold
from hf_finetune.pipeline.pretrain import Pretraining
from hf_finetune.pipeline.run_setup import RunSetup
from hf_finetune.pipeline.start_weights import keep_better_start
from hf_finetune.pipeline.stopwatch import Stopwatch
from hf_finetune.pipeline.training_loss import training_loss
from hf_finetune.tasks.base import Task
from hf_finetune.training.averaging import Averages, Ema, Tail
from hf_finetune.training.best_weights import WeightAveraging
from hf_finetune.training.callbacks import LOG, LogLines, ProgressBar, SparseValidation, TimeLimit, trim_log
from hf_finetune.training.checkpoints import SaveInterval, saved_state, train_until_stopped
from hf_finetune.training.config import Averaging
from hf_finetune.training.latest_epoch import LatestEpoch
from hf_finetune.training.probe import WHY
from hf_finetune.training.setup import TrainingData, TrainingSetup
from hf_finetune.training.soup import Soup
from hf_finetune.training.trackers.base import TRAIN
from hf_finetune.training.trainer import ClassifierTrainer
from hf_finetune.utils.durations import parse_duration
from hf_finetune.utils.messages import counted

logger = logging.getLogger("hf_finetune.run")


@dataclass(frozen=True)
class TrainedRun:
    """A run after its last training step."""

    run: Run
    """Without the augmented copies of its rows."""
    setup: RunSetup
    trainer: ClassifierTrainer
    task: Task
    """With what the validation rows settled."""
    gain: dict[str, Any] | None = None
    """Paired difference to the start, see `start_weights`. None: its head was not fitted."""
    temperature: Temperature | None = None
    """None: none was fitted."""
    pretraining: Pretraining | None = None
    """None: the run was not pretrained."""
    out_of_fold: OutOfFold | None = None
    """Predictions by networks that were not trained on the rows. None: no folds."""

    @property
    def network(self) -> PreTrainedModel:
        """The trained network. A `PeftModel` has all attributes of the `PreTrainedModel` inside it."""
        return cast(PreTrainedModel, self.trainer.trained_model())

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.setup.folder

    @property
    def clock(self) -> Stopwatch:
        """Seconds of the stages."""
        return self.setup.clock

    def settled(self, predicted: OutOfFold | None) -> Self:
        """Settle thresholds or a temperature by out-of-fold predictions; without folds return the run as it is."""
        if predicted is None:
            return self
        task = self.task
        if task.calibrates:
            task = task.calibrated(predicted.labels, task.training_scores(predicted.logits_RNC[0]))
        temperature = None
        if fits_temperature(self.run):
            predicted, temperature = calibrated(task, predicted)
            fold(temperature, self.network)
        return replace(self, task=task, temperature=temperature, out_of_fold=predicted)


def check_arguments(run: Run) -> None:
    """Refuse unusable fields of `train.extra`.

    Raises:
        InputError: see `training_arguments`.
    """
    _classifier_arguments(run, Path())


def _classifier_arguments(run: Run, checkpoints: Path, *, saving: bool = True) -> TrainingArguments:
    better = run.data.task.metrics[run.metric].greater_is_better
    return trainer_arguments(run, checkpoints, metric=run.metric, greater_is_better=better, saving=saving)


def train(setup: RunSetup) -> tuple[ClassifierTrainer, Task, dict[str, Any] | None, Temperature | None]:
    """Take all training steps.

    Returns:
        The trainer, the task with what the validation rows settle, the gain over the start, and the temperature, see
        `TrainedRun`.

    Raises:
        StoppedBySignal: after a checkpoint.
        TrainingError: the loss or the weights are not finite.
    """
    bar = ProgressBar(setup.run.metric)
    trainer = _build_trainer(setup, bar)
    if setup.resume_from is not None:
        logger.info("resuming from %s", setup.resume_from.name)
        # `LogLines` does so only where training goes on.
        if trainer.is_world_process_zero():
            trim_log(setup.folder / LOG, saved_state(setup.resume_from).global_step)
    _log_start(setup, trainer.args.learning_rate)
    try:
        with setup.clock.measure("train_s"):
            train_until_stopped(trainer, setup.resume_from, SaveInterval.of(setup.run.recipe.train))
            average_with_runs(setup, trainer)
            gain, logits_NC = keep_better_start(setup, trainer)
            task, temperature = _finish_task(setup, trainer, logits_NC)
    finally:
        bar.close()
        setup.rows.close()
    _record_seconds(setup, trainer)
    return trainer, task, gain, temperature


def _finish_task(
    setup: RunSetup, trainer: ClassifierTrainer, logits_NC: np.ndarray | None
) -> tuple[Task, Temperature | None]:
    """Settle thresholds or a temperature by the validation rows, and fold the temperature, or the scale of targets,
    into the network. With folds all rows settle the temperature, later.

    Args:
        logits_NC: of the validation rows. None: not predicted yet.
    """
    task, rows, temperature = setup.run.data.task, setup.rows.validation, None
    fits = fits_temperature(setup.run) and setup.run.recipe.evaluate.folds is None and not setup.dry_run
    if task.calibrates or fits:
        if logits_NC is None and _ended_by_the_clock(trainer):
            # The pass is a share of the time, and no repetition of the training gives the same bits.
            logits_NC = trainer.final_logits
        logits_NC = trainer.logits(rows) if logits_NC is None else logits_NC
        labels, logits_NC = (by_row(rows, each) for each in (labels_of(rows), logits_NC))
        if task.calibrates:
            task = task.calibrated(labels, task.training_scores(logits_NC))
        if fits:
            temperature = fit_temperature(task, labels, logits_NC)
            fold(temperature, trainer.trained_model())
    task.finish(trainer.trained_model())
    return task, temperature


def _ended_by_the_clock(trainer: ClassifierTrainer) -> bool:
    return any(isinstance(each, TimeLimit) and each.share >= 1 for each in trainer.callback_handler.callbacks)


def _build_trainer(setup: RunSetup, bar: ProgressBar) -> ClassifierTrainer:
    run, rows, teacher, checkpoints = setup.run, setup.rows, setup.teacher, setup.folder / "checkpoints"
    averaging, patience = run.recipe.averaging, run.recipe.train.early_stopping_patience
    limit = None if run.recipe.train.max_time is None else TimeLimit(parse_duration(run.recipe.train.max_time))
    unpadded = isinstance(rows.inputs, TextInputs) and trains_unpadded(run.context, rows.inputs, run.model.network)
    arguments = _classifier_arguments(run, checkpoints, saving=not setup.dry_run)
    parts = TrainingSetup(
        TrainingData(
            rows.train,
            rows.validation,
            # `CachedInputs` collates cached activations in the same way.
            cast(Inputs, rows.inputs),
            augmentation=run_augmenter(run) if run.context.augments_online else None,
            metrics=run.data.task.epoch_values,
        ),
        replace(batch_plan(run), unpadded=unpadded),
        loss=training_loss(run),
        update=update_rule(run),
        averaging=WeightAveraging(_averages(averaging), Soup(checkpoints) if averaging.soup else None),
        latest_epoch=_latest_epoch(setup),
        shortcuts=shortcuts(run.context),
        hooks=build_hooks(setup),
        callbacks=(
            bar,
            LogLines(setup.folder / LOG),
            SparseValidation(run.recipe.train.validate_every),
            *setup.trackers.callbacks(TRAIN),
            *([EarlyStoppingCallback(patience)] if patience else []),
            *([] if limit is None else [limit]),
        ),
        elapsed=(lambda: limit.share) if limit is not None and run.recipe.train.fit_schedule else None,
    )
    if teacher is None:
        return ClassifierTrainer(setup.network, arguments, parts)
    logits, counts = teacher.predictions.of_training, word_counts(rows.train)
    if counts is not None:
        assert not callable(logits), "words are not augmented"
        logits = WordLogits(logits, counts)
    return DistillationTrainer(setup.network, arguments, parts, Teaching(logits, teacher.features))


def _latest_epoch(setup: RunSetup) -> LatestEpoch | None:
    """Return the choice of the epoch where the recipe names no metric, nor anything that compares epochs by one."""
    recipe, task, labels = setup.run.recipe, setup.run.data.task, labels_of(setup.rows.validation)
    compares = recipe.train.early_stopping_patience or recipe.averaging.in_run
    if recipe.evaluate.metric is not None or compares or task.has_words:
        return None

    def is_worse(logits_NC: np.ndarray, best_NC: np.ndarray) -> bool:
        scores, best = task.training_scores(logits_NC), task.training_scores(best_NC)
        return bool(task.compare(labels, scores, best)["verdict"] == "worse")

    return LatestEpoch(is_worse, greater_is_better=task.metrics[setup.run.metric].greater_is_better)


def _averages(averaging: Averaging) -> Averages | None:
    kinds: list[Ema | Tail] = [Ema(averaging.ema_decay)] if averaging.ema_decay is not None else []
    kinds += [Tail(averaging.tail_share, averaging.tail_every)] if averaging.tail_share else []
    return Averages(*kinds) if kinds else None


def _log_start(setup: RunSetup, learning_rate: float) -> None:
    encoded, choice = setup.encoded, setup.record.kernels
    assert choice is not None, "chosen before training"
    logger.info(
        "training on %s: %s of %d, learning rate %g, %s, %s attention (%s)",
        counted(len(encoded.train), "row"),
        counted(encoded.steps, "step"),
        round(len(encoded.train) / encoded.epoch.steps),
        learning_rate,
        "float32" if choice.kernels.mixed_precision == "no" else choice.kernels.mixed_precision,
        choice.kernels.attention,
        WHY[choice.source],
    )


def _record_seconds(setup: RunSetup, trainer: ClassifierTrainer) -> None:
    """Record the seconds of training. A teacher may predict meanwhile: its seconds count as the teacher's."""
    clock, teacher, build_s = setup.clock, setup.teacher, setup.rows.build_s
    teacher_s = 0.0 if teacher is None else teacher.seconds_in_training(dry_run=setup.dry_run)
    clock.record("cache_s", build_s)
    clock.record("train_s", clock.seconds("train_s") + build_s - teacher_s)
    clock.record("train_loop_s", trainer.clock.loop.seconds - teacher_s)
    if teacher_s:
        clock.record("teacher_s", clock.seconds("teacher_s") + teacher_s)
        if trainer.utilization is not None:
            trainer.utilization = replace(trainer.utilization, seconds=clock.seconds("train_loop_s"))
    # The steps before a restart, and the teacher's time, are included.
    clock.record("all_steps_s", trainer.clock.total)
