"""Contrastive learning of images by augmentation (SimCLR, arXiv:2002.05709).

Legend: B rows, N views, two of each row, D width.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import MinLen

from hf_finetune.augmentation.compose import ImageAugmentation
from hf_finetune.augmentation.image.color import ColorJitter, Grayscale
from hf_finetune.augmentation.image.geometry import Flip, ResizedCrop
from hf_finetune.augmentation.image.quality import Blur
from hf_finetune.pretraining.objectives.base import Objective, Predicts, Task
from hf_finetune.utils.config import Count, Operations, Positive, configclass

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import nn
    from transformers import PreTrainedModel

    from hf_finetune.data.inputs import EpochRows, ImageInputs, Inputs
    from hf_finetune.training.hooks import Batch, Collate

# The augmentations of the paper (arXiv:2002.05709, appendix A), at full strength.
TWO_VIEWS = (ResizedCrop(), Flip(), ColorJitter(0.8, 0.8, 0.8, hue=0.2, p=0.8), Grayscale(p=0.2), Blur())


@configclass
class SimCLR(Objective):
    """For images of all families: contrast two augmented views of an image with the other images of its forward pass
    (arXiv:2002.05709). The loss depends on how a step is cut into forward passes."""

    temperature: Positive = 0.1
    """Divides the cosines of views."""
    projection: Count = 128
    """Outputs of the two layers that replace the head during pretraining."""
    augment: Annotated[Operations[ImageAugmentation], MinLen(1)] = TWO_VIEWS
    """Operations that make the views, as in `data.augment`. By default crops, flips, colors and blur, as in the paper;
    leave out Flip if a mirror image may belong to another class: digits, letters, signs."""

    predicts: ClassVar[Predicts] = "views"
    # The base rate of MoCo v3, which contrasts views with AdamW (arXiv:2104.02057) and multiplies it by rows / 256;
    # SimCLR's paper uses LARS. Not measured here.
    learning_rate: ClassVar[float] = 1.5e-4
    compares_rows: ClassVar[bool] = True

    def task(self, network: PreTrainedModel, inputs: Inputs, rows: Dataset, example: dict[str, Any], seed: int) -> Task:
        """Replace the head by a projection, see `Objective.task`."""
        from hf_finetune.data.image_processing import check_augmentable
        from hf_finetune.data.inputs import ImageInputs
        from hf_finetune.pretraining.models import replace_head

        assert isinstance(inputs, ImageInputs), "checked: an objective for images"
        check_augmentable(inputs.processor, rows["image"], "pretrain.objective SimCLR")
        replace_head(network, self.projection, seed=seed)
        return SimCLRTask(self, network, inputs, seed)


class SimCLRTask(Task):
    """Contrasts two views of an image with the other images of its forward pass, by a classifier's new head."""

    objective: SimCLR
    inputs: ImageInputs

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Compute NT-Xent between the two views of each row, summed."""
        one_BD, other_BD = model(pixel_values=batch["pixel_values"]).logits.chunk(2)
        return nt_xent(one_BD, other_BD, temperature=self.objective.temperature).sum()

    def dataset(self, encoded: Dataset) -> tuple[EpochRows, Collate]:
        """Return two views of each image, the first views of a batch before the second."""
        from hf_finetune.augmentation.online import TwoViews, collate_two_views

        views = TwoViews(encoded, self.inputs, self.objective.augment, self.seed)
        return views, partial(collate_two_views, self.inputs)


def nt_xent(one_BD: torch.Tensor, other_BD: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Compute NT-Xent: the cross-entropy of finding each view's partner among all other views (arXiv:2002.05709).

    In contrast, `training.losses.contrastive` looks for it only among the second views.

    Args:
        one_BD, other_BD: embeddings of two views of the same rows.
        temperature: divides the cosines.

    Returns:
        Shape (B,), in nats: the mean over a row's two views.
    """
    import torch
    from torch.nn import functional as F

    views_ND = F.normalize(torch.cat([one_BD, other_BD]).float(), dim=-1)
    itself_NN = torch.eye(len(views_ND), dtype=torch.bool, device=views_ND.device)
    scores_NN = (views_ND @ views_ND.T / temperature).masked_fill(itself_NN, -torch.inf)
    other_N = torch.arange(len(views_ND), device=views_ND.device).roll(len(one_BD))
    return F.cross_entropy(scores_NN, other_N, reduction="none").view(2, -1).mean(0)
