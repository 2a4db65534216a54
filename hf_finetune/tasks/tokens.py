"""A tag for each word.

Labels and scores are `Ragged`: those of all words, and where each row begins. Features and logits of the network are
those of all words.

Legend: N rows (sentences), W words, C tags, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from datasets import Dataset

from hf_finetune.data.config import Kind
from hf_finetune.data.ragged import Ragged
from hf_finetune.data.tag_scheme import scheme_of
from hf_finetune.evaluation import calibration, tokens
from hf_finetune.evaluation.config import Evaluate
from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.metrics import softmax
from hf_finetune.evaluation.paired import paired_scores
from hf_finetune.evaluation.per_class import ClassScores, scores_of_counts
from hf_finetune.evaluation.report import confusion
from hf_finetune.evaluation.tokens import TagStatistics, entities_of
from hf_finetune.evaluation.viterbi import decode
from hf_finetune.features.baselines import Baseline
from hf_finetune.features.taggers import linear_tagger, most_frequent_tags, sentences_of
from hf_finetune.models.checkpoint_config import ProblemType
from hf_finetune.models.checkpoint_config import Task as HubTask
from hf_finetune.tasks.base import HeadFit, Task
from hf_finetune.training import warm_start
from hf_finetune.training.losses.cross_entropy import CrossEntropy

_ENTITY = pa.struct(
    [
        pa.field("start", pa.int64()),
        pa.field("end", pa.int64()),
        pa.field("label", pa.string()),
        pa.field("text", pa.string()),
        pa.field("score", pa.float64()),
    ]
)
_OWN_HEAD = "its head reads words, not a row"
_ONE_ROW = "it reads one label a row, and a row has one for each word"


@dataclass(frozen=True)
class Tags(Task):
    """A tag for each word, by softmax and cross-entropy."""

    constrained: bool = False
    """See `Evaluate.constrained_decoding`."""

    name = "tokens"
    problem_type: ClassVar[ProblemType] = "token_classification"
    metrics = tokens.TAG_METRICS
    epoch_metric = "accuracy"
    summary = ("accuracy", "macro_f1", "log_loss")
    judged_by = "accuracy"
    default_loss = CrossEntropy()
    other_losses = ("single-label",)
    outputs = "tags of words"
    model_noun = "token classifier"
    purpose = "It gives each word one of {} tags"
    augments = False
    has_words = True
    constant = "the most frequent tag"
    counted = "word"
    rare_remedy = "--objective.class-weights Balanced"
    refuses: ClassVar[Mapping[str, str]] = {
        "objective.kinds": "features are compared row by row; use losses on logits, such as SoftTargets",
        "objective.teacher_precision": "rows are computed again by the margin of their one label",
        "objective.r_drop": _ONE_ROW,
        "objective.contrast": _ONE_ROW,
        "objective.mix": _ONE_ROW,
        "batching.sampling": f"{_ONE_ROW}; use objective.class_weights",
        "evaluate.extra": "its modules read one class a row",
        "method": "classical models predict whole rows",
        "--precision bf16": "rows are computed again by the margin of their one label",
        "--views": "operations on texts change the words that have tags",
        "pretrain.objective": "it reads texts, not words",
        "data.augment": "operations on texts change the words that have tags",
        "model.pooling": _OWN_HEAD,
        "model.last_layers": _OWN_HEAD,
        "model.head": _OWN_HEAD,
        "adapter.peft_type": "its virtual tokens stand before the words; use another adapter",
    }

    def hub_task(self, kind: Kind) -> HubTask:
        """Return token-classification."""
        return "token-classification"

    # Training

    def fit_head(self, features_ND: np.ndarray, labels: Any, fit: HeadFit) -> warm_start.FittedHead:
        """Fit multinomial logistic regression to the features (W, D) of all words; halves are those of sentences."""
        first_N = np.arange(len(labels)) if fit.first_N is None else fit.first_N
        return warm_start.fit_head(
            features_ND,
            labels.values,
            len(self.labels),
            inverse_strength=fit.inverse_strength,
            weights_N=fit.weights_N,
            first_N=labels.offsets[first_N[labels.row_of_value]],
            explains=fit.explains,
        )

    def rows_per_output(self, labels: Any) -> np.ndarray:
        """Return the words of each tag."""
        return np.bincount(labels.values[labels.values >= 0], minlength=len(self.labels))

    def with_every_output(self, chosen_n: np.ndarray, labels: Any) -> np.ndarray:
        """Add the first row of each tag that has none."""
        tags, first = np.unique(labels.values, return_index=True)
        missing = (tags >= 0) & ~np.isin(tags, labels[chosen_n].values)
        return np.concatenate([chosen_n, np.unique(labels.row_of_value[first[missing]])])

    # Evaluation

    def scores(self, logits_NC: Any) -> Any:
        """Return the softmax of each word."""
        return logits_NC.like(softmax(logits_NC.values))

    def _statistics(self, labels: Ragged, scores: Ragged) -> TagStatistics:
        return TagStatistics(labels, self.tags(scores), len(self.labels), self.scheme, scores.values)

    @property
    def scheme(self) -> Any:
        """The scheme of tags that mark entities. None: they do not."""
        return None

    def tags(self, scores: Ragged) -> np.ndarray:
        """Return the predicted tag of each word, shape (W,)."""
        return scores.values.argmax(-1)

    def values(self, labels: Any, scores_NC: Any) -> dict[str, float]:
        """Return the metrics of tags and probabilities."""
        return self._statistics(labels, scores_NC).values()

    def intervals(self, labels: Any, scores_NC: Any, *, resamples: int) -> dict[str, Interval]:
        """Return the metrics with intervals by the bootstrap over sentences."""
        return self._statistics(labels, scores_NC).intervals(resamples=resamples)

    def calibration(self, labels: Any, scores_NC: Any) -> list[dict[str, Any]]:
        """Return the bins of the reliability diagram of words."""
        return [asdict(each) for each in calibration.reliability(labels.values, scores_NC.values)]

    def temperature(self, labels: Any, logits_NC: Any) -> float | None:
        """Return the temperature of arXiv:1706.04599, over words."""
        return calibration.temperature(labels.values, logits_NC.values)

    def confused(self, labels: Any, scores_NC: Any) -> list[dict[str, Any]]:
        """Return the most confused tags."""
        return [asdict(pair) for pair in confusion(labels.values, self.tags(scores_NC), self.labels)]

    def difference(self, labels: Any, scores_NC: Any, others_NC: Any) -> Interval:
        """Return the difference of `judged_by`, paired by sentence."""
        mine, others = (self._statistics(labels, scores).by_sentence() for scores in (scores_NC, others_NC))
        return paired_scores(mine, others)

    def majority(self, labels: Any) -> np.ndarray:
        """Return a probability of 1 for the most frequent tag."""
        return np.eye(len(self.labels))[self.rows_per_output(labels).argmax()]

    def agreement(self, scores_NC: Any, others_NC: Any) -> float:
        """Return the share of words of the same tag."""
        return float((self.tags(scores_NC) == self.tags(others_NC)).mean())

    def constants(self, train: Dataset, rows: Dataset) -> dict[str, Baseline]:
        """Return the most frequent tag of each word."""
        return {"majority": most_frequent_tags(train, rows, num_tags=len(self.labels))}

    def linear_baseline(self, train: Dataset, rows: Dataset) -> Baseline:
        """Return a linear model of each word's shape and neighbors."""
        return linear_tagger(train, rows, num_tags=len(self.labels))

    def per_class(self, labels: Any, scores_NC: Any) -> tuple[ClassScores, ...]:
        """Return precision, recall and F1 of each tag, or of each kind of entity."""
        names = self.labels if self.scheme is None else self.scheme.entities
        return scores_of_counts(self._statistics(labels, scores_NC).counts(), names)

    # Predictions

    def labels_of_names(self, names: Sequence[Any]) -> Ragged:
        """Return the tag ids of each row's words."""
        tags = super().labels_of_names([name for row in names for name in row])
        return Ragged.of(tags, [len(row) for row in names])

    def scores_of(self, predicted: Sequence[Any]) -> Any:
        """Return a probability of 1 for each predicted tag."""
        tags = self.labels_of_names(predicted)
        return tags.like(np.eye(len(self.labels))[tags.values])

    def predicted(self, scores_NC: Any) -> Sequence[Any]:
        """Return the tags of each row's words."""
        return [[self.labels[tag] for tag in tags] for tags in scores_NC.like(self.tags(scores_NC))]

    def label_column(self, labels: Any) -> pa.Array:
        """Return the names of the words' tags."""
        return pa.array([[self.labels[tag] for tag in tags] for tags in labels], self.predicted_type)

    @property
    def predicted_type(self) -> pa.DataType:
        """Lists of text."""
        return pa.list_(pa.string())

    def empty_scores(self) -> Any:
        """Return the scores of no rows."""
        return Ragged.of(np.empty((0, len(self.labels))), [])

    def score_columns(self, scores_NC: Any) -> dict[str, pa.Array]:
        """Return the column `score`: the probability of each word's predicted tag."""
        best_W = scores_NC.values[np.arange(len(scores_NC.values)), self.tags(scores_NC)]
        return {"score": scores_NC.like(best_W.astype(np.float32)).to_arrow()}

    def input_columns(self, rows: Dataset) -> dict[str, pa.Array]:
        """Return the column `words`."""
        return {"words": pa.array(sentences_of(rows), pa.list_(pa.string()))}

    def found(self, rows: Dataset, scores: Ragged) -> list[list[dict[str, Any]]]:
        """Return what is found in each text: start, end, label, text and score of its words."""
        tags = scores.like(self.tags(scores))
        spans = [[(word, word, self.labels[tag]) for word, tag in enumerate(each)] for each in tags]
        return _in_texts(rows, scores, tags, spans)

    def answers(self, rows: Dataset, scores_NC: Any, of_text: Sequence[bool]) -> Sequence[Any]:
        """Return what is found in each text, see `found`, and the tags of each list of words."""
        both = zip(self.found(rows, scores_NC), self.predicted(scores_NC), of_text, strict=True)
        return [found if is_text else tags for found, tags, is_text in both]

    def marks(self) -> dict[str, Any]:
        """Return whether decoding is constrained."""
        return {"constrained_decoding": True} if self.constrained else {}


