"""Gradual removal of neurons or attention heads in a training by the logits of the source."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Literal, cast

import torch
from transformers import PreTrainedModel

from hf_finetune.compression.pruning.feed_forward import PruneFeedForward
from hf_finetune.compression.pruning.group_step import PruneGroups
from hf_finetune.compression.pruning.hard_concrete import HardConcrete
from hf_finetune.compression.pruning.heads import PruneHeads
from hf_finetune.compression.pruning.linear import keep_inputs
from hf_finetune.compression.pruning.masks import LearnedMasks, masked
from hf_finetune.compression.pruning.movement import Movement
from hf_finetune.compression.pruning.sites import keep_features
from hf_finetune.compression.recovery import Distill
from hf_finetune.compression.steps import Step, StepRows
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.utils.config import OpenFraction, configclass


@configclass
class PruneGradually(Step):
    """Remove more and more neurons or heads of each layer while the weights train, and choose them by this training.

    The loss is that of `Distill`. A tenth of the training has all of them, and the last three tenths those that remain.
    """

    name = "gradual"
    part: Literal["feed-forward", "heads"] = "feed-forward"
    """What is removed: neurons of the feed-forward networks, or attention heads."""
    score: Literal["movement", "gates"] = "movement"
    """How they are chosen. movement: their weights move away from zero (arXiv:2005.07683). gates: factors that are
    learned with the weights, most of which become exactly 0 or 1 (arXiv:1712.01312, arXiv:2204.00408)."""
    share: OpenFraction = 0.5
    """Share of each layer that is removed."""
    training: Distill = Distill(epochs=3.0)
    """Epochs, learning rate and rows."""

    @property
    def label(self) -> str:
        """`heads-movement`, with the share that is not the default."""
        return super().label.replace(self.name, f"{self.part}-{self.score}", 1)

    def refusal(self, classifier: TrainedModel) -> str | None:
        """Refuse what the removal in one shot refuses."""
        return self._groups.refusal(classifier)

    def row_passes(self, rows: StepRows) -> int:
        """Return its cost: that of the training."""
        return self.training.row_passes(rows)

    def apply(self, classifier: TrainedModel, rows: StepRows) -> TrainedModel:
        """Return the pruned and trained classifier."""
        model = cast(PreTrainedModel, copy.deepcopy(classifier.model))
        sites = self._groups.sites(model)
        kind = Movement if self.score == "movement" else HardConcrete
        masks = kind(sites, self.share, next(model.parameters()).device)
        student = replace(classifier, model=model)
        with masked(model, masks):
            self.training.train(student, rows, masks)
        masks.settle()
        remove_masked(model, masks)
        self._groups.describe(model, self._groups.remaining(sites))
        return student

    @property
    def _groups(self) -> PruneGroups:
        return PruneFeedForward(share=self.share) if self.part == "feed-forward" else PruneHeads(share=self.share)


@torch.no_grad()
def remove_masked(model: PreTrainedModel, masks: LearnedMasks) -> None:
    """Remove the groups whose mask is 0, and multiply the weights that read the others by theirs."""
    for site, mask_G in zip(masks.sites, masks.masks, strict=True):
        kept_M = site.features(mask_G.nonzero().flatten().cpu())
        reader = keep_inputs(site.reading(model), kept_M)
        reader.weight *= mask_G.repeat_interleave(site.size)[kept_M.to(mask_G.device)]
        keep_features(model, site, reader, kept_M)
