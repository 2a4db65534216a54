"""Choose what the head reads of a text's tokens, where `model.pooling` is auto: the first token, or their mean.

A head is fitted to frozen features of one half of some training rows, read in both ways, and judged on the other half.
The mean must be better by a paired test; or not worse, where the checkpoint was trained to be read so. And it must cost
no artifact: the stock class reads it by a field of its config, or by a layer on top that gathers it (`GatherMean`), and
no adapter trains, which loads on the checkpoint as it is. Chunks of long texts have a head of our own in any case.
Elsewhere the stock class's pooling stays, and a note says at what difference.

Legend: N rows, C outputs, D features.
"""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel

from hf_finetune.data.duplicates import first_sources
from hf_finetune.data.inputs import TextInputs
from hf_finetune.data.labels import labels_of
from hf_finetune.data.unlabeled import labeled_rows
from hf_finetune.models.checkpoint import is_mean_of_sentences, is_sentence_encoder
from hf_finetune.models.config import Model
from hf_finetune.models.families import FAMILIES, UNKNOWN, stock_head
from hf_finetune.models.heads.stock import can_switch
from hf_finetune.models.surgery.gather_mean import FAMILIES_WITH_MEAN, GatherMean
from hf_finetune.pipeline.build_model import build_model
from hf_finetune.pipeline.context import RunContext, RunData, RunModel
from hf_finetune.pipeline.frozen_features import draw_rows, frozen_features, held_out_scores
from hf_finetune.training.warm_start import NotOfRows, halves_of
from hf_finetune.utils.messages import silenced

MOST_ROWS = 1_000
"""Rows on which the ways are compared."""
LEAST_ROWS = 100
"""With fewer rows a paired test decides nothing: the checkpoint alone does."""


@dataclass(frozen=True)
class PoolingChoice:
    """What the head reads, and what it was chosen by."""

    chosen: str
    """mean or default."""
    how: str
    """How the network reads it, and what that costs."""
    measured: dict[str, Any] | None
    """Metric of both ways on held-out rows, and their paired difference. None: there are too few rows, or no time."""
    rows: int
    """Rows of the comparison, or all that there are."""
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the section of result.json."""
        return {**vars(self), "seconds": round(self.seconds, 2)}

    def __str__(self) -> str:
        if self.measured is None:
            few = f"{self.rows} rows are too few" if self.rows < LEAST_ROWS else "there is no time"
            why = f"{few} to compare with, and a sentence encoder is trained to be read so"
        else:
            difference = self.measured["difference"]
            name, interval = difference["metric"], "{value:+.3f} [{low:+.3f}, {high:+.3f}]".format(**difference)
            mean, stock = self.measured["mean"][name], self.measured["default"][name]
            why = f"{name} of a head on frozen features {mean:.3f} with the mean, {stock:.3f} with default, {interval}"
        return f"model.pooling auto: {self.chosen}: {why}; {self.how}"


def choose_pooling(
    context: RunContext, data: RunData, *, most_rows: int = MOST_ROWS
) -> tuple[RunContext, PoolingChoice | None]:
    """Return the run with a named pooling in place of auto, and the choice. None: there was none to make.

    Args:
        most_rows: on which there is time to compare the ways. 0: the checkpoint alone decides.
    """
    model = context.recipe.model
    if model.pooling != "auto":
        return context, None
    context = _with_model(context, replace(model, pooling="default"))
    rows = len(labeled_rows(data.splits.train)) if _may_choose(context, data) else 0
    is_compared = most_rows > 0 and rows >= LEAST_ROWS
    if not rows or not (is_compared or is_sentence_encoder(context.checkpoint)):
        return context, None
    started = time.perf_counter()
    network = _network(context, data)
    # A head that comes with the checkpoint was trained on what it reads.
    if not network.fresh or not _reads_first_token(network.network):
        return context, None
    mean = _reading_mean(network.network, context)
    has_own_head = context.recipe.chunk_pooling is not None
    costs_nothing = has_own_head or (_is_stock(network.network, mean) and not context.recipe.uses_adapter)
    is_trained_so = is_mean_of_sentences(context.checkpoint)
    measured, is_mean = None, is_trained_so and costs_nothing
    if is_compared:
        try:
            measured, rows = _compare(context, data, network, mean, most_rows)
        except NotOfRows:
            return context, None
        verdict = measured["difference"]["verdict"]
        is_mean = costs_nothing and (verdict == "better" or (is_trained_so and verdict != "worse"))
    # Another process may round differently, or not reach the Hub.
    (is_mean,) = broadcast_object_list([is_mean])
    if measured is None and not is_mean:
        return context, None
    how = (_how if is_mean else _why_not)(network.network, mean)
    choice = PoolingChoice("mean" if is_mean else "default", how, measured, rows, time.perf_counter() - started)
    return (_with_model(context, mean) if is_mean else context), choice


def _may_choose(context: RunContext, data: RunData) -> bool:
    """Whether the mean of the tokens may take the place of the stock class's pooling."""
    recipe, family = context.recipe, FAMILIES.get(context.checkpoint.config.get("model_type", ""), UNKNOWN)
    return (
        isinstance(data.inputs, TextInputs)
        and not data.task.has_words
        and family.head is not None
        and not recipe.model.has_custom_head
        # Those that the user lists are numbered from the checkpoint's layers.
        and not recipe.model.surgery
        and recipe.fits_head
        and recipe.pretrain.objective is None
        and not recipe.compares_features
        and not recipe.uses_prompt_learning
        and not context.checkpoint.config.get("auto_map")
    )


