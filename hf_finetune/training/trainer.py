"""The Trainer, with exact gradients, honest losses and our batches.

What differs from `transformers.Trainer`, and why, stands at each method.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments

from hf_finetune.augmentation.compose import depends_on_progress
from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.data.batching import EpochLoader, Progress, StepBatches
from hf_finetune.data.inputs import EpochRows, Rows, columns_of, with_labels
from hf_finetune.data.sampling import class_draw
from hf_finetune.errors import InputError
from hf_finetune.evaluation.logits import gather_logits, predict_logits
from hf_finetune.models.kernels.unpadded import accept_packed, flash_attention, flash_fits
from hf_finetune.models.peft import state as adapter_state
from hf_finetune.training.best_weights import Selection, select_weights
from hf_finetune.training.checkpoints import is_over, refuse_lacking, save_weights, saved_state
from hf_finetune.training.clock import LoopClock
from hf_finetune.training.flops import Utilization, WorkCounter, measure
from hf_finetune.training.hooks import Batch, Collate, HookEvents
from hf_finetune.training.losses.weighted import mean_over_step
from hf_finetune.training.nan_guard import NanGuard, check_logits, check_weights
from hf_finetune.training.optim import schedules
from hf_finetune.training.optim.schedule_free_adamw import show_average
from hf_finetune.training.optim.sparse_embeddings import clip_gradients
from hf_finetune.training.setup import TrainingSetup


class ClassifierTrainer(Trainer):
    """Trains a classifier on encoded rows.

    Args:
        model: a sequence or image classification model, or a PEFT model around one.
        args: see `training_arguments`.
        setup: everything else.

    Raises:
        InputError: when `args` holds a Hub token (it would be pickled with the arguments).
    """

    model: PreTrainedModel
    args: TrainingArguments
    optimizer: torch.optim.Optimizer
    lr_scheduler: Any
    train_dataset: Dataset
    eval_dataset: Dataset
    # Whether a row that is drawn again in an epoch is another view of it there.
    several_views = True

    def __init__(self, model: nn.Module, args: TrainingArguments, setup: TrainingSetup) -> None:
        if args.hub_token is not None or args.push_to_hub:
            raise InputError(
                "train.extra: no hub_token or push_to_hub here; log in with `hf auth login` and use --push"
            )
        self.setup, data = setup, setup.data
        self.inputs, self.metrics, self.augmentation = data.inputs, data.metrics, data.augmentation
        self.hooks = (*setup.hooks, *setup.averaging.hooks)
        loss = setup.loss
        for hook in self.hooks:
            loss = hook.on_loss(loss)
        super().__init__(
            model,
            args,
            train_dataset=data.train,
            eval_dataset=data.validation,
            compute_loss_func=partial(mean_over_step, loss=loss),
            callbacks=[*setup.callbacks, HookEvents(self.hooks)],
        )
        self.remove_callback(PrinterCallback)
        # BERT-like heads take **kwargs, from which the Trainer concludes that the model itself divides its loss by the
        # rows of the whole step. None of them does: gradients would grow with accumulation and processes.
        self.model_accepts_loss_kwargs = False
        self.collate = setup.batching.collate(self.inputs)
        if setup.batching.unpadded:
            accept_packed(self.model)
        self.nan_guard = NanGuard(args.device, args.world_size)
        self.clock, self.work = LoopClock(), WorkCounter()
        self.selection = Selection()
        self.utilization: Utilization | None = None

    # Batches

    def get_train_dataloader(self) -> EpochLoader:
        """Our batch sampler knows its process; Accelerate must not shard it again (that doubles or loses rows)."""
        sampler = self._batch_sampler()
        rows, collate = self._training_rows(sampler), self._training_collate()
        for hook in self.hooks:
            rows, collate = hook.on_loader(rows, collate)
        return EpochLoader(
            rows,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.device.type == "cuda",
            # Its own generator: making an iterator must not draw from the one that dropout uses.
            generator=torch.Generator().manual_seed(self.args.seed),
        )

    def _batch_sampler(self) -> StepBatches:
        plan, rows = self.setup.batching, self.train_dataset
        tells_repeats = self.augmentation is not None or any(hook.numbers_repeats for hook in self.hooks)
        return StepBatches(
            len(rows),
            rows_per_step=plan.rows_per_step,
            accumulation=self.args.gradient_accumulation_steps,
            lengths=self.inputs.lengths(rows) if plan.by_length else None,
            token_budget=plan.token_budget,
            draw=class_draw(rows, plan.sampling),
            several_views=self.several_views and tells_repeats,
            seed=self.args.seed,
            process=self.args.process_index,
            processes=self.args.world_size,
        )

    def _training_rows(self, sampler: StepBatches) -> EpochRows:
        augmentation, inputs = self.augmentation, self.inputs
        if augmentation is None:
            return Rows(self.train_dataset, columns_of(inputs, labels=True))
        if depends_on_progress(augmentation.operations):
            steps = sampler.planned(self.args.num_train_epochs, self.args.max_steps)
            augmentation = replace(augmentation, progress=Progress(sampler, steps))
        return AugmentedRows(self.train_dataset, inputs, augmentation)

    def _training_collate(self) -> Collate:
        return partial(with_labels, self.collate)

    # Optimizer and schedule

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The chosen one; the Trainer knows only groups that decay and groups that do not, at one rate."""
        if self.optimizer is None:
            self.optimizer = self.setup.update.optimizer_for(
                self.model,
                lr=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
                inputs=self.inputs,
                train_rows=self.train_dataset,
            )
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The schedule of each group's rate, also one that the Trainer does not know."""
        if self.setup.update.schedule is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            self.lr_scheduler = schedules.scheduler(
                self.setup.update.schedule,
                optimizer or self.optimizer,
                num_training_steps,
                greater_is_better=bool(self.args.greater_is_better),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # A step

    def training_step(
        self, model: nn.Module, inputs: Batch, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """As the Trainer's, with the hooks on batches and gradients."""
        for hook in self.hooks:
            inputs = hook.on_batch(inputs, self.state)
        self.work.add(inputs, self.model.config)
        loss = self._pass(model, inputs, num_items_in_batch)

        def repeat(batch: Batch, is_last: bool) -> None:
            with nullcontext() if is_last else self.accelerator.no_sync(model=model):
                self._pass(model, batch, num_items_in_batch)

        if self.accelerator.sync_gradients:
            for hook in self.hooks:
                hook.after_backward(self.model, repeat)
        return loss

    def _pass(self, model: nn.Module, batch: Batch, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor:
        """Forward and backward; whether the loss was finite is remembered on the device (nobody waits for it)."""
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
        """As the Trainer's, of what the hooks make of the inputs."""
        for hook in self.hooks:
            inputs = hook.on_inputs(self.model, inputs)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        """As the Trainer's, for row-sparse gradients as well."""
        return self._clipped(model, self.args.max_grad_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: torch.Tensor | float | None = None) -> torch.Tensor | float:
        """Likewise, where nothing is clipped."""
        return super()._get_grad_norm(
            model, grad_norm=self._clipped(model, math.inf) if grad_norm is None else grad_norm
        )

    def _clipped(self, model: nn.Module, max_norm: float) -> torch.Tensor:
        self.accelerator.unscale_gradients()
        return clip_gradients(model.parameters(), max_norm)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Stop at the first logged loss that is not finite; the Trainer would log 0 in its place and go on."""
        self.nan_guard.check(self.state.global_step)
        super().log(logs, start_time)

    # Saving and loading

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Nothing is saved once a loss was not finite."""
        self.nan_guard.check(self.state.global_step)
        super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        with self.clock.paused():
            show_average(self.optimizer)
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                checkpoint = Path(self.args.output_dir or "") / f"checkpoint-{self.state.global_step}"
                for hook in self.hooks:
                    hook.on_save(self.model, self.state, checkpoint)
                self.clock.save(checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir or "")
        save_weights(self.model, folder, state_dict, is_main=self.args.should_save)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """As the Trainer's; adapters by `adapter_state`, for peft's format does not go on with every method."""
        if isinstance(self.model, PeftModel):
            adapter_state.load_state(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        # First: the average would be computed of the loaded weights.
        show_average(self.optimizer)
        if isinstance(self.model, PeftModel) and self.state.best_model_checkpoint is not None:
            adapter_state.load_state(self.model, Path(self.state.best_model_checkpoint))
        else:
            super()._load_best_model()

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        refuse_lacking(self.model, load_result.missing_keys, str(self.args.output_dir))
        super()._issue_warnings_after_load(load_result)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._resume_hooks(Path(checkpoint))

    def _resume_hooks(self, checkpoint: Path) -> None:
        for hook in self.hooks:
            hook.on_resume(self.model, checkpoint)

    # Validation

    def evaluate(
        self, eval_dataset: Dataset | None = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Metrics of the validation rows, each row scored once whatever the number of processes.

        Those of the hooks come with them, as a running average's `eval_ema_accuracy`.
        """
        with self.clock.paused():
            show_average(self.optimizer)
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
        """As the Trainer's, for a plateau schedule that has a warm-up."""
        metrics = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        if isinstance(self.lr_scheduler, schedules.WarmPlateau) and not skip_scheduler:
            self.lr_scheduler.judge(metrics[f"eval_{self.args.metric_for_best_model}"])
        return metrics

    def _metrics(self, rows: Dataset, prefix: str) -> dict[str, float]:
        logits = self.logits(rows)
        check_logits(logits, self.state.global_step)
        values = self.metrics(np.asarray(rows["label"][:]), logits)
        return {f"{prefix}_{name}": float(value) for name, value in values.items()}

    def _score(self) -> float:
        return self._metrics(self.eval_dataset, "eval")[f"eval_{self.args.metric_for_best_model}"]

    def logits(self, rows: Dataset) -> np.ndarray:
        """Logits (N, C) of encoded rows, computed in shares by all processes; every process gets all of them."""
        share = rows.select(np.arange(self.args.process_index, len(rows), self.args.world_size))
        part = predict_logits(
            self.model,
            Rows(share, columns_of(self.inputs, labels=False)),
            self.collate,
            batch_size=self.args.per_device_eval_batch_size,
            lengths=self.inputs.lengths(share),
            autocast=self._autocast,
        )
        return gather_logits(part, len(rows), self.args.world_size)

    @property
    def _autocast(self) -> torch.dtype | None:
        return torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None

    # The whole training

    def train(self, resume_from_checkpoint: str | None = None) -> None:  # type: ignore[override]
        """As the Trainer's; then refuses weights that are not finite, and measures the loop without evaluation and
        saving.

        A run that was killed after its last checkpoint takes no further step; the Trainer's would, when it had stopped
        early or in the middle of an epoch.
        """
        checkpoint = None if resume_from_checkpoint is None else Path(resume_from_checkpoint)
        self.clock.start(checkpoint)
        with self._changed_model():
            if checkpoint is not None and is_over(saved_state(checkpoint)):
                self._restore_best(checkpoint)
            else:
                super().train(resume_from_checkpoint=resume_from_checkpoint)
                show_average(self.optimizer)
            # Not in a rehearsal, which saves nothing.
            if self.args.load_best_model_at_end:
                with self.clock.paused():
                    self.selection = select_weights(
                        self.model, self.state, self.args, self.setup.averaging, self._score
                    )
        self.clock.stop()
        check_weights(self.model.parameters())
        if self.work.rows:
            self.utilization = self._measured()

    @contextmanager
    def _changed_model(self) -> Iterator[None]:
        """The model as it is while it trains."""
        with ExitStack() as stack:
            stack.enter_context(self.setup.update.sparse_gradients(self.model))
            if self.setup.batching.unpadded and flash_fits(self.args.device, self._autocast):
                stack.enter_context(flash_attention(self.model))
            for hook in self.hooks:
                stack.enter_context(hook.on_model(self.model))
            # Last: they leave alone a layer whose parts do otherwise than their class.
            stack.enter_context(self.setup.shortcuts.use(self.model))
            yield

    def _restore_best(self, last: Path) -> None:
        self.state = saved_state(last)
        best = self.state.best_global_step or self.state.global_step
        # Named anew: the run's folder may have been moved.
        self.state.best_model_checkpoint = str(last.with_name(f"checkpoint-{best}"))
        self._load_best_model()
        self._resume_hooks(last)
        # No step follows, but which weights trained is told by those that were taken, see `unfreezing`.
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)

    def trained_model(self) -> nn.Module:
        """The model without the process group's wrapper, computing in its own precision again.

        Accelerate leaves autocast inside `forward`; metrics and parity taken from such a model are bfloat16's.
        """
        return self.accelerator.unwrap_model(self.model_wrapped, keep_fp32_wrapper=False)

    def _measured(self) -> Utilization | None:
        """What the loop did, against what the hardware can."""
        inputs, passes = self.inputs, math.prod(hook.passes for hook in self.hooks)
        return measure(
            self.model,
            rows=Rows(self.train_dataset, columns_of(inputs, labels=False)),
            collate=self.collate,
            lengths=inputs.lengths(self.train_dataset),
            rows_trained=passes * self.work.rows,
            images={shape: passes * rows for shape, rows in self.work.images.items()},
            seconds=self.clock.loop,
            dtype=self._autocast or torch.float32,
        )
