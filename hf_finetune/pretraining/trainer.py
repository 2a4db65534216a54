"""The trainer of further pretraining: as a classifier's, but without labels, judged by the loss of held-out rows.

What is learned is a `Task`, one for each objective. Legend: B rows, T tokens, M tokens to be predicted, V tokens of the
vocabulary, D width, P patches, M also patches that are left out, C channels, H and W pixels, E values of a patch's pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import TrainingArguments
from transformers.utils import ModelOutput

from hf_finetune.augmentation.online import TwoViews, collate_two_views
from hf_finetune.data.batching import StepBatches
from hf_finetune.data.inputs import EpochRows, ImageInputs, Inputs, Rows, TextInputs
from hf_finetune.evaluation.logits import cast, evaluating, to_device
from hf_finetune.models.freezing import as_in_training
from hf_finetune.models.heads.pooling import masked_mean
from hf_finetune.models.loading import seeded
from hf_finetune.models.patches import cut
from hf_finetune.pretraining.config import MAE, SimCLR, SimCSE, SimMIM
from hf_finetune.pretraining.losses import masked_pixels, masked_tokens, nt_xent, unseen_patches
from hf_finetune.pretraining.masking import (
    NOT_ASKED,
    MaskedRows,
    Masking,
    collate_counted,
    collate_pictures,
    collate_texts,
    masked_pictures,
    masked_texts,
)
from hf_finetune.training.flops import Utilization
from hf_finetune.training.hooks import Batch, Collate
from hf_finetune.training.losses.contrastive import contrastive
from hf_finetune.training.setup import TrainingSetup
from hf_finetune.training.trainer import ClassifierTrainer

HELD_OUT = "held_out_loss"
"""Name of the metric that chooses the epoch."""
# The same words and patches are left out of held-out rows after each epoch, and they have the same views: those of an epoch that
# training never comes to.
EPOCH_OF_HELD_OUT = 2**32 - 1


class Task(ABC):
    """What a model learns of rows without labels."""

    inputs: Inputs

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss of a micro-batch, summed over its labels but those that are `NOT_ASKED`. A scalar."""

    def rows(self, encoded: Dataset) -> EpochRows:
        """Encoded rows as the loader reads them."""
        return Rows(encoded, self.inputs.columns)

    @property
    def collate(self) -> Collate:
        """What makes a micro-batch of them."""
        return partial(collate_counted, self.inputs)

    def scoring(self, model: nn.Module) -> AbstractContextManager[None]:
        """The model as it is while held-out rows are scored."""
        return evaluating(model)


