"""Train the network: the trainer as the recipe composes it, and its steps."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from transformers import EarlyStoppingCallback, PreTrainedModel, TrainingArguments

from hf_finetune.data.inputs import Inputs, TextInputs
from hf_finetune.distillation.trainer import DistillationTrainer, Teaching
from hf_finetune.evaluation.metrics import METRICS
from hf_finetune.pipeline.augment import run_augmenter
from hf_finetune.pipeline.batching import micro_batch, trains_unpadded
from hf_finetune.pipeline.context import PreparedRun
from hf_finetune.pipeline.hooks import technique_hooks
from hf_finetune.pipeline.make_ready import ReadyRun
from hf_finetune.pipeline.objective import training_loss
from hf_finetune.pipeline.pretrain import Pretraining
from hf_finetune.pipeline.stopwatch import Stopwatch
from hf_finetune.pipeline.update_rule import learning_rate, shortcuts, update_rule
from hf_finetune.training.arguments import training_arguments
from hf_finetune.training.averaging import Averages, Ema, Tail
from hf_finetune.training.best_weights import WeightAveraging
from hf_finetune.training.callbacks import LogLines, ProgressBar
from hf_finetune.training.checkpoints import train_until_stopped
from hf_finetune.training.config import Averaging
from hf_finetune.training.setup import BatchPlan, TrainingData, TrainingSetup
from hf_finetune.training.soup import Soup
from hf_finetune.training.trainer import ClassifierTrainer

logger = logging.getLogger("hf_finetune.run")
SOURCES = {"probe": "measured", "cache": "measured before", "checkpoint": "as before"}


@dataclass(frozen=True)
class TrainedRun:
    """A run after its last step."""

    run: PreparedRun
    """Without the stored copies of its rows."""
    ready: ReadyRun
    """As it began; its network has the trained weights now."""
    trainer: ClassifierTrainer
    folder: Path
    clock: Stopwatch
    pretraining: Pretraining | None = None
    """None: there was none."""

    @property
    def network(self) -> PreTrainedModel:
        """As it is after training; a `PeftModel` hands on what a `PreTrainedModel` has."""
        return cast(PreTrainedModel, self.trainer.trained_model())


def trainer_arguments(run: PreparedRun, checkpoints: Path, *, saving: bool = True) -> TrainingArguments:
    """The trainer's arguments.

    Args:
        saving: write checkpoints.

    Raises:
        InputError: see `training_arguments`.
    """
    cut, metric = micro_batch(run), run.recipe.evaluate.metric
    train = replace(
        run.recipe.train,
        learning_rate=learning_rate(run),
        per_device_train_batch_size=cut.rows,
        gradient_accumulation_steps=cut.accumulation,
    )
    return training_arguments(
        checkpoints,
        train,
        metric=metric,
        greater_is_better=METRICS[metric].greater_is_better,
        mixed_precision=run.context.mixed_precision,
        device=run.context.device,
        saving=saving,
    )


def train(
    ready: ReadyRun, folder: Path, clock: Stopwatch, resume_from: Path | None = None, *, rehearsal: bool = False
) -> ClassifierTrainer:
    """Take all steps.

    Args:
        resume_from: checkpoint to go on from; None: from the first step.
        rehearsal: save nothing, and let all weights train in every step.

    Raises:
        StoppedBySignal: after a checkpoint.
        TrainingError: the loss or the weights are not finite.
    """
    bar = ProgressBar(ready.run.recipe.evaluate.metric)
    trainer = _build_trainer(ready, folder, bar, rehearsal=rehearsal)
    if resume_from is not None:
        logger.info("resuming from %s", resume_from.name)
    _log_start(ready, trainer.args.learning_rate)
    try:
        with clock.measure("train_s"):
            train_until_stopped(trainer, resume_from)
    finally:
        bar.close()
        ready.rows.close()
    _note_seconds(ready, trainer, clock, rehearsal=rehearsal)
    return trainer


def _build_trainer(ready: ReadyRun, folder: Path, bar: ProgressBar, *, rehearsal: bool) -> ClassifierTrainer:
    run, rows, network = ready.run, ready.rows, ready.network
    batching, averaging, patience = run.recipe.batching, run.recipe.averaging, run.recipe.train.early_stopping_patience
    checkpoints = folder / "checkpoints"
    arguments = trainer_arguments(run, checkpoints, saving=not rehearsal)
    setup = TrainingSetup(
        TrainingData(
            rows.train,
            rows.validation,
            # Or activations of frozen layers, which are collated in the same way.
            cast(Inputs, rows.inputs),
            augmentation=run_augmenter(run) if run.context.augments_online else None,
        ),
        BatchPlan(
            micro_batch(run).rows_per_step,
            by_length=batching.by_length,
            token_budget=batching.token_budget,
            unpadded=isinstance(rows.inputs, TextInputs) and trains_unpadded(run),
            sampling=batching.sampling,
        ),
        loss=training_loss(run),
        update=update_rule(run),
        averaging=WeightAveraging(_averages(averaging), Soup(checkpoints) if averaging.soup else None),
        shortcuts=shortcuts(run.context),
        hooks=technique_hooks(ready, rehearsal=rehearsal),
        callbacks=(
            bar,
            LogLines(folder / "log.jsonl"),
            *([EarlyStoppingCallback(patience)] if patience else []),
        ),
    )
    if ready.teacher is None:
        return ClassifierTrainer(network, arguments, setup)
    teaching = Teaching(ready.teacher.predictions.of_training, ready.teacher.features)
    return DistillationTrainer(network, arguments, setup, teaching)


def _averages(averaging: Averaging) -> Averages | None:
    kinds: list[Ema | Tail] = [Ema(averaging.ema_decay)] if averaging.ema_decay is not None else []
    kinds += [Tail(averaging.tail_share, averaging.tail_every)] if averaging.tail_share else []
    return Averages(*kinds) if kinds else None


def _log_start(ready: ReadyRun, learning_rate: float) -> None:
    encoded, choice = ready.encoded, ready.record.kernels
    assert choice is not None, "chosen before training"
    logger.info(
        "training on %d rows: %d steps of %d, learning rate %g, %s, %s attention (%s)",
        len(encoded.train),
        encoded.steps,
        round(len(encoded.train) / encoded.epoch.steps),
        learning_rate,
        "float32" if choice.kernels.mixed_precision == "no" else choice.kernels.mixed_precision,
        choice.kernels.attention,
        SOURCES.get(choice.source, choice.source),
    )


def _note_seconds(ready: ReadyRun, trainer: ClassifierTrainer, clock: Stopwatch, *, rehearsal: bool) -> None:
    """Split the seconds of the training: what the teacher is asked meanwhile is its time and not the student's."""
    teacher_s = 0.0 if ready.teacher is None else ready.teacher.seconds_in_training(rehearsal=rehearsal)
    clock.note("cache_s", ready.rows.build_s)
    clock.note("train_s", clock.seconds("train_s") + ready.rows.build_s - teacher_s)
    clock.note("train_loop_s", trainer.clock.loop.seconds - teacher_s)
    if teacher_s:
        clock.note("teacher_s", clock.seconds("teacher_s") + teacher_s)
        if trainer.utilization is not None:
            trainer.utilization = replace(trainer.utilization, seconds=clock.seconds("train_loop_s"))
    # Of the whole training: with the steps before a restart, and with its teacher.
    clock.note("all_steps_s", trainer.clock.total)
