"""What the removal of neurons and that of attention heads have in common."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from hf_finetune.compression.calibration import Batch
from hf_finetune.compression.pruning.calibrated_step import CalibratedStep
from hf_finetune.compression.pruning.config import Importance
from hf_finetune.compression.pruning.groups import GroupPruning
from hf_finetune.compression.pruning.sites import Site, keep_features


class PruneGroups(CalibratedStep):
    """Remove groups of features from the lowest layer up, so that each layer makes up for those below."""

    importance: Importance
    reconstruct: bool

    @abstractmethod
    def sites(self, model: PreTrainedModel) -> list[Site]:
        """Return where the groups are, bottom to top."""

    @abstractmethod
    def remaining(self, sites: Sequence[Site]) -> list[int]:
        """Return the number of groups that remain in each place."""

    @abstractmethod
    def describe(self, model: PreTrainedModel, counts: Sequence[int]) -> None:
        """Write the number of groups to the config of a pruned network, if a config can say it."""

    def scores(
        self, model: PreTrainedModel, batches: Sequence[Batch], sites: Sequence[Site]
    ) -> list[torch.Tensor | None]:
        """Return the importance of the groups, see `GroupPruning.scores`."""
        return GroupPruning(self.importance, self.reconstruct).scores(model, batches, sites)

    def pruned(self, model: PreTrainedModel, batches: Sequence[Batch]) -> PreTrainedModel:
        """Return a copy of a model with fewer groups."""
        model = copy.deepcopy(model)
        sites = self.sites(model)
        counts, scores = self.remaining(sites), self.scores(model, batches, sites)
        method = GroupPruning(self.importance, self.reconstruct)
        for site, count, scores_G in zip(sites, counts, scores, strict=True):
            if count < site.groups:
                reader, kept_M = method.prune(model, batches, site, count, scores_G)
                keep_features(model, site, reader, kept_M)
        self.describe(model, counts)
        return model
