"""Choose what is read of long texts, where `data.long` is auto.

A head is fitted to frozen features of some training rows, read in each way, and judged on validation rows: a forward
pass of a thousand rows costs a fraction of a training. A way that costs more, or that plain libraries do not read by
themselves, must be better by a paired test. Of classes the log loss may decide, where the accuracy is not lower: on
1,000 rows of newsgroups an interval of the accuracy is +-1.7 points, and windows gain 1.5 and 0.046 +- 0.024 nats.

Legend: N rows, C outputs, D features.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from accelerate.utils import broadcast_object_list
from datasets import Dataset

from hf_finetune.config.rules import check
from hf_finetune.data.inputs import TextInputs
from hf_finetune.data.labels import labels_of
from hf_finetune.data.long.config import TRUNCATE, Auto, HeadTail, Sliding, Way
from hf_finetune.data.unlabeled import labeled_rows
from hf_finetune.errors import InputError
from hf_finetune.pipeline.build_model import build_model
from hf_finetune.pipeline.context import RunContext, RunData
from hf_finetune.pipeline.frozen_features import frozen_features
from hf_finetune.tasks.base import HeadFit, Task
from hf_finetune.training.warm_start import NotOfRows, default_fit
from hf_finetune.utils.messages import silenced


@dataclass(frozen=True)
class LongChoice:
    """A way to read long texts, and what it was chosen by."""

    way: Way
    why: str
    measured: dict[str, Any]
    """Metric and tokens of each way, and its paired difference to the best of the simpler ones, by name."""
    rows: dict[str, int]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the section of result.json."""
        return {
            "chosen": self.way.name,
            "why": self.why,
            "rows": self.rows,
            "measured": self.measured,
            "seconds": round(self.seconds, 2),
        }


def choose_long(context: RunContext, data: RunData) -> tuple[RunContext, RunData, LongChoice | None]:
    """Return the run with a way to read long texts in place of auto, and the choice. None: the recipe names a way."""
    recipe, inputs = context.recipe, data.inputs
    if recipe.data.kind != "text" or not isinstance(recipe.data.long, Auto) or not isinstance(inputs, TextInputs):
        return context, data, None
    # Another process may round differently.
    (choice,) = broadcast_object_list([_choose(context, data, inputs, recipe.data.long.rows)])
    return _with_way(context, choice.way), replace(data, inputs=replace(inputs, long=choice.way)), choice


def _choose(context: RunContext, data: RunData, inputs: TextInputs, most_rows: int) -> LongChoice:
    started = time.perf_counter()
    train, validation = (
        _some(rows, most_rows, data.task) for rows in (labeled_rows(data.splits.train), data.splits.validation)
    )
    rows = {"train": len(train), "validation": len(validation)}

    def choice(way: Way, why: str, measured: dict[str, Any]) -> LongChoice:
        return LongChoice(way, why, measured, rows, time.perf_counter() - started)

    if (only := inputs.one_way(train)) is not None:
        return choice(TRUNCATE, only, {})
    lengths = inputs.whole_lengths(inputs.encode(train))
    if not (share := lengths.longer(inputs.max_length)):
        return choice(TRUNCATE, f"no text has more than {inputs.max_length} tokens", {})
    measurement = _Measurement(context, data, inputs, train, validation)
    labels, task, measured = labels_of(validation), data.task, {}
    best: tuple[Way, np.ndarray] | None = None
    try:
        for way in _ways(context, inputs):
            scores_NC = measurement.scores(way)
            tokens = lengths.total(way, way.capacity(inputs.reader), inputs.reader) / lengths.weights_N.sum()
            measured[way.name] = {
                task.judged_by: round(task.values(labels, scores_NC)[task.judged_by], 4),
                "tokens": round(tokens, 1),
                **({} if best is None else _differences(task, labels, scores_NC, best[1])),
            }
            if best is None or _is_better(measured[way.name]):
                best = way, scores_NC
    except NotOfRows:
        return choice(TRUNCATE, "the classification layer reads tokens, so that no head can be fitted to rows", {})
    assert best is not None, "truncation is always possible"
    way = best[0]
    return choice(
        way,
        f"{share:.1%} of the texts are longer than {inputs.max_length} tokens; {_why(way, measured, task)}",
        measured,
    )


