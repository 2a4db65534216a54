"""A scikit-learn pipeline that gives texts probabilities, from a file of skops: never a pickle, and nothing in it but what
skops knows to be harmless: no trees, whose nodes point anywhere, and no neighbours.

Legend: N rows, C classes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from hf_finetune.distillation.classes import places_of
from hf_finetune.distillation.precomputed import LEAST
from hf_finetune.errors import InputError
from hf_finetune.utils import hashing
from hf_finetune.utils.messages import listed

SUFFIX = ".skops"
# What skops raises for a file that is another, or an estimator that is not fitted.
UNREADABLE = (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class Pipeline:
    """A fitted estimator of texts with `predict_proba`, with what the run knows of it."""

    name: str
    """File, as the user wrote it."""
    weights: str
    """SHA-256 of the file, and the version of scikit-learn."""
    model: Any
    classes: int
    """How many it tells apart."""
    columns_C: tuple[int, ...]
    """Which of its classes is each of the data's."""
    whole: bool = False
    """Whether the logarithms of all of them are kept, however many, see `distillation.logit_cache`."""

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Logarithms of the probabilities of all its classes in its own order, shape (N, classes), float32.

        Raises:
            InputError: it reads something else than texts.
        """
        try:
            probabilities = np.asarray(self.model.predict_proba(list(texts)), dtype=np.float64)
        except (ValueError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:150]
            raise InputError(
                f"objective.teacher: {self.name}: expected a pipeline that takes a list of texts, its first step a vectorizer; "
                f"this one says: {reason}"
            ) from None
        return np.log(np.maximum(probabilities, LEAST)).astype(np.float32)


def is_pipeline(name: str) -> bool:
    """Whether a teacher's name is that of such a file."""
    return name.lower().endswith(SUFFIX)


def read_pipeline(name: str, labels: Sequence[str]) -> Pipeline:
    """A pipeline that `skops.io.dump` wrote.

    Args:
        labels: names of the data's classes.

    Raises:
        InputError: there is none, skops is not installed, it holds what could run code, or it tells other classes apart.
    """
    path = Path(name).expanduser()
    try:
        from skops.io import get_untrusted_types, load
    except ModuleNotFoundError:
        raise InputError(
            f"objective.teacher: {name} needs skops, which is not installed; pip install 'hf_finetune[sklearn]'"
        ) from None
    try:
        strange = get_untrusted_types(file=path)
    except UNREADABLE as error:
        raise _no_pipeline(name, error) from None
    if strange:
        raise InputError(
            f"objective.teacher: {name} holds {listed(strange)}, which could run code or read memory that is not its own, and is "
            "not loaded; expected a vectorizer and a linear model or naive Bayes (LogisticRegression, SGDClassifier, "
            "MultinomialNB); of another write what predict_proba gives to a .parquet file, columns text and p:NAME"
        )
    try:
        model, weights = load(path), hashing.of_files(path)
        theirs = [str(label) for label in model.classes_]
    except UNREADABLE as error:
        raise _no_pipeline(name, error) from None
    columns_C = places_of(labels, theirs, owner=name)
    return Pipeline(name, hashing.of_json([weights, version("scikit-learn")]), model, len(theirs), columns_C)


def _no_pipeline(name: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:150]
    return InputError(f"objective.teacher: {name}: not a fitted classifier as skops.io.dump writes it ({reason})")
