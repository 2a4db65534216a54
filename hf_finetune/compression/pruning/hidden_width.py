"""Narrower hidden states of the whole network, which need training afterwards."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import cast

from transformers import PreTrainedModel

from hf_finetune.compression.pruning.networks import why_no_layers
from hf_finetune.compression.steps import Step, StepRows
from hf_finetune.errors import InputError
from hf_finetune.models.heads.custom import CustomHeadClassifier
from hf_finetune.models.kernels.narrow_last_layer import narrow_to_first_token
from hf_finetune.models.modules import without_adapter
from hf_finetune.models.surgery.hidden_width import NarrowHidden
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.utils.config import Count, configclass


@configclass
class PruneHiddenWidth(Step):
    """Keep the most important features of a token, see `models.surgery.hidden_width.NarrowHidden`.

    A LayerNorm does not commute with a rotation of the features, so that no other features can take their part: what is
    removed is lost, and the network has to train afterwards.
    """

    name = "hidden-width"
    width: Count
    """Features of a token that remain: a multiple of the number of attention heads."""

    def refusal(self, classifier: TrainedModel) -> str | None:
        """Refuse networks that have no single width, or not this one."""
        if (why := why_no_layers(classifier)) is not None:
            return why
        model = without_adapter(classifier.model)
        if isinstance(model, CustomHeadClassifier):
            return "its head is none of transformers', which builds the network again with fewer features"
        try:
            NarrowHidden(width=self.width).update_config(copy.deepcopy(model.config))
        except InputError as error:
            return str(error).removeprefix("model.surgery: NarrowHidden: ")
        return None

    def row_passes(self, rows: StepRows) -> int:
        """Return its cost: none."""
        return 0

    def apply(self, classifier: TrainedModel, rows: StepRows) -> TrainedModel:
        """Return the narrower classifier."""
        model = NarrowHidden(width=self.width)(cast(PreTrainedModel, classifier.model))
        narrow_to_first_token(model)
        return replace(classifier, model=model)
