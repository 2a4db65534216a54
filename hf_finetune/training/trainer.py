"""The Trainer, with exact gradients, honest losses and our batches.

What differs from `transformers.Trainer`, and why, stands at each method.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_finetune.augmentation.augmenter import Augmenter
from hf_finetune.augmentation.compose import depends_on_progress
from hf_finetune.augmentation.mixing import Mixing
from hf_finetune.augmentation.online import AugmentedRows, MixedRows, collate_mixed
from hf_finetune.data.batching import EpochLoader, Progress, StepBatches
from hf_finetune.data.inputs import EpochRows, Inputs, Rows, TextInputs, columns_of, with_labels
from hf_finetune.data.sampling import Sampling, class_draw
from hf_finetune.errors import InputError
from hf_finetune.evaluation.logits import gather_logits, predict_logits
from hf_finetune.models.kernels.shortcuts import Shortcuts
from hf_finetune.models.kernels.unpadded import accept_packed, flash_attention, flash_fits
from hf_finetune.models.patches import Shrink
from hf_finetune.models.peft import state
from hf_finetune.training.averaging import Averages
from hf_finetune.training.best_weights import Keeping
from hf_finetune.training.checkpoints import CLOCK, is_over, refuse_lacking, save_weights, saved_state, seconds_until
from hf_finetune.training.flops import Utilisation, measure, real_tokens
from hf_finetune.training.losses.classification import CROSS_ENTROPY, SumOfRows, mean_over_step
from hf_finetune.training.losses.soft_labels import mixed
from hf_finetune.training.nan_guard import FiniteLosses, check_logits, check_weights
from hf_finetune.training.optim import optimizers, schedules
from hf_finetune.training.optim.config import AdamW, Optimizer
from hf_finetune.training.optim.rate_groups import Rates
from hf_finetune.training.optim.sam import SecondPass, Sharpness
from hf_finetune.training.optim.schedule_config import Course
from hf_finetune.training.optim.schedule_free import show_average
from hf_finetune.training.optim.sparse_embeddings import SparseWords
from hf_finetune.training.regularization.mixout import Mixout
from hf_finetune.training.soup import Candidate, Soup
from hf_finetune.utils.files import write_json


class ClassifierTrainer(Trainer):
    """Trains a classifier on encoded rows.

    Args:
        model: a sequence or image classification model, or a PEFT model around one.
        args: see `training_arguments`.
        train_rows: encoded rows with a `label` column, see `data.inputs`.
        validation_rows: likewise, for the choice of the epoch.
        inputs: turns rows into tensors.
        metrics: `(labels (N,), logits (N, C)) -> {name: value}` of the validation rows.
        rows_per_step: rows of an optimiser step over all processes and accumulation.
        by_length: put texts of like length into one step.
        token_budget: padded tokens of an optimiser step in place of `rows_per_step`, see `StepBatches`.
        unpadded: batches of texts end to end, for a model that `models.kernels.unpadded.use_unpadded` allows.
        shrink: makes pictures smaller in the first `shrink_share` of all optimiser steps.
        loss: sum over the rows of a micro-batch, see `losses`.
        r_drop: send every row through twice, and add this times `losses.symmetric_kl` of the two answers to the mean of
            their losses (arXiv:2106.14448). Not with `unpadded`.
        mixout: mixes pretrained weights in, see `mixout.Mixout`.
        sampling: which rows make an epoch, see `data.sampling.class_quotas`.
        augmentation: changes the training rows, anew in every epoch; see `augmentation.online`.
        mix: mixes the rows of a micro-batch with one another, see `augmentation.mixing`. Not with `unpadded`.
        shortcuts: what is computed in another way than the library does.
        optimizer: which optimiser; the learning rate and the weight decay are those of `args`.
        course: the learning rate's schedule. None: that of `args`.
        rates: how learning rates differ between parameters.
        sparse_embeddings: update the word embeddings of the words that occur, see `optim.VocabularyAdamW`.
        sharpness: take gradients where the loss nearby is worst, see `training.optim.sam`.
        averages: running averages of the weights; those that validation prefers are kept, see `keeping.Keeping`.
        soup: averages the scored epochs after the last step, likewise.
        penalty: added to the mean loss of every step, whatever its micro-batches: AdaLoRA's, see `rank_schedule`.

    Raises:
        InputError: when `args` holds a Hub token (it would be pickled with the arguments).
    """

    # Whether a row that is drawn again in an epoch is another view of it there, and mixed otherwise.
    several_views = True

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        train_rows: Dataset,
        validation_rows: Dataset,
        inputs: Inputs,
        metrics: Callable[[np.ndarray, np.ndarray], dict[str, float]],
        rows_per_step: int,
        by_length: bool = True,
        token_budget: int | None = None,
        unpadded: bool = False,
        shrink: Shrink | None = None,
        shrink_share: float = 0.0,
        loss: SumOfRows = CROSS_ENTROPY,
        r_drop: float = 0.0,
        mixout: Mixout | None = None,
        sampling: Sampling = "none",
        augmentation: Augmenter | None = None,
        mix: tuple[Mixing, ...] = (),
        shortcuts: Shortcuts = Shortcuts(),
        optimizer: Optimizer = AdamW(),
        course: Course | None = None,
        rates: Rates = Rates(),
        sparse_embeddings: bool = False,
        sharpness: Sharpness | None = None,
        averages: Averages | None = None,
        soup: Soup | None = None,
        penalty: Callable[[], torch.Tensor] | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        if args.hub_token is not None or args.push_to_hub:
            raise InputError(
                "train.extra: no hub_token or push_to_hub here; log in with `hf auth login` and use --push"
            )
        super().__init__(
            model,
            args,
            train_dataset=train_rows,
            eval_dataset=validation_rows,
            compute_loss_func=partial(mean_over_step, loss=loss, r_drop=r_drop, penalty=penalty),
            callbacks=[*callbacks, *([averages] if averages is not None else [])],
        )
        # BERT-like heads take **kwargs, from which the Trainer concludes that the model itself divides its loss by the
        # rows of the whole step. None of them does: gradients would grow with accumulation and processes.
        self.model_accepts_loss_kwargs = False
        self.inputs, self.metrics, self.by_length = inputs, metrics, by_length
        self.rows_per_step, self.token_budget, self.unpadded = rows_per_step, token_budget, unpadded
        self.collate: Callable[[dict[str, list]], dict[str, Any]] = inputs.collate
        if unpadded:
            assert isinstance(inputs, TextInputs), "only texts have padding"
            self.collate = inputs.pack
            accept_packed(self.model)
        self.shrink, self.shrink_share = shrink, shrink_share
        assert not (unpadded and (r_drop or mix)), "a packed batch can be neither doubled nor mixed"
        self.mix = mix
        self.r_drop, self.mixout, self.sampling, self.augmentation = r_drop, mixout, sampling, augmentation
        self.shortcuts = shortcuts
        self.optimizer_choice, self.course, self.rates = optimizer, course, rates
        assert not sparse_embeddings or isinstance(optimizer, AdamW), "the others take dense gradients"
        self.sparse_words = SparseWords(self.model, inputs) if sparse_embeddings else None
        self.second_pass = None if sharpness is None else SecondPass(sharpness, args.device)
        self.averages = averages
        self.keeping = Keeping(averages, soup, args)
        self.kept: Candidate | None = None
        self.candidates: list[Candidate] = []
        self.losses = FiniteLosses(args.device, args.world_size)
        self.rows_trained, self.tokens_trained = 0, 0
        self._pictures: Counter[tuple[int, ...]] = Counter()
        self.loop_seconds, self.outside_seconds = 0.0, 0.0
        # With those of the steps that a resumed run took before.
        self.all_loop_seconds = self._seconds_before = 0.0
        self.utilisation: Utilisation | None = None

    # Batches

    def get_train_dataloader(self) -> EpochLoader:
        """Our batch sampler knows its process; Accelerate must not shard it again (that doubles or loses rows)."""
        sampler = StepBatches(
            len(self.train_dataset),
            rows_per_step=self.rows_per_step,
            accumulation=self.args.gradient_accumulation_steps,
            lengths=self.inputs.lengths(self.train_dataset) if self.by_length else None,
            token_budget=self.token_budget,
            draw=class_draw(self.train_dataset, self.sampling),
            several_views=self.several_views and (self.augmentation is not None or bool(self.mix)),
            seed=self.args.seed,
            process=self.args.process_index,
            processes=self.args.world_size,
        )
        if self.augmentation is not None and depends_on_progress(self.augmentation.operations):
            given, epochs = self.args.max_steps, self.args.num_train_epochs
            progress = Progress(sampler, sampler.planned(epochs, given))
            self.augmentation = replace(self.augmentation, progress=progress)
        rows, collate = self._training_rows(), self._training_collate()
        return EpochLoader(
            MixedRows(rows, self.args.seed) if self.mix else rows,
            batch_sampler=sampler,
            collate_fn=partial(collate_mixed, self.mix, collate) if self.mix else collate,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.device.type == "cuda",
            # Its own generator: making an iterator must not draw from the one that dropout uses.
            generator=torch.Generator().manual_seed(self.args.seed),
        )

    def _training_rows(self) -> EpochRows:
        if self.augmentation is None:
            return Rows(self.train_dataset, columns_of(self.inputs, labels=True))
        return AugmentedRows(self.train_dataset, self.inputs, self.augmentation)

    def _training_collate(self) -> Callable[[dict[str, list]], dict[str, Any]]:
        return partial(with_labels, self.collate)

    # Optimiser and schedule

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The chosen one; the Trainer knows only groups that decay and groups that do not, at one rate."""
        if self.optimizer is None:
            words = self.sparse_words
            self.optimizer = optimizers.for_model(
                self.model,
                self.optimizer_choice,
                lr=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
                rates=self.rates,
                table=None if words is None else words.embeddings.weight,
                rows=None if words is None else words.that_occur(self.train_dataset),
            )
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The course of each group's rate, with schedules that the Trainer does not know."""
        if self.course is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            self.lr_scheduler = schedules.scheduler(
                self.course,
                optimizer or self.optimizer,
                num_training_steps,
                greater_is_better=bool(self.args.greater_is_better),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # Loss

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """As the Trainer's, remembering on the device whether every loss so far was finite (no wait for the device)."""
        # By the step alone, so that a run that was resumed does as one that was not.
        if self.shrink is not None and self.state.global_step < self.shrink_share * self.state.max_steps:
            inputs["pixel_values"] = self.shrink(inputs["pixel_values"])
        self.rows_trained += len(inputs["labels"])
        self.tokens_trained += real_tokens(inputs, self.model.config)
        if "pixel_values" in inputs:
            self._pictures[tuple(inputs["pixel_values"].shape[1:])] += len(inputs["labels"])
        if self.mixout is not None:
            self.mixout.step = self.state.global_step
        one_pass = super().training_step
        if self.second_pass is not None:
            self.second_pass.remember(inputs)
        loss = one_pass(model, inputs, num_items_in_batch)
        self.losses.note(loss)

        def again(micro_batch: dict[str, Any], is_last: bool) -> None:
            with nullcontext() if is_last else self.accelerator.no_sync(model=model):
                self.losses.note(one_pass(model, micro_batch, num_items_in_batch))

        if self.second_pass is not None and self.accelerator.sync_gradients:
            self.second_pass.run(model, again)
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """As the Trainer's, of mixed rows as well; for R-Drop with every row twice, in one pass: each has its own part of
        the dropout masks."""
        if "partners" in inputs:
            inputs = mixed(self.model, inputs)
        if self.r_drop:
            inputs = {name: x if name == "labels" else torch.cat([x, x]) for name, x in inputs.items()}
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        if self.sparse_words is None:
            return super()._clip_grad_norm(model)
        return self.sparse_words.clip(self.accelerator, model, self.args.max_grad_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: torch.Tensor | float | None = None) -> torch.Tensor | float:
        """Without clipping the Trainer's takes the norm itself, and knows no row-sparse gradients."""
        if grad_norm is None and self.sparse_words is not None:
            grad_norm = self.sparse_words.clip(self.accelerator, model, float("inf"))
        return super()._get_grad_norm(model, grad_norm=grad_norm)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Stop at the first logged loss that is not finite; the Trainer would log 0 in its place and go on."""
        self.losses.check(self.state.global_step)
        super().log(logs, start_time)

    # Saving

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Nothing is saved once a loss was not finite."""
        self.losses.check(self.state.global_step)
        super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        started = time.perf_counter()
        show_average(self.optimizer)
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            self.keeping.save(self.model, self.state, checkpoint)
            write_json(checkpoint / CLOCK, self._loop_seconds_until(started))
        self.outside_seconds += time.perf_counter() - started

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        save_weights(self.model, folder, state_dict, is_main=self.args.should_save)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """As the Trainer's; adapters by `adapter_state`, for peft's format does not go on with every method."""
        if isinstance(self.model, PeftModel):
            state.load_state(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        # First: the average would be computed of the loaded weights.
        show_average(self.optimizer)
        if isinstance(self.model, PeftModel) and self.state.best_model_checkpoint is not None:
            state.load_state(self.model, Path(self.state.best_model_checkpoint))
        else:
            super()._load_best_model()

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        refuse_lacking(self.model, load_result.missing_keys, self.args.output_dir)
        super()._issue_warnings_after_load(load_result)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.keeping.load(Path(checkpoint))

    # Validation

    def evaluate(
        self, eval_dataset: Dataset | None = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Metrics of the validation rows, each row scored once whatever the number of processes.

        Those of the running averages come with them, as `eval_ema_accuracy`.
        """
        started = time.perf_counter()
        show_average(self.optimizer)
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        metrics = self._metrics(rows, metric_key_prefix)
        metrics |= self.keeping.scored(self.model, lambda name: self._metrics(rows, f"{metric_key_prefix}_{name}"))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.outside_seconds += time.perf_counter() - started
        return metrics

    def _evaluate(
        self, trial: object, ignore_keys_for_eval: list[str] | None, skip_scheduler: bool = False
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

    def _keep_best(self) -> None:
        """Of the best epoch's weights, which the model has now, and the averages keep what validation prefers."""
        started = time.perf_counter()
        self.kept, self.candidates = self.keeping.choose(self.model, self.state, self._score)
        self.outside_seconds += time.perf_counter() - started

    def _score(self) -> float:
        return self._metrics(self.eval_dataset, "eval")[f"eval_{self.args.metric_for_best_model}"]

    def logits(self, rows: Dataset) -> np.ndarray:
        """Logits (N, C) of encoded rows, computed in shares by all processes; every process gets all of them."""
        mine = np.arange(self.args.process_index, len(rows), self.args.world_size)
        share = rows.select(mine)
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

    def trained_model(self) -> nn.Module:
        """The model as it was given: without the process group's wrapper, and computing in its own precision again.

        Accelerate leaves autocast inside `forward`; metrics and parity taken from such a model are bfloat16's.
        """
        return self.accelerator.unwrap_model(self.model_wrapped, keep_fp32_wrapper=False)

    # Time

    def train(self, resume_from_checkpoint: str | None = None) -> None:
        """As the Trainer's; then refuses weights that are not finite, and measures the loop without evaluation and saving.

        A run that was killed after its last checkpoint takes no further step; the Trainer's would, when it had stopped
        early or in the middle of an epoch.
        """
        self._started = time.perf_counter()
        if resume_from_checkpoint is not None:
            self._seconds_before = seconds_until(Path(resume_from_checkpoint))
        try:
            flash = self.unpadded and flash_fits(self.args.device, self._autocast)
            with (
                flash_attention(self.model) if flash else nullcontext(),
                # Before the shortcuts, which leave alone a layer whose parts do otherwise than their class.
                self.mixout.active() if self.mixout is not None else nullcontext(),
                self.shortcuts.taken(self.model),
            ):
                if resume_from_checkpoint is not None and is_over(saved_state(Path(resume_from_checkpoint))):
                    self._restore_best(Path(resume_from_checkpoint))
                else:
                    super().train(resume_from_checkpoint=resume_from_checkpoint)
                    show_average(self.optimizer)
                # Not in a rehearsal, which saves nothing.
                if self.args.load_best_model_at_end:
                    self._keep_best()
        finally:
            if self.sparse_words is not None:
                self.sparse_words.end()
        self.all_loop_seconds = self._loop_seconds_until(time.perf_counter())
        self.loop_seconds = self.all_loop_seconds - self._seconds_before
        check_weights(self.model.parameters())
        if self.rows_trained:
            self.utilisation = self._measured()

    def _loop_seconds_until(self, now: float) -> float:
        return self._seconds_before + now - self._started - self.outside_seconds

    def _measured(self) -> Utilisation | None:
        """What the loop did, against what the hardware can."""
        passes = (1 if self.second_pass is None else 2) * (2 if self.r_drop else 1)
        return measure(
            self.model,
            rows=Rows(self.train_dataset, columns_of(self.inputs, labels=False)),
            collate=self.collate,
            lengths=self.inputs.lengths(self.train_dataset),
            rows_trained=passes * self.rows_trained,
            pictures={shape: passes * rows for shape, rows in self._pictures.items()},
            seconds=self.loop_seconds,
            dtype=self._autocast or torch.float32,
        )

    def _restore_best(self, last: Path) -> None:
        self.state = saved_state(last)
        best = self.state.best_global_step or self.state.global_step
        # Named anew: the run's folder may have been moved.
        self.state.best_model_checkpoint = str(last.with_name(f"checkpoint-{best}"))
        self._load_best_model()
        self.keeping.load(last)
        # No step follows, but which weights trained is told by those that were taken, see `unfreezing`.
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
