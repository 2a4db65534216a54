"""The candidates of `compress`: sensible chains of steps and a format, the most promising first."""

from __future__ import annotations

from collections.abc import Iterator

from hf_finetune.compression.formats import OnnxInt8, Safetensors
from hf_finetune.compression.pruning.feed_forward import PruneFeedForward
from hf_finetune.compression.pruning.layers import PruneLayers
from hf_finetune.compression.pruning.vocabulary import TrimVocabulary
from hf_finetune.compression.recovery import Distill
from hf_finetune.compression.steps import Chain, Format, Step
from hf_finetune.models.families import FAMILIES, depth_of
from hf_finetune.models.modules import without_adapter
from hf_finetune.tasks.trained_model import TrainedModel

FLOAT: Format = Safetensors()
INT8: Format = OnnxInt8()
SHARES = (1 / 2, 2 / 3)
"""Of the layers that are dropped."""


def chains_of(classifier: TrainedModel) -> tuple[Chain, ...]:
    """Return the candidates for a classifier, in the order in which they are tried: with little time the last ones are
    left out.

    A step that does not apply is left out of the others, and stays as a candidate by itself, for its reason.
    """
    chains = dict.fromkeys(_chains(classifier))
    return tuple(chain for chain in chains if chain.steps or chain.format != FLOAT)


def _chains(classifier: TrainedModel) -> Iterator[Chain]:
    def applied(*steps: Step) -> tuple[Step, ...]:
        fitting = tuple(step for step in steps if step.refusal(classifier) is None)
        # What is left of a chain without pruning needs no training.
        return () if fitting == (Distill(),) else fitting

    vocabulary, neurons = TrimVocabulary(), PruneFeedForward()
    halved, further = (applied(vocabulary, neurons, each, Distill()) for each in _layers(classifier))
    narrow = applied(vocabulary, neurons, Distill())
    yield Chain((), INT8)
    yield Chain(applied(vocabulary), INT8)
    # The joint ones.
    yield Chain(halved, INT8)
    yield Chain(narrow, INT8)
    yield Chain(further, INT8)
    yield Chain(halved, FLOAT)
    yield Chain(narrow, FLOAT)
    yield Chain(applied(vocabulary), FLOAT)
    for step in (vocabulary, neurons, _layers(classifier)[0]):
        if step.refusal(classifier) is not None:
            yield Chain((step,), FLOAT)


def _layers(classifier: TrainedModel) -> tuple[PruneLayers, ...]:
    """Return the steps that drop layers; one of a network without layers says why it does not apply."""
    config = without_adapter(classifier.model).config
    depth = depth_of(config) if config.model_type in FAMILIES else 1
    return tuple(PruneLayers(drop=max(1, int(share * depth))) for share in SHARES)
