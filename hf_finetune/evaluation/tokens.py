"""Metrics of the tags of words, and of the entities that they mark, with the values of seqeval and scikit-learn.

The rows of intervals and comparisons are sentences: the words of one are no independent observations.

Legend: N sentences, W words, C tags, E kinds of entities, R resamples.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from hf_finetune.data.ragged import Ragged
from hf_finetune.data.tag_scheme import OUTSIDE, TagScheme
from hf_finetune.evaluation.intervals import Interval, check_resamples, exact, percentile_bounds, resampled_sums
from hf_finetune.evaluation.metrics import EPSILON, Counts, Metric, f1

_OF_WORDS = (
    Metric("accuracy", "Accuracy of words"),
    Metric("macro_f1", "Macro F1 of tags", hub_average="macro"),
    Metric("sentence_accuracy", "Sentences without an error"),
    Metric("log_loss", "Log loss of words (nats)", greater_is_better=False),
)
_OF_ENTITIES = (
    Metric("entity_f1", "Entity F1", hub_name="f1"),
    Metric("entity_precision", "Entity precision", hub_name="precision"),
    Metric("entity_recall", "Entity recall", hub_name="recall"),
)
TAG_METRICS = {metric.name: metric for metric in _OF_WORDS}
"""Metrics of tags, in the order of result.json."""
ENTITY_METRICS = {metric.name: metric for metric in (*_OF_ENTITIES, *_OF_WORDS)}
"""Metrics of tags that mark entities."""


@dataclass(frozen=True)
class Entities:
    """The entities of some sentences."""

    sentence: np.ndarray
    """Sentence of each entity."""
    first: np.ndarray
    """Its first word, counted over all sentences."""
    last: np.ndarray
    kind: np.ndarray
    """Index in `TagScheme.entities`."""

    def keys(self, words: int) -> np.ndarray:
        """Return a number for place and kind of each entity, by which equal ones are found, among so many words."""
        return (self.kind * words + self.first) * words + self.last


def entities_of(tags: Ragged, scheme: TagScheme) -> Entities:
    """Return the entities that tags mark, read as seqeval and conlleval do: an I that follows no entity begins one.

    Args:
        tags: tag of each word.
    """
    names = scheme.entities
    kind_C = np.array([names.index(kind) if kind else -1 for kind in scheme.types])
    prefix_C = np.array(scheme.prefixes)
    inside_W, kind_W = prefix_C[tags.values] != OUTSIDE, kind_C[tags.values]
    prefix_W = prefix_C[tags.values]
    begins_sentence_W = np.zeros(len(tags.values), dtype=bool)
    begins_sentence_W[tags.offsets[:-1][tags.lengths > 0]] = True
    before_W = np.where(begins_sentence_W, OUTSIDE, np.roll(prefix_W, 1))
    kind_before_W = np.where(begins_sentence_W, -1, np.roll(kind_W, 1))
    starts_W = inside_W & (
        np.isin(prefix_W, ("B", "S")) | np.isin(before_W, (OUTSIDE, "E", "S")) | (kind_before_W != kind_W)
    )
    first = np.flatnonzero(starts_W)
    # An entity lasts up to the word before the next start, or before a word outside.
    stops = np.flatnonzero(starts_W | ~inside_W | begins_sentence_W)
    ends = np.append(stops, len(tags.values))[np.searchsorted(stops, first, side="right")]
    return Entities(tags.row_of_value[first], first, ends - 1, kind_W[first])


@dataclass(frozen=True)
class TagStatistics:
    """What all metrics of predicted tags are computed from: summands of each sentence."""

    labels: Ragged
    """Tag of each word."""
    predicted_W: np.ndarray
    num_tags: int
    scheme: TagScheme | None = None
    """None: the tags mark no entities."""
    scores_WC: np.ndarray | None = None
    """Probabilities, for the log loss."""

    @property
    def correct_W(self) -> np.ndarray:
        """Whether each word is right."""
        return self.labels.values == self.predicted_W

    @cached_property
    def entities(self) -> tuple[Entities, Entities, np.ndarray]:
        """The true entities, the predicted ones, and which of the true ones are predicted."""
        assert self.scheme is not None, "tags without entities"
        words = len(self.predicted_W)
        true = entities_of(self.labels, self.scheme)
        predicted = entities_of(self.labels.like(self.predicted_W), self.scheme)
        return true, predicted, np.isin(true.keys(words), predicted.keys(words))

    def summands(self) -> sparse.csr_array:
        """Return the summands of each sentence, shape (3 C + 6, N), see `_of_sums`."""
        row_W, tags, sentences = self.labels.row_of_value, self.num_tags, len(self.labels)
        correct_W, words_N = self.correct_W, self.labels.lengths
        right_N = np.bincount(row_W, correct_W, minlength=sentences)
        losses_W = np.zeros(len(row_W))
        if self.scores_WC is not None:
            likely_W = self.scores_WC[np.arange(len(row_W)), self.labels.values]
            losses_W = -np.log(np.maximum(likely_W, EPSILON))
        rows = np.arange(sentences)
        entries = [
            (self.labels.values, row_W, correct_W.astype(float)),
            (tags + self.labels.values, row_W, np.ones(len(row_W))),
            (2 * tags + self.predicted_W, row_W, np.ones(len(row_W))),
            (np.full(sentences, 3 * tags), rows, np.ones(sentences)),
            (np.full(sentences, 3 * tags + 1), rows, (right_N == words_N).astype(float)),
            (np.full(sentences, 3 * tags + 2), rows, np.bincount(row_W, losses_W, minlength=sentences)),
        ]
        if self.scheme is not None:
            true, predicted, found = self.entities
            counted = (true.sentence[found], true.sentence, predicted.sentence)
            entries += [(np.full(len(s), 3 * tags + 3 + i), s, np.ones(len(s))) for i, s in enumerate(counted)]
        places, columns, values = (np.concatenate(parts) for parts in zip(*entries, strict=True))
        return sparse.csr_array((values, (places, columns)), shape=(3 * tags + 6, sentences))

    def _of_sums(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """Return metrics (R,) from sums of summands (3 C + 6, R)."""
        tags = self.num_tags
        correct, support, predicted, (sentences, exact_ones, losses, *of_entities) = np.split(
            sums, [tags, 2 * tags, 3 * tags]
        )
        words = np.maximum(support.sum(axis=0), 1)
        metrics = {
            "accuracy": correct.sum(axis=0) / words,
            "macro_f1": f1(Counts(correct, support, predicted), "macro"),
            "sentence_accuracy": exact_ones / np.maximum(sentences, 1),
        }
        if self.scores_WC is not None:
            metrics["log_loss"] = losses / words
        if self.scheme is None:
            return metrics
        found, true, guessed = of_entities
        return {
            "entity_f1": 2 * found / np.maximum(true + guessed, 1),
            "entity_precision": found / np.maximum(guessed, 1),
            "entity_recall": found / np.maximum(true, 1),
            **metrics,
        }

    def values(self) -> dict[str, float]:
        """Return all metrics."""
        sums = self.summands().sum(axis=1)[:, None]
        return {name: float(value[0]) for name, value in self._of_sums(sums).items()}

    def intervals(self, *, resamples: int = 1000, seed: int = 0) -> dict[str, Interval]:
        """Return all metrics with 95% intervals: bias-corrected percentiles of the bootstrap over sentences.

        Where resamples do not vary, as all words are right, the interval is exact for a share of sentences.

        Raises:
            InputError: fewer than 100 resamples.
        """
        check_resamples(resamples)
        sentences = len(self.labels)
        parts = [self._of_sums(sums) for sums in resampled_sums(self.summands(), resamples, seed)]
        intervals = {}
        for name, value in self.values().items():
            if name != "log_loss" and value in (0.0, 1.0):
                low, high = exact(value * sentences, sentences)
            else:
                low, high = percentile_bounds(value, np.concatenate([part[name] for part in parts]))
            intervals[name] = Interval(value, min(low, value), max(high, value), sentences)
        return intervals

    def by_sentence(self) -> np.ndarray:
        """Return the linear contribution of each sentence to entity F1, or to accuracy without entities, shape (N,).

        Their mean is the metric (delta method): for a ratio of sums A / B sentence i contributes
        A / B + (A_i - B_i A / B) N / B.
        """
        sentences = len(self.labels)
        if self.scheme is None:
            above_N: np.ndarray = np.bincount(self.labels.row_of_value, self.correct_W, minlength=sentences)
            below_N: np.ndarray = self.labels.lengths.astype(float)
        else:
            true, predicted, found = self.entities
            above_N = 2.0 * np.bincount(true.sentence[found], minlength=sentences)
            both = np.concatenate([true.sentence, predicted.sentence])
            below_N = np.bincount(both, minlength=sentences).astype(float)
        total = max(1.0, below_N.sum())
        value = above_N.sum() / total
        return value + (above_N - value * below_N) * sentences / total

    def counts(self) -> Counts:
        """Return the counts of each kind of entity, (E,), or of each tag without entities, (C,)."""
        if self.scheme is None:
            return Counts(
                np.bincount(self.labels.values[self.correct_W], minlength=self.num_tags),
                np.bincount(self.labels.values, minlength=self.num_tags),
                np.bincount(self.predicted_W, minlength=self.num_tags),
            )
        (true, predicted, found), kinds = self.entities, len(self.scheme.entities)
        return Counts(*(np.bincount(kind, minlength=kinds) for kind in (true.kind[found], true.kind, predicted.kind)))
