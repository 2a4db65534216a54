"""Classical models: a pipeline of scikit-learn from a table of rows to classes, tags or numbers.

Legend: N rows, C outputs, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset

from hf_finetune.data.labels import labels_of
from hf_finetune.features.config import Classical, ClassicalClassifier
from hf_finetune.features.parameter_search import Tried, choose_fields
from hf_finetune.features.pipelines import Outputs, build_pipeline, quiet_fit, scores_of
from hf_finetune.features.table import RowTable


@dataclass(frozen=True)
class FittedClassical:
    """A fitted pipeline, and how rows become the table that it reads."""

    pipeline: Any
    """A `Pipeline` of scikit-learn with the steps `features` and `classifier`."""
    table: RowTable
    labels: tuple[str, ...]
    """Names of the classes, tags or targets."""
    outputs: Outputs
    classifier: ClassicalClassifier
    """With the chosen values of its fields."""
    tried: tuple[Tried, ...] = ()
    """The values that cross-validation compared."""

    @property
    def name(self) -> str:
        """Features and classifier, such as tfidf+LinearModel."""
        return "+".join(dict.fromkeys([each.name for each in self.table.extractors] + [type(self.classifier).__name__]))

    def scores(self, rows: Dataset) -> np.ndarray:
        """Return probabilities of the classes or tags, or numbers, shape (N, C), float64.

        Raises:
            InputError: see `RowTable`.
        """
        return scores_of(self.pipeline, self.table(rows), self.labels, self.outputs)


def fit_classical(
    config: Classical,
    train: Dataset,
    *,
    labels: Sequence[str],
    outputs: Outputs = "classes",
    names: Mapping[str, str] | None = None,
    search_s: float | None = None,
    cache_gb: float = 0.0,
) -> FittedClassical:
    """Fit a pipeline to labeled rows. Fields of the classifier that are None are chosen by cross-validation.

    Args:
        train: canonical rows with labels.
        labels: names of the classes, tags or targets.
        outputs: what they are.
        names: the source's columns by canonical name, which the pipeline's table has. None: the canonical names.
        search_s: no further value is tried after this time. None: `config.search_time`.
        cache_gb: see `Computed.compute`.

    Raises:
        InputError: an extractor has nothing to read, or leaves no feature; or the classifier is not for these outputs.
    """
    table = RowTable.of(train, config.extractors, names)
    targets = targets_of(labels_of(train), labels, outputs)
    frame = table(train, cache_gb=cache_gb)
    with quiet_fit():
        classifier, tried = choose_fields(config, table, frame, targets, outputs, search_s=search_s)
        pipeline = build_pipeline(replace(config, classifier=classifier), table, frame, targets, outputs)
        pipeline.fit(frame, targets)
    return FittedClassical(pipeline, table, tuple(labels), outputs, classifier, tried)


def targets_of(labels_N: np.ndarray, names: Sequence[str], outputs: Outputs) -> np.ndarray:
    """Return what a pipeline is fitted to: names of classes (N,), a 0 or 1 for each tag, or numbers."""
    if outputs == "classes":
        return np.asarray(names)[labels_N]
    return labels_N[:, 0] if outputs == "numbers" and labels_N.shape[1] == 1 else labels_N