class PretrainingTrainer(ClassifierTrainer):
    """Trains an encoder, with what the objective puts on it, on rows without labels.

    Args:
        model, args, setup: see `ClassifierTrainer`; the metric of `args` is `HELD_OUT`.
        task: what is learned.
    """

    def __init__(self, model: nn.Module, args: TrainingArguments, setup: TrainingSetup, task: Task) -> None:
        super().__init__(model, args, setup)
        self.task = task

    def _training_rows(self, sampler: StepBatches) -> EpochRows:
        return self.task.rows(self.train_dataset)

    def _training_collate(self) -> Collate:
        return self.task.collate

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """This micro-batch's share of the mean over the whole step, of which each process takes the mean over processes."""
        assert num_items_in_batch is not None and not return_outputs, "called by training_step alone"
        return self.task.loss(model, inputs) * self.args.world_size / num_items_in_batch

    def _metrics(self, rows: Dataset, prefix: str) -> dict[str, float]:
        """The mean loss of held-out rows, shared by all processes. Training's random numbers are left as they are."""
        read, device = self.task.rows(rows), self.args.device
        read.set_epoch(EPOCH_OF_HELD_OUT)
        lengths = self.inputs.lengths(rows)
        order = np.arange(len(rows)) if lengths is None else np.argsort(lengths, kind="stable")
        parts = np.array_split(order, -(-len(order) // self.args.per_device_train_batch_size))
        total = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad(), seeded(self.args.seed), self.task.scoring(self.model), cast(device, self._autocast):
            for part in parts[self.args.process_index :: self.args.world_size]:
                batch = to_device(self.task.collate(read.__getitems__(part.tolist())), device)
                items = int((batch["labels"] != NOT_ASKED).sum())
                total += torch.tensor([float(self.task.loss(self.model, batch)), items], dtype=torch.float64)
        if self.args.world_size > 1:
            total = total.to(device)
            torch.distributed.all_reduce(total)
        return {f"{prefix}_{HELD_OUT}": float(total[0] / total[1])}

    def _measured(self) -> Utilization | None:
        """Not counted: what trains here beside the encoder is no part of the classifier."""
        return None


class MaskedLanguageTask(Task):
    """Words that are left out are predicted; the loss is a mean over their tokens, whatever the micro-batches.

    The head is computed for these tokens alone, a seventh of all: of a small network it is half of the work.

    Args:
        model: a masked language model.
        inputs: of the model.
        masking: what is left out.
    """

    def __init__(self, model: nn.Module, inputs: TextInputs, masking: Masking) -> None:
        self.inputs, self.masking = inputs, masking
        self._asked_BT: torch.Tensor | None = None
        model.base_model.register_forward_hook(self._narrow)

    def _narrow(self, _: nn.Module, __: tuple[Any, ...], output: ModelOutput) -> ModelOutput:
        """States (1, M, D) in place of (B, T, D)."""
        if self._asked_BT is not None:
            output.last_hidden_state = output.last_hidden_state[self._asked_BT][None]
        return output

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """See `Task.loss`."""
        labels_BT = batch["labels"]
        self._asked_BT = labels_BT != NOT_ASKED
        try:
            logits_1MV = model(**{name: x for name, x in batch.items() if name != "labels"}).logits
        finally:
            self._asked_BT = None
        return masked_tokens(logits_1MV[0], labels_BT[labels_BT != NOT_ASKED])

    def rows(self, encoded: Dataset) -> MaskedRows:
        """See `Task.rows`."""
        return masked_texts(encoded, self.inputs, self.masking)

    @property
    def collate(self) -> Collate:
        """See `Task.collate`."""
        return partial(collate_texts, self.inputs)


class SimCSETask(Task):
    """A text is told, under another dropout mask, from the others of its forward pass. The model is an encoder with dropout.

    Args:
        inputs: of the model.
        objective: temperature and pooling.
    """

    def __init__(self, inputs: TextInputs, objective: SimCSE) -> None:
        self.inputs, self.objective = inputs, objective

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """See `Task.loss`."""
        # In one pass, in which each view has its own part of the dropout masks.
        twice = {name: torch.cat([x, x]) for name, x in batch.items() if name != "labels"}
        states_BTD = model(**twice).last_hidden_state
        if self.objective.pooling == "mean":
            vectors_BD = masked_mean(states_BTD, twice.get("attention_mask"))
        else:
            vectors_BD = states_BTD[:, 0]
        return contrastive(*vectors_BD.chunk(2), temperature=self.objective.temperature).sum()

    def scoring(self, model: nn.Module) -> AbstractContextManager[None]:
        """With dropout, which makes the views."""
        return as_in_training(model)


class MaskedImageTask(Task):
    """The pixels of patches that are left out are predicted; the loss is a mean over images of those pixels' differences.

    Args:
        inputs: of the model, a masked image model of the library.
        objective: how much is left out; of MAE in single patches.
        patch: side of a patch in pixels.
        shape: C, H, W of an image.
        seed: of what is left out.
    """

    def __init__(
        self, inputs: ImageInputs, objective: SimMIM | MAE, *, patch: int, shape: tuple[int, ...], seed: int
    ) -> None:
        self.inputs, self.objective, self.patch, self.seed = inputs, objective, patch, seed
        self.grid = (shape[1] // patch, shape[2] // patch)

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """See `Task.loss`."""
        pixels_BCHW, masked_BP = batch["pixel_values"], batch["bool_masked_pos"]
        predicted_BCHW = model(pixel_values=pixels_BCHW, bool_masked_pos=masked_BP).reconstruction
        masked_BHW = masked_BP.view(-1, *self.grid).repeat_interleave(self.patch, 1).repeat_interleave(self.patch, 2)
        return masked_pixels(predicted_BCHW, pixels_BCHW, masked_BHW)

    def rows(self, encoded: Dataset) -> MaskedRows:
        """See `Task.rows`."""
        block = max(1, round(self.objective.block / self.patch)) if isinstance(self.objective, SimMIM) else 1
        share = self.objective.share
        return masked_pictures(encoded, self.inputs, grid=self.grid, block=block, share=share, seed=self.seed)

    @property
    def collate(self) -> Collate:
        """See `Task.collate`."""
        return partial(collate_pictures, self.inputs)


class AutoencoderTask(MaskedImageTask):
    """Patches that the encoder has not seen are predicted; the loss is a mean over images of these patches' differences.

    The model is a `MaskedAutoencoder`.
    """

    objective: MAE

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """See `Task.loss`."""
        pixels_BCHW, left_out_BP = batch["pixel_values"], batch["bool_masked_pos"]
        predicted_BME = model(pixel_values=pixels_BCHW, bool_masked_pos=left_out_BP)
        pixels_BME = cut(pixels_BCHW, self.patch)[left_out_BP].view_as(predicted_BME)
        return unseen_patches(predicted_BME, pixels_BME, normalise=self.objective.normalise)


class SimCLRTask(Task):
    """An image is told, changed in another way, from the others of its forward pass.

    Args:
        inputs: of the model, a classifier whose logits are a projection, see `pretraining.heads.project`.
        objective: temperature, and what makes the views.
        seed: of the views.
    """

    def __init__(self, inputs: ImageInputs, objective: SimCLR, *, seed: int) -> None:
        self.inputs, self.objective, self.seed = inputs, objective, seed

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """See `Task.loss`."""
        one_BD, other_BD = model(pixel_values=batch["pixel_values"]).logits.chunk(2)
        return nt_xent(one_BD, other_BD, temperature=self.objective.temperature).sum()

    def rows(self, encoded: Dataset) -> TwoViews:
        """See `Task.rows`."""
        return TwoViews(encoded, self.inputs, self.objective.augment, self.seed)

    @property
    def collate(self) -> Collate:
        """See `Task.collate`."""
        return partial(collate_two_views, self.inputs)
