"""Prune groups of features: choose those that remain, and solve for their weights.

Legend: G groups of features, M features that remain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from hf_finetune.compression.calibration import Batch, read_inputs
from hf_finetune.compression.pruning.config import Importance
from hf_finetune.compression.pruning.importance import group_scores
from hf_finetune.compression.pruning.linear import augmented_weight, keep_inputs, with_weights
from hf_finetune.compression.pruning.reconstruction import InputProducts, best_groups, solved_weights
from hf_finetune.compression.pruning.sites import Site

RIDGE = 1e-4
"""Damping of least squares, as a share of the mean square of the inputs."""


@dataclass(frozen=True)
class GroupPruning:
    """How groups of inputs are chosen, and the weights of those that remain."""

    importance: Importance
    reconstruct: bool
    """Solve for the weights of the inputs that remain by least squares on calibration rows. False: as they were."""

    def scores(self, model: nn.Module, batches: Sequence[Batch], sites: Sequence[Site]) -> list[torch.Tensor | None]:
        """Return the importance of the groups of each site, shapes (G,). None: it follows from products.

        `magnitude` is that of the weights that read the group alone.
        """
        layers, groups = [site.reading(model) for site in sites], [site.groups for site in sites]
        match self.importance:
            case "reconstruction":
                return [None] * len(layers)
            case "magnitude":
                sizes = zip(layers, groups, strict=True)
                return [x.weight.detach().cpu().unflatten(1, (number, -1)).norm(dim=(0, 2)) for x, number in sizes]
            case score:
                return [*group_scores(model, batches, layers, groups, score)]

    def prune(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        site: Site,
        keep: int,
        scores_G: torch.Tensor | None,
    ) -> tuple[nn.Linear, torch.Tensor]:
        """Return a reader of the best groups of a site, and the indices of their features, shape (M,).

        Args:
            model: with what is below the site as it will be.
            keep: number of groups that remain.
            scores_G: see `scores`.
        """
        layer = site.reading(model)
        products = _products(model, batches, layer) if self.reconstruct or scores_G is None else None
        if scores_G is None:
            assert products is not None
            kept_G = best_groups(augmented_weight(layer), products, keep, groups=site.groups, size=site.size)
        else:
            kept_G = scores_G.topk(keep).indices.sort().values
        kept_M = site.features(kept_G)
        if products is None or not self.reconstruct:
            return keep_inputs(layer, kept_M), kept_M
        with_bias = torch.cat([kept_M, torch.arange(layer.in_features, len(products))])
        return with_weights(layer, solved_weights(augmented_weight(layer), products, with_bias)), kept_M


def _products(model: nn.Module, batches: Sequence[Batch], layer: nn.Linear) -> torch.Tensor:
    products = InputProducts(layer)
    read_inputs(model, batches, layer, products.add)
    return products.damped(RIDGE)
