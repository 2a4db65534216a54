"""Fewer layers: those are dropped that change the hidden states least, or whose loss changes the logits least.

Legend: B rows, T tokens, C classes, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.compression.calibration import Batch, logits_of, real_tokens
from hf_finetune.compression.pruning.calibrated_step import CalibratedStep
from hf_finetune.compression.pruning.networks import why_no_layers
from hf_finetune.compression.steps import StepRows
from hf_finetune.errors import InputError
from hf_finetune.evaluation.logits import evaluating, to_device
from hf_finetune.models.families import depth_of, family_of
from hf_finetune.models.heads.custom import CustomHeadClassifier
from hf_finetune.models.kernels.narrow_last_layer import all_tokens, narrow_to_first_token
from hf_finetune.models.modules import without_adapter
from hf_finetune.models.surgery.layers import DropLayers
from hf_finetune.models.surgery.rebuild import layer_names
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.training.precision import exact_float32
from hf_finetune.utils.config import Count, configclass


@configclass
class PruneLayers(CalibratedStep):
    """Drop layers one after the other, each time the one that the rest needs least."""

    name = "layers"
    drop: Count = 1
    """Number of layers to drop."""
    importance: Literal["logits", "similarity"] = "logits"
    """How the rest is judged. logits: by the mean squared change of the logits without the layer. similarity: by the
    cosine of what enters and leaves the layer (ShortGPT, arXiv:2403.03853), in one pass."""

    @property
    def amount(self) -> float:
        """The number of layers."""
        return self.drop

    def refusal(self, classifier: TrainedModel) -> str | None:
        """Refuse networks without layers that can be dropped."""
        if (why := why_no_layers(classifier)) is not None:
            return why
        model = without_adapter(classifier.model)
        if isinstance(model, CustomHeadClassifier):
            return "its head is none of transformers', which builds the network again with fewer layers"
        if family_of(model.config).shared:
            return f"the layers of {model.config.model_type} share their weights"
        if self.drop >= (depth := depth_of(model.config)):
            return f"it has {depth} layers, of which {depth - 1} can be dropped at most"
        return None if _droppable(model) else f"no layer of this {model.config.model_type} can be dropped alone"

    def row_passes(self, rows: StepRows) -> int:
        """Return its cost: a pass for each layer that may be dropped, each time."""
        return (1 + 8 * self.drop) * len(rows.calibration)

    def pruned(self, model: PreTrainedModel, batches: Sequence[Batch]) -> PreTrainedModel:
        """Return a model of fewer layers.

        Raises:
            InputError: no further layer can be dropped.
        """
        expected = logits_of(model, batches)
        for _ in range(self.drop):
            if not (candidates := _droppable(model)):
                raise InputError("layers: no further layer can be dropped; drop fewer")
            model = self._without_one(model, candidates, batches, expected)
        return model

    def _without_one(
        self, model: PreTrainedModel, candidates: Sequence[int], batches: Sequence[Batch], expected: torch.Tensor
    ) -> PreTrainedModel:
        if self.importance == "similarity":
            changes = layer_changes(model, batches)
            return without_layer(model, min(candidates, key=lambda number: changes[number]))
        smaller = [without_layer(model, number) for number in candidates]
        return min(smaller, key=lambda each: float((logits_of(each, batches) - expected).square().mean()))


def without_layer(model: PreTrainedModel, number: int) -> PreTrainedModel:
    """Return a model without one of its layers; the model itself stays as it is."""
    smaller = DropLayers(layers=(number,))(model)
    narrow_to_first_token(smaller)
    return smaller


def layer_changes(model: PreTrainedModel, batches: Sequence[Batch]) -> list[float]:
    """Return for each layer 1 - the mean cosine of a token before and after it."""
    sums: dict[str, float] = {}
    tokens: dict[str, int] = {}
    mask_BT: torch.Tensor | None = None

    def hook(name: str) -> Any:
        def add(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
            after = output[0] if isinstance(output, tuple) else output
            before, after = real_tokens(inputs[0], mask_BT), real_tokens(after, mask_BT)
            sums[name] = sums.get(name, 0.0) + float((1 - nn.functional.cosine_similarity(before, after, -1)).sum())
            tokens[name] = tokens.get(name, 0) + len(before)

        return add

    names = layer_names(model, model.state_dict())
    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        with evaluating(model), torch.no_grad(), exact_float32(), all_tokens(model):
            for batch in batches:
                mask_BT = batch.get("attention_mask")
                model(**to_device(batch, model.device))
    finally:
        for handle in handles:
            handle.remove()
    return [sums[name] / tokens[name] for name in names]


def _droppable(model: PreTrainedModel) -> list[int]:
    """Return the layers without which the config still describes the network."""

    def is_possible(number: int) -> bool:
        try:
            DropLayers(layers=(number,)).updated_config(model)
        except InputError:
            return False
        return True

    return [number for number in range(depth_of(model.config)) if is_possible(number)]
