"""The candidates of `compress`: sensible chains of steps and a format, the most promising first."""

from __future__ import annotations

from collections.abc import Iterator

from hf_finetune.compression.formats import Onnx, Safetensors
from hf_finetune.compression.pruning.feed_forward import PruneFeedForward
from hf_finetune.compression.pruning.layers import PruneLayers
from hf_finetune.compression.pruning.vocabulary import TrimVocabulary
from hf_finetune.compression.recovery import Distill
from hf_finetune.compression.steps import Chain, Format, Step
from hf_finetune.models.families import FAMILIES, depth_of
from hf_finetune.models.modules import without_adapter
from hf_finetune.tasks.trained_model import TrainedModel

FLOAT: Format = Safetensors()
INT8: Format = Onnx("int8")
EXACT = Chain((), Onnx())
"""The candidate that loses nothing, whatever the rows: a graph in float32. It counts if it is faster or smaller."""
SMOOTHED = 0.5
"""The usual share of `Onnx.smooth`."""
SHARES = (1 / 3, 1 / 2)
"""Of the layers that are dropped."""


def chains_of(classifier: TrainedModel) -> tuple[Chain, ...]:
    """Return the candidates for a classifier, in the order in which they are tried: with little time the last ones are
    left out.

    A step that does not apply is left out of the others, and stays as a candidate by itself, for its reason.
    """
    chains = dict.fromkeys(_chains(classifier))
    return tuple(chain for chain in chains if chain.steps or chain.format != FLOAT)


def in_other_formats(best: Chain, *, is_size_limited: bool) -> tuple[Chain, ...]:
    """Return the network of the best candidate in the formats that may be better still, and as a checkpoint.

    Args:
        is_size_limited: 4 bits for each weight are the smallest, and compute in float32.
    """
    formats: list[Format] = [Onnx("int8-static"), Onnx("int8", smooth=SMOOTHED), FLOAT]
    formats += [Onnx("int4-weights")] if is_size_limited else []
    return tuple(Chain(best.steps, each) for each in formats if best.steps or each != FLOAT)


def safest(classifier: TrainedModel) -> Chain:
    """Return the candidate that is smaller and loses the least, where no other one is within the limits."""
    return Chain(_applied(classifier, TrimVocabulary()), Onnx("float16"))


def _chains(classifier: TrainedModel) -> Iterator[Chain]:
    vocabulary, neurons, layers = TrimVocabulary(), PruneFeedForward(), _layers(classifier)
    trimmed = _applied(classifier, vocabulary)
    yield Chain((), INT8)
    yield Chain(trimmed, INT8)
    # The joint ones, the middle one first: it shows whether it is worth removing more, or less.
    for more in ((layers[0],), (), *((each,) for each in layers[1:])):
        yield Chain(_applied(classifier, vocabulary, neurons, *more, Distill()), INT8)
    yield Chain(trimmed, FLOAT)
    for step in (vocabulary, neurons, layers[0]):
        if step.refusal(classifier) is not None:
            yield Chain((step,), FLOAT)


def _applied(classifier: TrainedModel, *steps: Step) -> tuple[Step, ...]:
    """Return the steps that apply; none if training alone is left, as nothing was pruned."""
    fitting = tuple(step for step in steps if step.refusal(classifier) is None)
    return () if fitting == (Distill(),) else fitting


def _layers(classifier: TrainedModel) -> tuple[PruneLayers, ...]:
    """Return the steps that drop layers; one of a network without layers says why it does not apply."""
    config = without_adapter(classifier.model).config
    depth = depth_of(config) if config.model_type in FAMILIES else 1
    return tuple(PruneLayers(drop=max(1, int(share * depth))) for share in SHARES)
