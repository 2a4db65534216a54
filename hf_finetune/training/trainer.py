"""The Trainer, with exact gradients, honest losses and our batches.

What differs from `transformers.Trainer`, and why, stands at each method.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from hf_finetune.data.batching import EpochLoader, StepBatches
from hf_finetune.data.inputs import Inputs, Rows, TextInputs, columns_of, with_labels
from hf_finetune.data.tokens import ids_that_occur
from hf_finetune.errors import InputError, TrainingError
from hf_finetune.evaluation.inference import predict_logits
from hf_finetune.models.dropout import fast_dropout
from hf_finetune.models.patches import Shrink
from hf_finetune.models.unpadded import accept_packed, flash_attention, flash_fits
from hf_finetune.training.checkpoints import is_over, saved_state
from hf_finetune.training.flops import Utilisation, measure, patches
from hf_finetune.training.losses import cross_entropy
from hf_finetune.training.optim import VocabularyAdamW, clip_gradients

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
        label_smoothing: see `losses.cross_entropy`.
        quick_dropout: on a CPU, dropout as in `models.dropout`.
        sparse_embeddings: update the word embeddings of the words that occur, see `optim.VocabularyAdamW`.

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
        label_smoothing: float = 0.0,
        quick_dropout: bool = True,
        sparse_embeddings: bool = False,
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
            compute_loss_func=partial(_mean_over_step, label_smoothing=label_smoothing),
            callbacks=list(callbacks),
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
        self.quick_dropout = quick_dropout and args.device.type == "cpu"
        self.word_embeddings = self.model.get_input_embeddings() if sparse_embeddings else None
        if self.word_embeddings is not None:
            assert isinstance(inputs, TextInputs), "only texts have words"
            self.word_embeddings.sparse = True
            _, settings = self.get_optimizer_cls_and_kwargs(args, self.model)
            rows = torch.from_numpy(np.union1d(ids_that_occur(train_rows), inputs.tokenizer.pad_token_id))
            settings |= {"table": self.word_embeddings.weight, "rows": rows}
            self.optimizer_cls_and_kwargs = VocabularyAdamW, settings
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
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._all_finite &= torch.isfinite(loss)
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        if self.word_embeddings is None:
            return super()._clip_grad_norm(model)
        self.accelerator.unscale_gradients()
        return clip_gradients(model.parameters(), self.args.max_grad_norm)

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
        super()._save_checkpoint(model, trial)
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
            super()._save(output_dir, state_dict)
            # A pickle of every argument, tokens included; nothing of ours reads it.
            (folder / "training_args.bin").unlink(missing_ok=True)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """A checkpoint that lacks some of the weights is refused; the Trainer goes on with what the model had before."""
        lacking = set(load_result.missing_keys) - set(self.model._keys_to_ignore_on_save or ())
        if lacking and isinstance(self.model, PreTrainedModel):
            raise InputError(
                f"{self.args.output_dir}: the newest checkpoint lacks {len(lacking)} of the model's weights "
                f"({min(lacking)}, ...); start the run anew in another --output"
            )
        super()._issue_warnings_after_load(load_result)

    # Validation

    def evaluate(
        self, eval_dataset: Dataset | None = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Metrics of the validation rows, each row scored once whatever the number of processes."""
        started = time.perf_counter()
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        logits = self.logits(rows)
        if not np.isfinite(logits).all():
            raise TrainingError(f"step {self.state.global_step}: the model's outputs are not numbers; {NOT_FINITE}")
        values = self.metrics(np.asarray(rows["label"][:]), logits)
        metrics = {f"{metric_key_prefix}_{name}": float(value) for name, value in values.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.outside_seconds += time.perf_counter() - started
        return metrics

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
        if resume_from_checkpoint is not None and is_over(saved_state(Path(resume_from_checkpoint))):
            self._restore_best(Path(resume_from_checkpoint))
        else:
            flash = self.unpadded and flash_fits(self.args.device, self._autocast)
            with (
                flash_attention(self.model) if flash else nullcontext(),
                fast_dropout(self.model) if self.quick_dropout else nullcontext(),
            ):
                super().train(resume_from_checkpoint=resume_from_checkpoint)
        self.loop_seconds = time.perf_counter() - started - self.outside_seconds
        if self.word_embeddings is not None:
            self.word_embeddings.sparse = False
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters() if p.requires_grad):
            raise TrainingError(f"after the last step some weights are not finite; {NOT_FINITE}")
        if self.rows_trained:
            self.utilisation = measure(
                self.model,
                rows=Rows(self.train_dataset, columns_of(self.inputs, labels=False)),
                collate=self.collate,
                lengths=self.inputs.lengths(self.train_dataset),
                rows_trained=self.rows_trained,
                pictures=self._pictures,
                seconds=self.loop_seconds,
                dtype=self._autocast or torch.float32,
            )

    def _restore_best(self, last: Path) -> None:
        self.state = saved_state(last)
        best = self.state.best_global_step or self.state.global_step
        # Named anew: the run's folder may have been moved.
        self.state.best_model_checkpoint = str(last.with_name(f"checkpoint-{best}"))
        self._load_best_model()


def _mean_over_step(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None, *, label_smoothing: float
) -> torch.Tensor:
    """This micro-batch's share of the mean loss over the rows of the whole step (all processes, all accumulation)."""
    total = cross_entropy(outputs.logits, labels, label_smoothing=label_smoothing)
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)
