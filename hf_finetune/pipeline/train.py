"""Train the network: the trainer as the recipe composes it, and its steps."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from transformers import EarlyStoppingCallback, PreTrainedModel, PrinterCallback, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from hf_finetune.config.data import ImageData
from hf_finetune.config.recipe import Averaging
from hf_finetune.data.inputs import TextInputs
from hf_finetune.distillation.trainer import DistillationTrainer
from hf_finetune.evaluation.metrics import classification_metrics, softmax
from hf_finetune.pipeline.augment import run_augmenter
from hf_finetune.pipeline.batching import micro_batch, trains_unpadded
from hf_finetune.pipeline.context import PreparedRun
from hf_finetune.pipeline.hooks import adapter_penalty, mixout, regularizers, what_trains
from hf_finetune.pipeline.make_ready import ReadyRun
from hf_finetune.pipeline.objective import training_loss
from hf_finetune.pipeline.pretrain import Pretraining
from hf_finetune.pipeline.stopwatch import Stopwatch
from hf_finetune.pipeline.update_rule import learning_rate, rates, schedule, shortcuts, trains_words_sparsely
from hf_finetune.training.arguments import training_arguments
from hf_finetune.training.averaging import Averages, Ema, Tail
from hf_finetune.training.callbacks import LogLines, ProgressBar
from hf_finetune.training.checkpoints import train_until_stopped
from hf_finetune.training.optim.sam import Sharpness
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


def trainer_arguments(run: PreparedRun, checkpoints: Path) -> TrainingArguments:
    """The trainer's arguments.

    Raises:
        InputError: see `training_arguments`.
    """
    train, cut = run.recipe.train, micro_batch(run)
    return training_arguments(
        checkpoints,
        learning_rate=learning_rate(run),
        metric=run.recipe.evaluate.metric,
        mixed_precision=run.context.mixed_precision,
        device=run.context.device,
        extra=train.extra,
        per_device_train_batch_size=cut.rows,
        gradient_accumulation_steps=cut.accumulation,
        num_train_epochs=train.num_train_epochs,
        max_steps=train.max_steps,
        per_device_eval_batch_size=train.per_device_eval_batch_size,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        seed=train.seed,
        logging_steps=train.logging_steps,
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
    recipe, checkpoints = run.recipe, folder / "checkpoints"
    data, optim, patience = recipe.data, recipe.optim, recipe.train.early_stopping_patience
    trainer_type: Any = ClassifierTrainer
    if ready.teaching is not None:
        trainer_type = partial(
            DistillationTrainer, teacher=ready.teaching.predictions.of_training, insides=ready.teaching.features
        )
    trainer = trainer_type(
        network,
        trainer_arguments(run, checkpoints),
        train_rows=rows.train,
        validation_rows=rows.validation,
        inputs=rows.inputs,
        metrics=lambda labels, logits: classification_metrics(labels, softmax(logits)),
        rows_per_step=micro_batch(run).rows_per_step,
        by_length=recipe.batching.by_length,
        token_budget=recipe.batching.token_budget,
        unpadded=isinstance(rows.inputs, TextInputs) and trains_unpadded(run),
        shrink=run.model.shrink,
        shrink_share=data.low_resolution_share if isinstance(data, ImageData) else 0.0,
        loss=training_loss(run),
        r_drop=recipe.objective.r_drop,
        mixout=mixout(run, network),
        sampling=recipe.batching.sampling,
        augmentation=run_augmenter(run) if run.context.augments_online else None,
        mix=recipe.objective.mix,
        shortcuts=shortcuts(run.context),
        optimizer=optim.optimizer,
        course=schedule(run.context),
        rates=rates(run),
        sparse_embeddings=trains_words_sparsely(run),
        sharpness=Sharpness(optim.sam_rho, optim.sam_adaptive) if optim.sam_rho else None,
        averages=_averages(recipe.averaging),
        soup=Soup(checkpoints) if recipe.averaging.soup else None,
        penalty=adapter_penalty(network),
        callbacks=[
            bar,
            LogLines(folder / "log.jsonl"),
            *([EarlyStoppingCallback(patience)] if patience else []),
            *regularizers(run, network),
            *([] if rehearsal else what_trains(ready)),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    if rehearsal:
        trainer.args.save_strategy, trainer.args.load_best_model_at_end = SaveStrategy.NO, False
    return trainer


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
    teacher_s = 0.0 if ready.teaching is None else ready.teaching.seconds_in_training(rehearsal=rehearsal)
    clock.note("cache_s", ready.rows.build_s)
    clock.note("train_s", clock.seconds("train_s") + ready.rows.build_s - teacher_s)
    clock.note("train_loop_s", trainer.loop_seconds - teacher_s)
    if teacher_s:
        clock.note("teacher_s", clock.seconds("teacher_s") + teacher_s)
        if trainer.utilisation is not None:
            trainer.utilisation = replace(trainer.utilisation, seconds=clock.seconds("train_loop_s"))
    # Of the whole training: with the steps before a restart, and with its teacher.
    clock.note("all_steps_s", trainer.all_loop_seconds)