def _network(context: RunContext, data: RunData) -> RunModel:
    with silenced():  # The run builds it again, and notes what there is to note.
        return build_model(context, data)


def _reads_first_token(network: PreTrainedModel) -> bool:
    stock = stock_head(network.config)
    return stock is not None and stock.pooling == "cls"


def _reading_mean(network: PreTrainedModel, context: RunContext) -> Model:
    """Return the section of the recipe with which the head reads the mean: in the stock class, where it can."""
    recipe, stock = context.recipe, context.recipe.model
    if recipe.chunk_pooling is not None or network.config.model_type not in FAMILIES_WITH_MEAN:
        return replace(stock, pooling="mean")
    # The new layer comes on top of those that train.
    is_top = recipe.effective_method == "top"
    return replace(stock, surgery=(GatherMean(),), top_layers=stock.top_layers + is_top)


def _is_stock(network: PreTrainedModel, mean: Model) -> bool:
    """Whether the network's own class reads the mean."""
    return bool(mean.surgery) or can_switch(network.config, "mean")


def _how(network: PreTrainedModel, mean: Model) -> str:
    name = type(network).__name__
    if not mean.surgery:
        return f"{name} has it itself"
    return (
        f"a layer on top of the {network.config.num_hidden_layers} gathers it, so that model/ stays a {name}; "
        "--model.pooling default saves that layer"
    )


def _why_not(network: PreTrainedModel, mean: Model) -> str:
    if mean.surgery:
        return "the stock class stays; --model.surgery '[GatherMean]' reads the mean, which leaves out an adapter/"
    artifact = "" if _is_stock(network, mean) else ", saved as encoder/ and head.safetensors in place of model/"
    return f"the stock class stays; --model.pooling mean reads the mean{artifact}"


def _compare(
    context: RunContext, data: RunData, network: RunModel, mean: Model, most_rows: int
) -> tuple[dict[str, Any], int]:
    """Return the metric of both ways on held-out rows, and the number of rows."""
    task, inputs, labeled = data.task, data.inputs, labeled_rows(data.splits.train)
    assert isinstance(inputs, TextInputs), "see _may_choose"
    rows = draw_rows(task, labeled, most_rows)
    encoded, labels = inputs.encode(rows), labels_of(rows)
    half_N = np.zeros(len(rows), dtype=np.int64)
    half_N[halves_of(first_sources(rows, by_content=True))[1]] = 1
    scores = {}
    for name, model in (("default", network), ("mean", _network(_with_model(context, mean), data))):
        features_ND = frozen_features(context, model.network, inputs, encoded, progress="choose the pooling")
        scores[name] = held_out_scores(task, features_ND, labels, half_N)
    judged = task.judged_by
    values = {name: {judged: round(task.values(labels, each_NC)[judged], 4)} for name, each_NC in scores.items()}
    return {**values, "difference": task.compare(labels, scores["mean"], scores["default"])}, len(rows)


def _with_model(context: RunContext, model: Model) -> RunContext:
    return replace(context, recipe=replace(context.recipe, model=model))
