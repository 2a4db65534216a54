"""Fewer neurons in the feed-forward networks.

Legend: N neurons, K rows of the first layer per neuron (2 for gated units).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_finetune.compression.calibration import Batch
from hf_finetune.compression.pruning.config import Importance
from hf_finetune.compression.pruning.group_step import PruneGroups
from hf_finetune.compression.pruning.networks import why_no_layers
from hf_finetune.compression.pruning.sites import Site
from hf_finetune.compression.steps import StepRows
from hf_finetune.errors import InputError
from hf_finetune.models.families import family_of
from hf_finetune.models.modules import submodule, without_adapter
from hf_finetune.models.surgery.feed_forward import ResizeFeedForward, importance
from hf_finetune.models.surgery.rebuild import layer_names
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.utils.config import Count, OpenFraction, configclass


@configclass
class PruneFeedForward(PruneGroups):
    """Remove neurons of the feed-forward networks, from the lowest layer up, so that each makes up for those below.

    With the same number in all layers it stays a plain checkpoint of transformers.
    """

    name = "feed-forward"
    share: OpenFraction = 0.5
    """Share of the neurons of each layer that is removed."""
    importance: Importance = "reconstruction"
    """How the neurons that remain are chosen."""
    reconstruct: bool = True
    """Solve for their output weights by least squares on calibration rows."""
    widths: tuple[Count, ...] = ()
    """In place of `share`: neurons that remain in each layer, bottom to top. The config of a checkpoint has one number
    for all layers: with several the network can only be exported."""

    @property
    def amount(self) -> float:
        """The share of neurons."""
        return self.share

    def refusal(self, classifier: TrainedModel) -> str | None:
        """Refuse networks whose neurons are not those of linear layers with a field of their number."""
        if (why := why_no_layers(classifier)) is not None:
            return why
        model = without_adapter(classifier.model)
        network = family_of(model.config).feed_forward
        if network is None:
            return f"no field of {model.config.model_type}'s config says how wide its feed-forward networks are"
        layers = layer_names(model, model.state_dict())
        downs = [model.get_submodule(f"{layer}.{network.down}") for layer in layers]
        neurons = [down.in_features for down in downs if isinstance(down, nn.Linear)]
        if len(neurons) < len(downs):
            return f"the feed-forward networks of {model.config.model_type} are convolutions"
        if self.widths and (
            len(self.widths) != len(layers)
            or any(width > most for width, most in zip(self.widths, neurons, strict=True))
        ):
            return f"expected widths of {len(layers)} layers up to {neurons}, got {list(self.widths)}"
        try:
            self._update_config(copy.deepcopy(model.config))
        except InputError as error:
            return str(error).removeprefix("model.surgery: ResizeFeedForward: ")
        return None

    def row_passes(self, rows: StepRows) -> int:
        """Return its cost: half a pass and the products of the neurons, as much again, for each layer."""
        return 8 * len(rows.calibration)

    def sites(self, model: PreTrainedModel) -> list[Site]:
        """Return the feed-forward networks."""
        network = family_of(model.config).feed_forward
        assert network is not None, "see refusal"
        sites = []
        for name in layer_names(model, model.state_dict()):
            neurons = submodule(model, f"{name}.{network.down}", nn.Linear).in_features
            sites.append(Site((f"{name}.{network.up}",), f"{name}.{network.down}", neurons, gates=network.gates))
        return sites

    def remaining(self, sites: Sequence[Site]) -> list[int]:
        """Return the number of neurons that remain in each layer."""
        return list(self.widths) or [site.kept(self.share) for site in sites]

    def scores(
        self, model: PreTrainedModel, batches: Sequence[Batch], sites: Sequence[Site]
    ) -> list[torch.Tensor | None]:
        """Return the importance of the neurons, see `GroupPruning.scores`; magnitude is that of surgery."""
        if self.importance != "magnitude":
            return super().scores(model, batches, sites)
        return [_magnitude(submodule(model, s.writers[0], nn.Linear), s.reading(model), s.gates) for s in sites]

    def describe(self, model: PreTrainedModel, counts: Sequence[int]) -> None:
        """Write the number of neurons to the config, if it is one number for all layers."""
        self._update_config(model.config)

    def _update_config(self, config: PreTrainedConfig) -> None:
        """Set the number of neurons.

        Raises:
            InputError: the family's config cannot express it.
        """
        family = family_of(config)
        assert family.feed_forward is not None, "see refusal"
        if len(set(self.widths)) > 1 or (self.widths and family.staged):
            return  # no config can: `networks.why_not_stock` says so
        if family.staged:
            ResizeFeedForward(ratio=1 - self.share).update_config(config)
            return
        before = getattr(config, family.feed_forward.width)
        before *= config.hidden_size if family.feed_forward.width == "mlp_ratio" else 1
        width = self.widths[0] if self.widths else max(1, round(before * (1 - self.share)))
        ResizeFeedForward(width=width).update_config(config)


def widths_of(model: PreTrainedModel) -> tuple[int, ...]:
    """Return the number of neurons of each layer, bottom to top."""
    return tuple(site.groups for site in PruneFeedForward().sites(model))


def _magnitude(up: nn.Linear, down: nn.Linear, gates: int) -> torch.Tensor:
    """Return the importance of neurons as surgery has it, (N,)."""
    incoming = [up.weight] if up.bias is None else [up.weight, up.bias]
    rows_KN = [weight.detach().cpu().unflatten(0, (gates, -1)) for weight in incoming]
    return importance(rows_KN, down.weight.detach().cpu())
