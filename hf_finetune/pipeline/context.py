"""A run before its first step: what was loaded, and what follows from it and the recipe."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_finetune.augmentation.augmenter import Augmenter, population_of
from hf_finetune.augmentation.generative.paraphraser import Paraphraser
from hf_finetune.config.recipe import Distill, Recipe
from hf_finetune.data.batching import StepBatches
from hf_finetune.data.inputs import Inputs, TextInputs
from hf_finetune.data.loading import Splits
from hf_finetune.data.sampling import class_draw, class_quotas
from hf_finetune.data.unlabeled import PretrainingRows, labeled_rows
from hf_finetune.distillation.config import DistillationKind, EmbeddingKind, FeatureKind, searches_layers
from hf_finetune.distillation.teachers import Teachers
from hf_finetune.distillation.trainer import DistillationLoss
from hf_finetune.models.heads.pooling import width_of
from hf_finetune.models.kernels.shortcuts import Shortcuts
from hf_finetune.models.kernels.unpadded import use_unpadded
from hf_finetune.models.patches import Shrink
from hf_finetune.models.surgery.inner import SetAttention
from hf_finetune.models.surgery.skip_layers import LayerDrop, StochasticDepth
from hf_finetune.training import precision, warm_start
from hf_finetune.training.arguments import default_learning_rate
from hf_finetune.training.losses.classification import WeightedLoss
from hf_finetune.training.losses.config import log_shares
from hf_finetune.training.optim.config import AdamW
from hf_finetune.training.optim.rate_groups import Rates
from hf_finetune.training.optim.schedule_config import Course, course
from hf_finetune.training.regularization.elastic_net import penalised

# On a CPU a step of pictures is cut into forward passes of about so many tokens: 8 pictures at a time instead of 32 trained
# a ViT-small at 224 pixels 1.37 times as fast on two cores (its activations fit the caches, and are not mapped anew).
CPU_FORWARD_TOKENS = 2048


def augmentation_of(recipe: Recipe, splits: Splits, device: torch.device) -> Augmenter:
    """What changes the recipe's training rows, on these data; the trainer adds how far the training is."""
    population = population_of(splits.train, splits.labels)
    paraphrase = Paraphraser(device, recipe.batching.cache_gb)
    return Augmenter(recipe.data.augment, recipe.train.seed, population, paraphrase)


