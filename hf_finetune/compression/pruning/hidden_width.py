"""Narrower hidden states of the whole network, which need training afterwards."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import cast

from transformers import PreTrainedConfig, PreTrainedModel

from hf_finetune.compression.pruning.networks import why_no_layers
from hf_finetune.compression.steps import Step, StepRows
from hf_finetune.errors import InputError
from hf_finetune.models.heads.custom import CustomHeadClassifier
from hf_finetune.models.kernels.narrow_last_layer import narrow_to_first_token
from hf_finetune.models.modules import without_adapter
from hf_finetune.models.surgery.hidden_width import NarrowHidden
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.utils.config import OpenFraction, configclass


@configclass
class PruneHiddenWidth(Step):
    """Keep the most important features of a token, see `models.surgery.hidden_width.NarrowHidden`.

    A LayerNorm does not commute with a rotation of the features, so that no other features can take their part: what is
    removed is lost, and the network has to train afterwards.
    """

    name = "hidden-width"
    share: OpenFraction = 0.25
    """Share of the features of a token that is removed, rounded to whole features of each attention head."""

    def refusal(self, classifier: TrainedModel) -> str | None:
        """Refuse networks that have no single width, or not this one."""
        if (why := why_no_layers(classifier)) is not None:
            return why
        model = without_adapter(classifier.model)
        if isinstance(model, CustomHeadClassifier):
            return "its head is none of transformers', which builds the network again with fewer features"
        try:
            self._surgery(model.config).update_config(copy.deepcopy(model.config))
        except InputError as error:
            return str(error).removeprefix("model.surgery: NarrowHidden: ")
        return None

    def row_passes(self, rows: StepRows) -> int:
        """Return its cost: none."""
        return 0

    def apply(self, classifier: TrainedModel, rows: StepRows) -> TrainedModel:
        """Return the narrower classifier."""
        model = cast(PreTrainedModel, classifier.model)
        model = self._surgery(model.config)(model)
        narrow_to_first_token(model)
        return replace(classifier, model=model)

    def _surgery(self, config: PreTrainedConfig) -> NarrowHidden:
        """Return the operation, which refuses families without one width."""
        fields = config.to_dict()
        heads = fields.get("num_attention_heads") or 1
        width = fields.get("hidden_size") or heads
        return NarrowHidden(width=heads * max(1, round(width * (1 - self.share) / heads)))
