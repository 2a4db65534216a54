"""The Trainer, with exact gradients, honest losses and our batches.

What differs from `transformers.Trainer`, and why, stands at each method.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.optimizer import AcceleratedOptimizer
from datasets import Dataset
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from hf_finetune.data.batching import EpochLoader, StepBatches
from hf_finetune.data.inputs import Inputs, Rows, TextInputs, columns_of, with_labels
from hf_finetune.data.sampling import Sampling, draw_of
from hf_finetune.data.tokens import ids_that_occur
from hf_finetune.errors import InputError, TrainingError
from hf_finetune.evaluation.inference import predict_logits
from hf_finetune.models import adapter_state, dropout, projections
from hf_finetune.models.patches import Shrink
from hf_finetune.models.unpadded import accept_packed, flash_attention, flash_fits
from hf_finetune.training import optimizers, schedules
from hf_finetune.training.averaging import Averages, Weights, put_in, swapped
from hf_finetune.training.checkpoints import is_over, saved_state
from hf_finetune.training.flops import Utilisation, measure, patches
from hf_finetune.training.losses import CROSS_ENTROPY, WeightedLoss, symmetric_kl
from hf_finetune.training.mixout import Mixout
from hf_finetune.training.optim import clip_gradients
from hf_finetune.training.optimizer_choices import AdamW, Muon, Optimizer
from hf_finetune.training.rate_groups import Rates, rate_groups, rates_in_words
from hf_finetune.training.schedule_choices import Course
from hf_finetune.training.schedule_free import ScheduleFreeAdamW
from hf_finetune.training.sharpness import RandomState, Sharpness, climbed
from hf_finetune.training.soup import Candidate, Soup, best_of

logger = logging.getLogger("hf_finetune.run")
NOT_FINITE = (
    "the loss is not a number (or infinite): lower train.learning_rate, use --mixed-precision no, or look at the data"
)


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
        unpadded: batches of texts end to end, for a model that `models.unpadded.use_unpadded` allows.
        shrink: makes pictures smaller in the first `shrink_share` of all optimiser steps.
        loss: sum over the rows of a micro-batch, see `losses`.
        r_drop: send every row through twice, and add this times `losses.symmetric_kl` of the two answers to the mean of
            their losses (arXiv:2106.14448). Not with `unpadded`.
        mixout: mixes pretrained weights in, see `mixout.Mixout`.
        sampling: which rows make an epoch, see `data.sampling.class_quotas`.
        fast_dropout: on a CPU, dropout as in `models.dropout`.
        fused_projections: on a CPU, attention as in `models.projections`.
        optimizer: which optimiser; the learning rate and the weight decay are those of `args`.
        course: the learning rate's schedule. None: that of `args`.
        rates: how learning rates differ between parameters.
        sparse_embeddings: update the word embeddings of the words that occur, see `optim.VocabularyAdamW`.
        sharpness: take gradients where the loss nearby is worst, see `training.sharpness`.
        averages: running averages of the weights; those that validation prefers are kept, see `kept`.
        soup: averages the scored epochs after the last step, likewise.
        penalty: added to the mean loss of every step, whatever its micro-batches: AdaLoRA's, see `rank_schedule`.

    Raises:
        InputError: when `args` holds a Hub token (it would be pickled with the arguments).
    """

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
        loss: WeightedLoss = CROSS_ENTROPY,
        r_drop: float = 0.0,
        mixout: Mixout | None = None,
        sampling: Sampling = "none",
        fast_dropout: bool = True,
        fused_projections: bool = True,
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
            compute_loss_func=partial(_mean_over_step, loss=loss, r_drop=r_drop, penalty=penalty),
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
        assert not (unpadded and r_drop), "a packed batch cannot be doubled"
        self.r_drop, self.mixout, self.sampling = r_drop, mixout, sampling
        self.fast_dropout = fast_dropout and args.device.type == "cpu"
        self.fused_projections = fused_projections and args.device.type == "cpu"
        self.optimizer_choice, self.course, self.rates = optimizer, course, rates
        self.word_embeddings = self.model.get_input_embeddings() if sparse_embeddings else None
        if self.word_embeddings is not None:
            assert isinstance(inputs, TextInputs), "only texts have words"
            assert isinstance(optimizer, AdamW), "the others take dense gradients"
            self.word_embeddings.sparse = True
        self.sharpness = sharpness
        self._micro_batches: list[dict[str, Any]] = []
        self._before_step = RandomState(args.device)
        self.averages, self.soup = averages, soup
        self.candidates: list[Candidate] = []
        self.kept: Candidate | None = None
        self._all_finite = torch.tensor(True, device=args.device)
        self.rows_trained, self.tokens_trained, self.loop_seconds = 0, 0, 0.0
        self.outside_seconds = 0.0
        self.utilisation: Utilisation | None = None
        self._pictures: Counter[tuple[int, ...]] = Counter()

    # Batches

    def get_train_dataloader(self) -> EpochLoader:
        """Our batch sampler knows its process; Accelerate must not shard it again (that doubles or loses rows)."""
        sampler = StepBatches(
            len(self.train_dataset),
            rows_per_step=self.rows_per_step,
            accumulation=self.args.gradient_accumulation_steps,
            lengths=self.inputs.lengths(self.train_dataset) if self.by_length else None,
            token_budget=self.token_budget,
            draw=draw_of(self.train_dataset, self.sampling),
            seed=self.args.seed,
            process=self.args.process_index,
            processes=self.args.world_size,
        )
        return EpochLoader(
            Rows(self.train_dataset, columns_of(self.inputs, labels=True)),
            batch_sampler=sampler,
            collate_fn=partial(with_labels, self.collate),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.device.type == "cuda",
            # Its own generator: making an iterator must not draw from the one that dropout uses.
            generator=torch.Generator().manual_seed(self.args.seed),
        )

    # Optimiser and schedule

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The chosen one; the Trainer knows only groups that decay and groups that do not, at one rate."""
        if self.optimizer is None:
            args, choice = self.args, self.optimizer_choice
            groups = rate_groups(
                self.model,
                lr=args.learning_rate,
                weight_decay=args.weight_decay,
                rates=self.rates,
                split_matrices=isinstance(choice, Muon),
            )
            table = rows = None
            if self.word_embeddings is not None:
                assert isinstance(self.inputs, TextInputs)
                occurring = np.union1d(ids_that_occur(self.train_dataset), self.inputs.tokenizer.pad_token_id)
                table, rows = self.word_embeddings.weight, torch.from_numpy(occurring)
            if len({group["lr"] for group in groups}) > 1:
                logger.info("peak learning rates: %s", rates_in_words(groups))
            self.optimizer = optimizers.build(choice, groups, lr=args.learning_rate, table=table, rows=rows)
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

    def _show_average(self) -> None:
        """A schedule-free optimiser puts its average into the model, until the next step: that is judged and saved."""
        optimizer = self.optimizer
        inner = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
        if isinstance(inner, ScheduleFreeAdamW):
            inner.eval()

    # Loss

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """As the Trainer's, remembering on the device whether every loss so far was finite (no wait for the device)."""
        # By the step alone, so that a run that was resumed does as one that was not.
        if self.shrink is not None and self.state.global_step < self.shrink_share * self.state.max_steps:
            inputs["pixel_values"] = self.shrink(inputs["pixel_values"])
        self.rows_trained += len(inputs["labels"])
        # Counted before the batch goes to the device: nobody waits. No mask: every token is real.
        if "attention_mask" in inputs:
            self.tokens_trained += int(inputs["attention_mask"].sum())
        elif "input_ids" in inputs:
            self.tokens_trained += inputs["input_ids"].numel()
        elif "inputs_embeds" in inputs:
            self.tokens_trained += inputs["inputs_embeds"].shape[:2].numel()
        elif "pixel_values" in inputs:
            shape = tuple(inputs["pixel_values"].shape[1:])
            self._pictures[shape] += len(inputs["labels"])
            self.tokens_trained += len(inputs["labels"]) * patches(self.model.config, shape)
        if self.mixout is not None:
            self.mixout.step = self.state.global_step
        if self.sharpness is not None:
            if not self._micro_batches:
                self._before_step = RandomState(self.args.device)
            self._micro_batches.append(inputs)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._all_finite &= torch.isfinite(loss)
        if self.sharpness is not None and self.accelerator.sync_gradients:
            self._second_pass(model, num_items_in_batch, self.sharpness)
        return loss

    def _second_pass(
        self, model: nn.Module, num_items_in_batch: torch.Tensor | int | None, sharpness: Sharpness
    ) -> None:
        """Replace the step's gradient, now complete and averaged over all processes, by the one after the climb.

        Over the same micro-batches with the same random numbers: climb and gradient are of one function, that of the
        network with this step's dropout, and what is drawn later is as without. Clipping comes after it.
        """
        self._before_step.restore()
        micro_batches, self._micro_batches = self._micro_batches, []
        with climbed(model.parameters(), sharpness):
            model.zero_grad()
            for inputs in micro_batches:
                is_last = inputs is micro_batches[-1]
                with nullcontext() if is_last else self.accelerator.no_sync(model=model):
                    self._all_finite &= torch.isfinite(super().training_step(model, inputs, num_items_in_batch))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """As the Trainer's; for R-Drop with every row twice, in one pass: each has its own part of the dropout masks."""
        if self.r_drop:
            inputs = {name: x if name == "labels" else torch.cat([x, x]) for name, x in inputs.items()}
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        if self.word_embeddings is None:
            return super()._clip_grad_norm(model)
        self.accelerator.unscale_gradients()
        return clip_gradients(model.parameters(), self.args.max_grad_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: torch.Tensor | float | None = None) -> torch.Tensor | float:
        """Without clipping the Trainer's takes the norm itself, and knows no row-sparse gradients."""
        if grad_norm is None and self.word_embeddings is not None:
            self.accelerator.unscale_gradients()
            grad_norm = clip_gradients(model.parameters(), float("inf"))
        return super()._get_grad_norm(model, grad_norm=grad_norm)

    def _refuse_not_finite(self) -> None:
        """Called by all processes at the same points: each of them stops, whichever met the loss."""
        if self.args.world_size > 1:
            finite = self._all_finite.float()
            torch.distributed.all_reduce(finite, torch.distributed.ReduceOp.MIN)
            self._all_finite = finite.bool()
        if not self._all_finite:
            raise TrainingError(f"step {self.state.global_step}: {NOT_FINITE}")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Stop at the first logged loss that is not finite; the Trainer would log 0 in its place and go on."""
        self._refuse_not_finite()
        super().log(logs, start_time)

    # Saving

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Nothing is saved once a loss was not finite."""
        self._refuse_not_finite()
        super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        started = time.perf_counter()
        self._show_average()
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            if self.averages is not None:
                self.averages.save(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")
            if self.soup is not None and self.state.global_step in self._scores():
                self.soup.add(self.model, self.state.global_step)
        self.outside_seconds += time.perf_counter() - started

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Weights by the names under which `load_state_dict` looks for them.

        The Trainer's checkpoints of ViT, DINOv2, Swin and their kin hold the names of former versions, which it does not
        find again: the best epoch is not restored, and a run that is resumed goes on with pretrained layers.
        """
        folder = Path(output_dir or self.args.output_dir)
        if isinstance(self.model, PreTrainedModel):
            self.model.save_pretrained(
                folder, state_dict=state_dict, is_main_process=self.args.should_save, save_original_format=False
            )
        else:
            assert isinstance(self.model, PeftModel), "a model of transformers, or an adapter on one"
            adapter_state.save_state(self.model, folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """As the Trainer's; adapters by `adapter_state`, for peft's format does not go on with every method."""
        if isinstance(self.model, PeftModel):
            adapter_state.load_state(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        # First: the average would be computed of the loaded weights.
        self._show_average()
        if isinstance(self.model, PeftModel) and self.state.best_model_checkpoint is not None:
            adapter_state.load_state(self.model, Path(self.state.best_model_checkpoint))
        else:
            super()._load_best_model()

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """A checkpoint that lacks some of the weights is refused; the Trainer goes on with what the model had before."""
        lacking = set(load_result.missing_keys) - set(self.model._keys_to_ignore_on_save or ())
        if lacking and isinstance(self.model, PreTrainedModel):
            raise InputError(
                f"{self.args.output_dir}: the newest checkpoint lacks {len(lacking)} of the model's weights "
                f"({min(lacking)}, ...); start the run anew in another --output"
            )
        super()._issue_warnings_after_load(load_result)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.averages is not None and checkpoint is not None:
            self.averages.load(Path(checkpoint), self.args.device)

    # Validation

    def evaluate(
        self, eval_dataset: Dataset | None = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Metrics of the validation rows, each row scored once whatever the number of processes.

        Those of the running averages come with them, as `eval_ema_accuracy`.
        """
        started = time.perf_counter()
        self._show_average()
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        metrics = self._metrics(rows, metric_key_prefix)
        # To score them, too, draws nothing from the numbers that training goes on with.
        drawn = RandomState(self.args.device)
        for name in [] if self.averages is None else self.averages.begun():
            with swapped(self.model, self.averages.means[name]):
                metrics |= self._metrics(rows, f"{metric_key_prefix}_{name}")
        drawn.restore()
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
        if not np.isfinite(logits).all():
            raise TrainingError(f"step {self.state.global_step}: the model's outputs are not numbers; {NOT_FINITE}")
        values = self.metrics(np.asarray(rows["label"][:]), logits)
        return {f"{prefix}_{name}": float(value) for name, value in values.items()}

    def _scores(self, average: str | None = None) -> dict[int, float]:
        """The metric that chooses, by step: of the weights themselves, or of one of their averages."""
        key = "_".join(filter(None, ("eval", average, self.args.metric_for_best_model)))
        return {line["step"]: line[key] for line in self.state.log_history if key in line}

    def _keep_best(self) -> None:
        """Of the best epoch's weights, which the model has now, and the averages keep what validation prefers."""
        started, state, greater = time.perf_counter(), self.state, bool(self.args.greater_is_better)
        if state.best_global_step is None or state.best_metric is None:
            return  # No epoch has a score: the last weights stay.
        self.candidates = [Candidate("checkpoint", (state.best_global_step,), state.best_metric)]
        found: dict[str, Weights] = {}
        if self.averages is not None:
            for name in sorted(self.averages.kinds.keys() - self.averages.begun()):
                logger.warning("averaging: the run ended at step %d, before its %s began", state.global_step, name)
            for name in self.averages.begun():
                score = self._scores(name)[state.global_step]
                self.candidates.append(Candidate(name, (state.global_step,), score))
                found[name] = self.averages.means[name]
        if self.soup is not None:
            soup, found["soup"] = self.soup.cook(self._scores(), self._score_of, greater_is_better=greater)
            self.candidates.append(soup)
        self.kept = best_of(self.candidates, greater_is_better=greater)
        if self.kept.is_average:
            put_in(self.model, found[self.kept.weights])
        self.outside_seconds += time.perf_counter() - started

    def _score_of(self, weights: Weights) -> float:
        with swapped(self.model, weights):
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
        if self.args.world_size == 1:
            return part
        parts: list[Any] = [None] * self.args.world_size
        torch.distributed.all_gather_object(parts, part)
        whole = np.empty((len(rows), part.shape[1]), dtype=part.dtype)
        for process, logits in enumerate(parts):
            whole[process :: self.args.world_size] = logits
        return whole

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
        started = time.perf_counter()
        try:
            flash = self.unpadded and flash_fits(self.args.device, self._autocast)
            with (
                flash_attention(self.model) if flash else nullcontext(),
                dropout.fast_dropout(self.model) if self.fast_dropout else nullcontext(),
                projections.fused_projections(self.model) if self.fused_projections else nullcontext(),
                self.mixout.active() if self.mixout is not None else nullcontext(),
            ):
                if resume_from_checkpoint is not None and is_over(saved_state(Path(resume_from_checkpoint))):
                    self._restore_best(Path(resume_from_checkpoint))
                else:
                    super().train(resume_from_checkpoint=resume_from_checkpoint)
                    self._show_average()
                # Not in a rehearsal, which saves nothing.
                if self.args.load_best_model_at_end:
                    self._keep_best()
        finally:
            if self.word_embeddings is not None:
                self.word_embeddings.sparse = False
        self.loop_seconds = time.perf_counter() - started - self.outside_seconds
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters() if p.requires_grad):
            raise TrainingError(f"after the last step some weights are not finite; {NOT_FINITE}")
        if self.rows_trained:
            passes = (1 if self.sharpness is None else 2) * (2 if self.r_drop else 1)
            self.utilisation = measure(
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
        if self.averages is not None:
            self.averages.load(last, self.args.device)


def _mean_over_step(
    outputs: Any,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    *,
    loss: WeightedLoss,
    r_drop: float,
    penalty: Callable[[], torch.Tensor] | None,
) -> torch.Tensor:
    """This micro-batch's share of the mean loss over the rows of the whole step (all processes, all accumulation)."""
    if r_drop:
        one, other = outputs.logits.chunk(2)
        total = 0.5 * (loss(one, labels) + loss(other, labels)) + r_drop * symmetric_kl(one, other)
    else:
        total = loss(outputs.logits, labels)
    if penalty is not None:
        # By the share of the rows, so that a step has it once.
        total = total + len(labels) * penalty()
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)