class Entities(Tags):
    """A tag for each word, which mark entities by BIO or BIOES."""

    problem_type = "named_entity_recognition"
    metrics = tokens.ENTITY_METRICS
    epoch_metric = "entity_f1"
    summary = ("entity_f1", "accuracy", "log_loss")
    judged_by = "entity_f1"
    model_noun = "named-entity recognizer"
    purpose = "It marks entities by {} tags of words"
    per_class_noun = "entity"
    counted = "entity"

    def configured(self, evaluate: Evaluate) -> Task:
        """Return the task with its decoding."""
        return replace(self, constrained=evaluate.constrained_decoding)

    @property
    def scheme(self) -> Any:
        """The scheme of the tags."""
        return scheme_of(self.labels)

    def support(self, labels: Any) -> dict[str, int]:
        """Return the entities of each kind."""
        kinds = entities_of(labels, self.scheme).kind
        counts = np.bincount(kinds, minlength=len(self.scheme.entities))
        return dict(zip(self.scheme.entities, counts.tolist(), strict=True))

    def tags(self, scores: Ragged) -> np.ndarray:
        """Return the predicted tag of each word, shape (W,)."""
        return decode(scores, self.scheme) if self.constrained else super().tags(scores)

    def found(self, rows: Dataset, scores: Ragged) -> list[list[dict[str, Any]]]:
        """Return the entities of each text: start, end, label, text and score, the mean over its words."""
        tags = scores.like(self.tags(scores))
        entities, names = entities_of(tags, self.scheme), self.scheme.entities
        spans: list[list[tuple[int, int, str]]] = [[] for _ in range(len(scores))]
        first_word = scores.offsets[entities.sentence]
        places = zip(entities.sentence, entities.first - first_word, entities.last - first_word, strict=True)
        for (row, first, last), kind in zip(places, entities.kind, strict=True):
            spans[row].append((int(first), int(last), names[kind]))
        return _in_texts(rows, scores, tags, spans)

    def found_columns(self, rows: Dataset, scores_NC: Any) -> dict[str, pa.Array]:
        """Return the column `entities`."""
        return {"entities": pa.array(self.found(rows, scores_NC), pa.list_(_ENTITY))}


def _in_texts(
    rows: Dataset, scores: Ragged, tags: Ragged, spans: Sequence[Sequence[tuple[int, int, str]]]
) -> list[list[dict[str, Any]]]:
    """Return spans of words (first, last, label) with their place in the text, and their mean probability."""
    best = scores.like(scores.values[np.arange(len(scores.values)), tags.values])
    return [
        [
            {
                "start": bounds[2 * first],
                "end": bounds[2 * last + 1],
                "label": label,
                "text": text[bounds[2 * first] : bounds[2 * last + 1]],
                "score": round(float(best[row][first : last + 1].mean()), 4),
            }
            for first, last, label in of_row
        ]
        for row, (text, bounds, of_row) in enumerate(zip(rows["text"][:], rows["bounds"][:], spans, strict=True))
    ]
