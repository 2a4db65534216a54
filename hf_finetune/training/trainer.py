"""The training loop: `transformers.Trainer` with exact gradients, honest losses and our own batches.

Each overridden method says how it differs from `transformers.Trainer`, and why.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PrinterCallback, TrainingArguments

from hf_finetune.data.batching import EpochLoader, StepBatches
from hf_finetune.data.inputs import EpochRows, Inputs, Rows, columns_of, with_labels, without_votes
from hf_finetune.data.labels import labels_of
from hf_finetune.data.long.sliding import VOTES
from hf_finetune.data.long.windows import mean_of_windows
from hf_finetune.data.word_inputs import by_row, word_counts
from hf_finetune.evaluation.logits import gather_logits, predict_logits
from hf_finetune.training import best_weights, checkpoints, flops, nan_guard
from hf_finetune.training.checkpointing_trainer import CheckpointingTrainer
from hf_finetune.training.gradients import clip_gradients
from hf_finetune.training.hooks import Batch, Collate
from hf_finetune.training.losses.weighted import mean_over_step
from hf_finetune.training.optim import schedules
from hf_finetune.training.setup import TrainingSetup


class ClassifierTrainer(CheckpointingTrainer):
    """Trains a classifier on encoded rows.

    Args:
        model: a sequence or image classification model, or a PEFT model around one.
        args: built by `training_arguments`.
        setup: data, batches, loss, update rule, weight averaging and hooks.
    """

    lr_scheduler: schedules.RateSchedule
    train_dataset: Dataset
    eval_dataset: Dataset
    several_views = True
    """Whether repeated draws of a row in an epoch are different views of it."""

    def __init__(self, model: nn.Module, args: TrainingArguments, setup: TrainingSetup) -> None:
        self.setup, self.metrics = setup, setup.data.metrics
        chooses = () if setup.latest_epoch is None else (setup.latest_epoch,)
        hooks = (*setup.hooks, *setup.averaging.hooks, *chooses)
        loss = setup.loss
        for hook in hooks:
            loss = hook.on_loss(loss)
        super().__init__(
            model,
            args,
            train=setup.data.train,
            validation=setup.data.validation,
            loss=partial(mean_over_step, loss=loss),
            callbacks=setup.callbacks,
            hooks=hooks,
        )
        self.remove_callback(PrinterCallback)
        # BERT-like heads take **kwargs, from which the Trainer concludes that the model divides its loss by the rows of
        # the whole step. None does: gradients would grow with accumulation and processes.
        self.model_accepts_loss_kwargs = False
        setup.batching.prepare(self.model)
        self.work = flops.WorkCounter()
        self.selection = best_weights.Selection()
        self.validation_logits: np.ndarray | None = None
        """Those of the last validation, by the weights themselves and not by an average."""
        self.validated_step: int | None = None
        self.utilization: flops.Utilization | None = None

    @property
    def inputs(self) -> Inputs:
        """Encodes and collates rows."""
        return self.setup.data.inputs

    @property
    def collate(self) -> Collate:
        """Collates encoded rows into the model's inputs."""
        return self.setup.batching.collate(self.inputs)

    # Batches

    def get_train_dataloader(self) -> EpochLoader:
        """Build the loader. Our batch sampler deals the rows to processes itself. Accelerate must not shard the loader
        again, which would double or lose rows."""
        batches = self._step_batches()
        rows, collate = self._training_rows(batches)
        for hook in self.hooks:
            rows, collate = hook.on_loader(rows, collate)
        return EpochLoader(
            rows,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.device.type == "cuda",
            # A separate generator: creating an iterator must not draw from the one that dropout uses.
            generator=torch.Generator().manual_seed(self.args.seed),
        )

    def _step_batches(self) -> StepBatches:
        data = self.setup.data
        numbers_repeats = data.augmentation is not None or any(hook.numbers_repeats for hook in self.hooks)
        return self.setup.batching.step_batches(
            data.train,
            data.inputs.lengths(data.train),
            accumulation=self.args.gradient_accumulation_steps,
            seed=self.args.seed,
            several_views=self.several_views and numbers_repeats,
            process=self.args.process_index,
            processes=self.args.world_size,
        )

    def _training_rows(self, batches: StepBatches) -> tuple[EpochRows, Collate]:
        """Return the rows that the loader reads, and the function that collates them."""
        return self.setup.data.training_rows(batches, self.args), partial(with_labels, self.collate)

    # Optimizer and schedule

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build the optimizer. The Trainer knows one learning rate, and groups with and without weight decay."""
        if self.optimizer is None:
            self.optimizer = self.setup.update.build_optimizer(self.model, self.args, self.inputs, self.train_dataset)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> schedules.RateSchedule:
        """Build the learning-rate schedule, also one that the Trainer does not have."""
        if self.lr_scheduler is None:
            self.lr_scheduler = schedules.scheduler(
                self.setup.update.schedule,
                optimizer or self.optimizer,
                num_training_steps,
                greater_is_better=bool(self.args.greater_is_better),
                elapsed=self.setup.elapsed,
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # A step

    def training_step(
        self, model: nn.Module, inputs: Batch, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Run forward and backward on a micro-batch. Hooks change the batch, and the complete gradients of a step."""
        for hook in self.hooks:
            inputs = hook.on_batch(inputs, self.state)
        self.work.add(inputs, self.model.config)
        loss = self._forward_backward(model, inputs, num_items_in_batch)

        def repeat(batch: Batch, is_last: bool) -> None:
            with nullcontext() if is_last else self.accelerator.no_sync(model=model):
                self._forward_backward(model, batch, num_items_in_batch)

        if self.accelerator.sync_gradients:
            for hook in self.hooks:
                hook.after_backward(self.model, repeat)
        return loss

    def _forward_backward(
        self, model: nn.Module, batch: Batch, num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        loss = super().training_step(model, batch, num_items_in_batch)
        self.nan_guard.note(loss)
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Compute a micro-batch's share of the step's mean loss. Subclasses override `batch_loss`."""
        assert not return_outputs, "called by training_step alone"
        return self.batch_loss(model, inputs, num_items_in_batch)

    def batch_loss(self, model: nn.Module, batch: Batch, rows_in_step: torch.Tensor | int | None) -> torch.Tensor:
        """Compute a micro-batch's share of the step's mean loss, after the hooks have changed its inputs."""
        for hook in self.hooks:
            batch = hook.on_inputs(self.model, batch)
        votes_BK: torch.Tensor | None = batch.get(VOTES)
        read: Any = model if votes_BK is None else partial(_vote, model, votes_BK)
        loss: Any = super().compute_loss(read, without_votes(batch), num_items_in_batch=rows_in_step)
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        """Clip gradients, row-sparse ones included."""
        return self._clip(model, self.args.max_grad_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: torch.Tensor | float | None = None) -> torch.Tensor | float:
        """Return the norm of the gradients, row-sparse ones included, where they are not clipped."""
        return super()._get_grad_norm(model, self._clip(model, math.inf) if grad_norm is None else grad_norm)

    def _clip(self, model: nn.Module, max_norm: float) -> torch.Tensor:
        self.accelerator.unscale_gradients()
        return clip_gradients(model.parameters(), max_norm)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Stop at the first logged loss that is not finite. The Trainer would log 0 and go on."""
        self.nan_guard.check(self.state.global_step)
        super().log(logs, start_time)

    # Validation

    def evaluate(
        self, eval_dataset: Dataset | None = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return the validation metrics and those of the hooks, such as `eval_ema_accuracy`.

        Each row is scored once, whatever the number of processes.
        """
        with self.clock.paused():
            self._use_evaluation_weights()
            rows = self.eval_dataset if eval_dataset is None else eval_dataset
            metrics = self._metrics(rows, metric_key_prefix)
            for hook in self.hooks:
                metrics |= hook.on_validation(
                    self.model, lambda name: self._metrics(rows, f"{metric_key_prefix}_{name}")
                )
            self.log(metrics)
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _evaluate(
        self, trial: Any, ignore_keys_for_eval: list[str] | None, skip_scheduler: bool = False
    ) -> dict[str, float]:
        """Evaluate, and report the metric to the schedule. The Trainer reports it to torch's plateau schedule alone."""
        metrics = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        if not skip_scheduler:
            self.lr_scheduler.judge(metrics[f"eval_{self.args.metric_for_best_model}"])
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Choose the latest epoch that is no worse, where the setup says so. The Trainer takes the best metric."""
        latest, name = self.setup.latest_epoch, f"eval_{self.args.metric_for_best_model}"
        if latest is None or not self.args.load_best_model_at_end:
            return super()._determine_best_metric(metrics, trial)
        assert self.validation_logits is not None, "evaluated before"
        if not latest.takes(metrics[name], self.validation_logits):
            return False
        self.state.best_metric, self.state.best_global_step = metrics[name], self.state.global_step
        return True

    def _metrics(self, rows: Dataset, prefix: str) -> dict[str, float]:
        logits = self.logits(rows)
        if prefix == "eval":  # of the weights themselves, not of an average
            self.validation_logits, self.validated_step = logits, self.state.global_step
        nan_guard.check_logits(logits, self.state.global_step)
        values = self.metrics(by_row(rows, labels_of(rows)), by_row(rows, logits))
        return {f"{prefix}_{name}": float(value) for name, value in values.items()}

    def _score(self) -> float:
        """Return the metric that decides, of weights that may be an average."""
        return self._metrics(self.eval_dataset, "score")[f"score_{self.args.metric_for_best_model}"]

    @property
    def final_logits(self) -> np.ndarray | None:
        """The validation logits of the weights that stay, if the last validation was of them."""
        best = self.selection.best
        if best is not None and best.is_average:
            return None
        final = self.state.best_global_step if self.args.load_best_model_at_end else self.state.global_step
        return self.validation_logits if self.validated_step == final else None

    def logits(self, rows: Dataset) -> np.ndarray:
        """Return the logits (N, C) of encoded rows, or (W, C) of their words.

        Each process computes a share of them and gets all logits.
        """
        of_process = np.arange(self.args.process_index, len(rows), self.args.world_size)
        share, counts = rows.select(of_process), word_counts(rows)
        part = predict_logits(
            self.model,
            Rows(share, columns_of(self.inputs, labels=False)),
            self.collate,
            batch_size=self.args.per_device_eval_batch_size,
            lengths=self.inputs.lengths(share),
            counts=None if counts is None else counts[of_process],
            autocast=self._autocast,
        )
        return gather_logits(part, len(rows), self.args.world_size, counts)

    @property
    def _autocast(self) -> torch.dtype | None:
        return torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None

    # The whole training

    def train(self, resume_from_checkpoint: str | None = None) -> None:  # type: ignore[override]
        """Train, choose the final weights, refuse weights that are not finite, and measure the loop.

        A run whose last checkpoint ended the training takes no further step. The Trainer would take one where training
        had stopped early or in the middle of an epoch.
        """
        checkpoint = None if resume_from_checkpoint is None else Path(resume_from_checkpoint)
        self.clock.start(checkpoint)
        with self._training_model():
            if checkpoint is not None and checkpoints.is_over(checkpoints.saved_state(checkpoint)):
                self._restore_best(checkpoint)
            else:
                super().train(resume_from_checkpoint=resume_from_checkpoint)
                self._use_evaluation_weights()
            # False in a dry run, which saves nothing.
            if self.args.load_best_model_at_end:
                with self.clock.paused():
                    self.selection = best_weights.select_weights(
                        self.model, self.state, self.args, self.setup.averaging, self._score
                    )
        self.clock.loop.stop()
        nan_guard.check_weights(self.model.parameters())
        self.utilization = self._measure_utilization()

    @contextmanager
    def _training_model(self) -> Iterator[None]:
        """Change the model for the training: sparse gradients, attention kernel, hooks, faster layers."""
        with ExitStack() as stack:
            stack.enter_context(self.setup.update.sparse_gradients(self.model))
            stack.enter_context(self.setup.batching.attention(self.model, self.args.device, self._autocast))
            for hook in self.hooks:
                stack.enter_context(hook.on_model(self.model))
            # Last: shortcuts leave layers alone whose parts a hook has changed.
            stack.enter_context(self.setup.shortcuts.use(self.model))
            yield

    def trained_model(self) -> nn.Module:
        """Return the model without the process group's wrapper, computing in its own precision.

        Accelerate leaves autocast inside `forward`: metrics and parity of the wrapped model would be bfloat16's.
        """
        return self.accelerator.unwrap_model(self.model_wrapped, keep_fp32_wrapper=False)

    def _measure_utilization(self) -> flops.Utilization | None:
        return flops.measure(
            self.model,
            self.work,
            passes=math.prod(hook.passes for hook in self.hooks),
            rows=Rows(self.train_dataset, columns_of(self.inputs, labels=False)),
            collate=self.collate,
            lengths=self.inputs.lengths(self.train_dataset),
            seconds=self.clock.loop.seconds,
            dtype=self._autocast or torch.float32,
        )


def _vote(model: nn.Module, votes_BK: torch.Tensor, **windows: torch.Tensor) -> dict[str, torch.Tensor]:
    """Run the model on windows, and return the mean logits of their texts: these have labels."""
    return {"logits": mean_of_windows(model(**windows).logits, votes_BK)}
