"""The trainers of more pretraining: as a classifier's, but without labels, judged by the loss of rows held out.

There is one for each objective. Legend: B rows, T tokens, M tokens to be guessed, V tokens of the vocabulary, D width,
P patches, M also patches that are left out, C channels, H and W pixels, E values of a patch's pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
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
from hf_finetune.data.inputs import EpochRows, ImageInputs, Rows
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
from hf_finetune.training.flops import Utilisation
from hf_finetune.training.losses.contrastive import contrastive
from hf_finetune.training.trainer import ClassifierTrainer

HELD_OUT = "held_out_loss"
"""Name of the metric that chooses the epoch."""
# The same words and patches are left out of held-out rows after each epoch, and they have the same views: those of an epoch that
# training never comes to.
EPOCH_OF_HELD_OUT = 2**32 - 1


def _no_metrics(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    raise AssertionError("there are no labels")


class PretrainingTrainer(ClassifierTrainer, ABC):
    """Trains an encoder, with what the objective puts on it, on rows without labels.

    Args:
        model, args: see `ClassifierTrainer`; the metric of `args` is `HELD_OUT`.
        fields: all others of `ClassifierTrainer` but those of labels.
    """

    def __init__(self, model: nn.Module, args: TrainingArguments, **fields: Any) -> None:
        super().__init__(model, args, metrics=_no_metrics, **fields)

    @abstractmethod
    def _summed(self, model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        """The loss of a micro-batch, summed over its labels but those that are `NOT_ASKED`. A scalar."""

    def _rows(self, rows: Dataset) -> EpochRows:
        """Encoded rows as the loader reads them."""
        return Rows(rows, self.inputs.columns)

    def _training_rows(self) -> EpochRows:
        return self._rows(self.train_dataset)

    def _training_collate(self) -> Callable[[dict[str, list]], dict[str, Any]]:
        return partial(collate_counted, self.inputs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """This micro-batch's share of the mean over the whole step, of which each process takes the mean over processes."""
        assert num_items_in_batch is not None and not return_outputs, "called by training_step alone"
        return self._summed(model, inputs) * self.args.world_size / num_items_in_batch

    def _scoring(self) -> AbstractContextManager[None]:
        """The model as it is while held-out rows are scored."""
        return evaluating(self.model)

    def _metrics(self, rows: Dataset, prefix: str) -> dict[str, float]:
        """The mean loss of held-out rows, shared by all processes. Training's random numbers are left as they are."""
        read, collate, device = self._rows(rows), self._training_collate(), self.args.device
        read.set_epoch(EPOCH_OF_HELD_OUT)
        lengths = self.inputs.lengths(rows)
        order = np.arange(len(rows)) if lengths is None else np.argsort(lengths, kind="stable")
        parts = np.array_split(order, -(-len(order) // self.args.per_device_train_batch_size))
        total = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad(), seeded(self.args.seed), self._scoring(), cast(device, self._autocast):
            for part in parts[self.args.process_index :: self.args.world_size]:
                batch = to_device(collate(read.__getitems__(part.tolist())), device)
                items = int((batch["labels"] != NOT_ASKED).sum())
                total += torch.tensor([float(self._summed(self.model, batch)), items], dtype=torch.float64)
        if self.args.world_size > 1:
            total = total.to(device)
            torch.distributed.all_reduce(total)
        return {f"{prefix}_{HELD_OUT}": float(total[0] / total[1])}

    def _measured(self) -> Utilisation | None:
        """Not counted: what trains here beside the encoder is no part of the classifier."""
        return None


class MaskedLanguageTrainer(PretrainingTrainer):
    """Words that are left out are guessed; the loss is a mean over their tokens, whatever the micro-batches.

    The head is computed for these tokens alone, a seventh of all: of a small network it is half of the work.

    Args:
        model: a masked language model.
        masking: what is left out.
    """

    def __init__(self, model: nn.Module, args: TrainingArguments, *, masking: Masking, **fields: Any) -> None:
        super().__init__(model, args, **fields)
        self.masking = masking
        self._asked_BT: torch.Tensor | None = None
        self.model.base_model.register_forward_hook(self._narrow)

    def _narrow(self, _: nn.Module, __: tuple[Any, ...], output: ModelOutput) -> ModelOutput:
        """States (1, M, D) in place of (B, T, D)."""
        if self._asked_BT is not None:
            output.last_hidden_state = output.last_hidden_state[self._asked_BT][None]
        return output

    def _summed(self, model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        labels_BT = batch["labels"]
        self._asked_BT = labels_BT != NOT_ASKED
        try:
            logits_1MV = model(**{name: x for name, x in batch.items() if name != "labels"}).logits
        finally:
            self._asked_BT = None
        return masked_tokens(logits_1MV[0], labels_BT[labels_BT != NOT_ASKED])

    def _rows(self, rows: Dataset) -> MaskedRows:
        return masked_texts(rows, self.inputs, self.masking)

    def _training_collate(self) -> Callable[[dict[str, list]], dict[str, Any]]:
        return partial(collate_texts, self.inputs)


class ContrastiveTrainer(PretrainingTrainer):
    """A text is told, under another dropout mask, from the others of its forward pass.

    Args:
        model: an encoder that drops out.
        objective: temperature and pooling.
    """

    def __init__(self, model: nn.Module, args: TrainingArguments, *, objective: SimCSE, **fields: Any) -> None:
        super().__init__(model, args, **fields)
        self.objective = objective

    def _summed(self, model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        # In one pass, in which each view has its own part of the dropout masks.
        twice = {name: torch.cat([x, x]) for name, x in batch.items() if name != "labels"}
        states_BTD = model(**twice).last_hidden_state
        if self.objective.pooling == "mean":
            vectors_BD = masked_mean(states_BTD, twice.get("attention_mask"))
        else:
            vectors_BD = states_BTD[:, 0]
        return contrastive(*vectors_BD.chunk(2), temperature=self.objective.temperature).sum()

    def _scoring(self) -> AbstractContextManager[None]:
        """With dropout, which makes the views."""
        return as_in_training(self.model)


class MaskedImageTrainer(PretrainingTrainer):
    """The pixels of patches that are left out are guessed; the loss is a mean over pictures of those pixels' differences.

    Args:
        model: a masked image model of the library.
        objective: how much is left out; of MAE in single patches.
        picture: C, H, W of a picture.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        objective: SimMIM | MAE,
        picture: tuple[int, ...],
        **fields: Any,
    ) -> None:
        super().__init__(model, args, **fields)
        self.objective = objective
        self.patch = int(model.config.patch_size)
        self.grid = (picture[1] // self.patch, picture[2] // self.patch)

    def _summed(self, model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        pixels_BCHW, masked_BP = batch["pixel_values"], batch["bool_masked_pos"]
        guessed_BCHW = model(pixel_values=pixels_BCHW, bool_masked_pos=masked_BP).reconstruction
        masked_BHW = masked_BP.view(-1, *self.grid).repeat_interleave(self.patch, 1).repeat_interleave(self.patch, 2)
        return masked_pixels(guessed_BCHW, pixels_BCHW, masked_BHW)

    def _rows(self, rows: Dataset) -> MaskedRows:
        block = max(1, round(self.objective.block / self.patch)) if isinstance(self.objective, SimMIM) else 1
        share, seed = self.objective.share, self.args.seed
        return masked_pictures(rows, self.inputs, grid=self.grid, block=block, share=share, seed=seed)

    def _training_collate(self) -> Callable[[dict[str, list]], dict[str, Any]]:
        return partial(collate_pictures, self.inputs)


class AutoencoderTrainer(MaskedImageTrainer):
    """Patches that the encoder has not seen are guessed; the loss is a mean over pictures of these patches' differences.

    Args:
        model: a `MaskedAutoencoder`.
        objective: how much is left out, and what of it is guessed.
        picture: C, H, W of a picture.
    """

    objective: MAE

    def _summed(self, model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        pixels_BCHW, left_out_BP = batch["pixel_values"], batch["bool_masked_pos"]
        guessed_BME = model(pixel_values=pixels_BCHW, bool_masked_pos=left_out_BP)
        pixels_BME = cut(pixels_BCHW, self.patch)[left_out_BP].view_as(guessed_BME)
        return unseen_patches(guessed_BME, pixels_BME, normalise=self.objective.normalise)


class ViewsTrainer(PretrainingTrainer):
    """A picture is told, changed in another way, from the others of its forward pass.

    Args:
        model: a classifier whose logits are a projection, see `pretraining_heads.project`.
        objective: temperature, and what makes the views.
    """

    def __init__(self, model: nn.Module, args: TrainingArguments, *, objective: SimCLR, **fields: Any) -> None:
        super().__init__(model, args, **fields)
        self.objective = objective

    def _summed(self, model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        one_BD, other_BD = model(pixel_values=batch["pixel_values"]).logits.chunk(2)
        return nt_xent(one_BD, other_BD, temperature=self.objective.temperature).sum()

    def _rows(self, rows: Dataset) -> TwoViews:
        assert isinstance(self.inputs, ImageInputs), "checked: views are of pictures"
        return TwoViews(rows, self.inputs, self.objective.augment, self.args.seed)

    def _training_collate(self) -> Callable[[dict[str, list]], dict[str, Any]]:
        return partial(collate_two_views, self.inputs)