@dataclass(frozen=True)
class Prepared:
    """Everything a run needs before its first step; `pipeline.setup.prepare` makes it."""

    recipe: Recipe
    splits: Splits
    inputs: Inputs
    model: nn.Module
    fresh: tuple[str, ...]
    """Modules that the checkpoint did not have."""
    device: torch.device
    mixed_precision: str
    base_model: str | None
    """The checkpoint's Hub id, if it is known."""
    weights: str
    """The checkpoint's commit on the Hub, or the SHA-256 of its weights; where none of them is used, of its config."""
    notes: tuple[str, ...]
    processes: int
    shrink: Shrink | None = None
    """How pictures are made smaller in the first part of the training."""
    base_changed: str | None = None
    """What makes another network of the checkpoint, than which an adapter by itself could not be used."""
    picture_tokens: int | None = None
    """Patches of a picture."""
    teachers: Teachers | None = None
    """Released once they have been asked; None: there is none."""
    teacher: str | None = None
    """What the teacher's answers depend on, see `distillation.teachers.Teacher.weights`; None: there is no teacher."""
    unlabelled: PretrainingRows | None = None
    """What is pretrained on first; None: nothing."""
    started_from: dict[str, Any] | None = None
    """The run whose model is the checkpoint: its `name`, `labels` and `method`; None: no run's is."""

    @property
    def changes_every_epoch(self) -> bool:
        """Whether the training rows look different in every epoch."""
        data = self.recipe.data
        return bool(data.augment) and data.augment_copies == 0

    @property
    def why_no_cache(self) -> str | None:
        """Why no activations of frozen layers are to be kept; None: they may be."""
        recipe = self.recipe
        if not recipe.batching.cache_prefix:
            return "batching.cache_prefix is off"
        if self.changes_every_epoch or recipe.objective.mix or self.shrink is not None or recipe.model.patch_drop:
            return "the training rows change from step to step"
        if self.compares_insides:
            return "objective.kinds compares states of all layers with the teacher's"
        return None

    @property
    def kinds(self) -> tuple[DistillationKind, ...]:
        """What the student is to have of its teacher; (): there is none."""
        return self.recipe.objective.kinds if isinstance(self.recipe.objective, Distill) else ()

    @property
    def compares_insides(self) -> bool:
        """Whether the teacher is asked for more than its answers. Then nothing of the student's forward pass is left out."""
        return any(isinstance(kind, FeatureKind) for kind in self.kinds)

    @property
    def searches_layers(self) -> bool:
        """Whether which layers of student and teacher go together is told by both before training."""
        return any(map(searches_layers, self.kinds))

    @property
    def compares_rows(self) -> bool:
        """Whether what a row costs depends on the rows beside it in a forward pass."""
        return any(isinstance(kind, EmbeddingKind) and kind.compares_rows for kind in self.kinds)

    @property
    def augmentation(self) -> Augmenter | None:
        """What changes the training rows; None: nothing."""
        return augmentation_of(self.recipe, self.splits, self.device) if self.recipe.data.augment else None

    def goes_unpadded(self) -> bool:
        """Whether training goes without padding, see `models.kernels.unpadded.use_unpadded`.

        Raises:
            InputError: it was asked for and cannot be.
        """
        adapter, reason = self.recipe.adapter, ""
        if self.recipe.objective.r_drop:
            reason = "objective.r_drop sends every row through twice, and a packed batch cannot be doubled"
        if self.recipe.objective.mix:
            reason = "objective.mix lays one text over another, and in a packed row they stand one behind the other"
        if adapter is not None and adapter.is_prompt_learning:
            reason = "prompts cannot be put before every text of a packed row"
        if self.compares_insides:
            reason = "objective.kinds compares tokens with the teacher's row by row"
        if any(isinstance(step, LayerDrop | StochasticDepth) for step in self.recipe.model.surgery):
            reason = "model.surgery passes layers by for each row, and all rows of a packed batch are one"
        return isinstance(self.inputs, TextInputs) and use_unpadded(
            self.recipe.batching.unpadded,
            self.model,
            device=self.device,
            autocast=self.autocast,
            reason=reason,
        )

    def batches(self, lengths: np.ndarray | None) -> StepBatches:
        """The optimiser steps of the run, given the tokens of each training row.

        Raises:
            InputError: see `StepBatches`.
        """
        batching = self.recipe.batching
        _, accumulation, rows_per_step = self.micro_batch
        return StepBatches(
            len(self.splits.train),
            rows_per_step=rows_per_step,
            accumulation=accumulation,
            lengths=lengths if batching.by_length else None,
            token_budget=batching.token_budget,
            draw=class_draw(self.splits.train, batching.sampling),
            seed=self.recipe.train.seed,
            processes=self.processes,
        )

    @property
    def rows_per_class(self) -> np.ndarray:
        """Training rows of each class, shape (C,); those without a label are of none."""
        return np.bincount(labeled_rows(self.splits.train)["label"], minlength=len(self.splits.labels))

    @property
    def drawn_per_class(self) -> np.ndarray:
        """Rows of each class in an epoch, shape (C,): others than there are where `batching.sampling` draws them."""
        return class_quotas(self.rows_per_class, self.recipe.batching.sampling)

    @property
    def class_weights(self) -> tuple[float, ...] | None:
        """What a row's loss is multiplied with, by its class; None: nothing.

        Raises:
            InputError: a weight for what is no class.
        """
        weights = self.recipe.objective.class_weights
        return None if weights is None else weights(self.drawn_per_class.tolist(), self.splits.labels)

    @property
    def class_shifts(self) -> tuple[float, ...] | None:
        """What is added to the logits in training, by class; None: nothing."""
        tau = self.recipe.objective.logit_adjustment
        return tuple(tau * share for share in log_shares(self.drawn_per_class.tolist())) if tau else None

    @property
    def loss(self) -> WeightedLoss | DistillationLoss:
        """The recipe's loss, see `training.losses.classification`; beside a teacher of both, see `distillation.trainer`."""
        objective, weights, shifts = self.recipe.objective, self.class_weights, self.class_shifts
        labels = WeightedLoss(
            partial(objective.loss, label_smoothing=objective.label_smoothing),
            weights_C=None if weights is None else torch.tensor(weights, device=self.device),
            shift_C=None if shifts is None else torch.tensor(shifts, device=self.device),
        )
        match objective:
            case Distill(kinds=kinds, labels_weight=weight):
                return DistillationLoss(labels, weight, kinds)
            case _:
                return labels

    def penalised(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters that `regularize.elastic_net` is on, of the model as it trains.

        Raises:
            InputError: see `elastic_net.penalised`.
        """
        wanted = self.recipe.regularize.elastic_net
        return penalised(model, wanted.parameters) if wanted.on else {}

    @property
    def kernels(self) -> precision.Kernels:
        """What runs unless the start-up probe finds something faster."""
        wanted = self.recipe.precision
        return precision.Kernels(
            mixed_precision=self.mixed_precision,
            float32_matmul="highest" if wanted.float32_matmul == "auto" else wanted.float32_matmul,
            attention=self.model.config._attn_implementation,
            threads=wanted.threads or torch.get_num_threads(),
        )

    @property
    def free_kernels(self) -> frozenset[str]:
        """Fields of `kernels` that the probe may choose: those that neither the recipe nor the launcher names."""
        wanted = self.recipe.precision
        left = {
            "mixed_precision": wanted.mixed_precision == "auto" and not precision.launched(),
            "float32_matmul": wanted.float32_matmul == "auto",
            "attention": self.recipe.model.attn_implementation is None
            and not any(isinstance(step, SetAttention) for step in self.recipe.model.surgery),
            # One process alone would be timed on the cores of all.
            "threads": wanted.threads is None and self.processes == 1,
        }
        return frozenset(name for name, is_left in left.items() if is_left)

    @property
    def autocast(self) -> torch.dtype | None:
        """Dtype of the matrix products while training and choosing."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.mixed_precision)

    @property
    def learning_rate(self) -> float:
        """Peak learning rate of the run."""
        recipe = self.recipe
        plain_lora = recipe.method == "lora" and recipe.adapter is None and recipe.lora.variant == "plain"
        is_text = isinstance(self.inputs, TextInputs)
        return recipe.train.learning_rate or default_learning_rate(
            recipe.trained,
            recipe.task,
            recipe.optim.optimizer,
            from_scratch=recipe.model.from_config is not None,
            plain_lora_width=width_of(self.model.config) if plain_lora and is_text else None,
        )

    @property
    def head_fit(self) -> warm_start.Fit:
        """How the head is fitted before training, and when."""
        train, default = self.recipe.train, warm_start.default_fit(self.recipe.trained)
        strength, least = train.head_inverse_strength, train.head_least_explained
        return warm_start.Fit(
            default.inverse_strength if strength is None else strength,
            default.least_explained if least is None else least,
        )

    @property
    def course(self) -> Course:
        """The learning rate's schedule."""
        train = self.recipe.train
        return course(
            train.lr_scheduler_type,
            self.recipe.schedule,
            warmup_steps=train.warmup_steps,
            optimizer=self.recipe.optim.optimizer,
        )

    @property
    def rates(self) -> Rates:
        """How learning rates differ between parameters."""
        optim = self.recipe.optim
        return Rates(optim.head_learning_rate, optim.layer_decay, optim.lora_plus_ratio, self.fresh)

    @property
    def shortcuts(self) -> Shortcuts:
        """What training computes in another way than the library does."""
        model = self.recipe.model
        # A layer that is computed again for its gradient would find the pass's mask drawn, and other numbers after it.
        fast_dropout = model.fast_dropout and not self.recipe.train.checkpoints_activations
        return Shortcuts(fast_dropout, model.fused_layers, model.fused_projections)

    @property
    def sparse_embeddings(self) -> bool:
        """Whether the words that occur train alone; only our own AdamW can do so."""
        optim = self.recipe.optim
        wanted = optim.word_embeddings == "sparse" and isinstance(optim.optimizer, AdamW)
        if not isinstance(self.inputs, TextInputs):
            # Not every network of pictures names what stands there in place of word embeddings (EfficientNet).
            return False
        if self.processes > 1 and self.device.type == "cuda":
            # NCCL does not add up sparse gradients.
            return False
        if self.changes_every_epoch:
            # Typing errors and synonyms bring words that are in no row.
            return False
        table = self.model.get_input_embeddings()
        if not wanted or self.recipe.adapts or not isinstance(table, nn.Embedding) or not table.weight.requires_grad:
            return False
        # Of the words that occur the optimiser keeps the weights itself: what else changes the table would be undone.
        return not any(p is table.weight for p in self.penalised(self.model).values())

    @property
    def micro_batch(self) -> tuple[int, int, int]:
        """Rows of a forward pass, forward passes per step and process, rows of a step."""
        train, wanted = self.recipe.train, self.recipe.batching.rows_per_step
        rows, accumulation = train.per_device_train_batch_size, train.gradient_accumulation_steps
        if wanted is None:
            wanted = rows * accumulation * self.processes
        else:
            rows = min(rows, -(-wanted // self.processes))
            accumulation = -(-wanted // (rows * self.processes))
        if self.device.type == "cpu" and self.picture_tokens is not None and not self.compares_rows:
            steps = -(-len(self.splits.train) // wanted)
            smallest_share = len(self.splits.train) // steps // self.processes // accumulation
            # Rows that are mixed need another beside them.
            most = smallest_share // (2 if self.recipe.objective.mix else 1)
            parts = max(1, min(-(-rows * self.picture_tokens // CPU_FORWARD_TOKENS), most))
            rows, accumulation = -(-rows // parts), accumulation * parts
        return rows, accumulation, wanted