def _differences(task: Task, labels: Any, scores_NC: np.ndarray, others_NC: np.ndarray) -> dict[str, Any]:
    gain = task.log_loss_gain(labels, scores_NC, others_NC)
    return {
        "difference": task.compare(labels, scores_NC, others_NC),
        **({} if gain is None else {"log_loss_gain": gain.to_dict()}),
    }


def _is_better(measured: dict[str, Any]) -> bool:
    """Whether a way is better than the best of the simpler ones."""
    difference, gain = measured["difference"], measured.get("log_loss_gain")
    return difference["verdict"] == "better" or (gain is not None and difference["value"] >= 0 and gain["low"] > 0)


def _why(way: Way, measured: dict[str, Any], task: Task) -> str:
    scores = ", ".join(f"{name} {each[task.judged_by]:.3f}" for name, each in measured.items())
    if way == TRUNCATE:
        return f"no other way has a better {task.judged_by} by a paired test ({scores})"
    difference = measured[way.name]["difference"]
    better = f"its {task.judged_by} is better by {{value:.3f}} [{{low:.3f}}, {{high:.3f}}]".format(**difference)
    if difference["verdict"] != "better":
        gain = measured[way.name]["log_loss_gain"]
        better += ", and its log loss by {value:.3f} [{low:.3f}, {high:.3f}],".format(**gain)
    return f"{better} than simpler ways ({scores})"


class _Measurement:
    """Scores of validation rows by a head that is fitted to frozen features of training rows."""

    def __init__(
        self, context: RunContext, data: RunData, inputs: TextInputs, train: Dataset, validation: Dataset
    ) -> None:
        self.task, self.inputs, self.train, self.validation = data.task, inputs, train, validation
        self.context = _with_way(context, TRUNCATE)
        with silenced():  # The run builds it again, and notes what there is to note.
            self.network = build_model(self.context, data).network
        recipe, strength = context.recipe, context.recipe.train.head_inverse_strength
        default = default_fit(recipe.effective_method).inverse_strength
        self.fit = HeadFit(default if strength is None else strength, explains=False)

    def scores(self, way: Way) -> np.ndarray:
        """Return the scores (N, C) of the validation rows."""
        train_ND, validation_ND = (
            self._features(replace(self.inputs, long=way), rows) for rows in (self.train, self.validation)
        )
        head = self.task.fit_head(train_ND, labels_of(self.train), self.fit)
        return self.task.training_scores(validation_ND @ head.weight_CD.numpy().T + head.bias_C.numpy())

    def _features(self, inputs: TextInputs, rows: Dataset) -> np.ndarray:
        title = f"measure --long {inputs.long.name}"
        return frozen_features(self.context, self.network, inputs, inputs.encode(rows), progress=title)


def _some(rows: Dataset, most: int, task: Task) -> Dataset:
    """Return up to `most` random rows, and one of each class."""
    drawn = np.sort(np.random.default_rng(0).permutation(len(rows))[:most])
    return rows.select(task.with_every_output(drawn, labels_of(rows)))


def _ways(context: RunContext, inputs: TextInputs) -> Iterator[Way]:
    """Yield the ways that the recipe and the tokenizer allow, the simplest first.

    The mean of chunks has the logits of sliding windows, whose model plain libraries load.
    """
    yield TRUNCATE
    for way in (HeadTail(), Sliding(min(Sliding().stride, inputs.max_length // 2))):
        try:
            way.check(inputs.tokenizer, inputs.max_length, context.checkpoint.name)
            check(_with_way(context, way).recipe)
        except InputError:
            continue
        yield way


def _with_way(context: RunContext, way: Way) -> RunContext:
    recipe, data = context.recipe, context.recipe.data
    assert data.kind == "text", "images are not long"
    return replace(context, recipe=replace(recipe, data=replace(data, long=way)))
