"""Naive Bayes."""

from __future__ import annotations

from typing import Any

from hf_finetune.features.classifiers.base import ClassicalModel, TrainingTable
from hf_finetune.utils.config import Positive, configclass


@configclass
class NaiveBayes(ClassicalModel):
    """Naive Bayes: of sparse features multinomial, of dense ones normal distributions."""

    smoothing: Positive = 1.0
    """Count that is added to each sparse feature of each class."""

    def build(self, data: TrainingTable) -> Any:
        """Return a `MultinomialNB`, or a `GaussianNB` of dense features."""
        from sklearn.naive_bayes import GaussianNB, MultinomialNB

        return MultinomialNB(alpha=self.smoothing) if data.is_sparse else GaussianNB()
