"""A pipeline of scikit-learn as a skops file, never a pickle.

skops loads objects of types that it knows to be harmless, and of those in `TRUSTED`. Of these, trees and sparse
matrices hold indices into memory, which are checked after loading: a file may come from others.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from hf_finetune.errors import InputError
from hf_finetune.utils.messages import listed, one_line

TRUSTED = (
    "numpy.dtype",
    "scipy.sparse._csr.csr_matrix",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.multiclass._ConstantPredictor",
    "sklearn.tree._tree.Tree",
    "hf_finetune.features.overlap.OverlapTransformer",
)
"""Further types that a pipeline of method classical may hold."""
MOST_CHARACTERS = 10_000_000
"""Places of a vocabulary that is written as an array, of four bytes each."""
# Errors of skops and scikit-learn for other files.
UNREADABLE = (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError, ImportError, IndexError)


def save_pipeline(pipeline: Any, path: Path) -> None:
    """Write a fitted pipeline.

    Raises:
        AssertionError: it holds a type that `load_pipeline` would refuse.
    """
    from skops.io import dumps, get_untrusted_types

    with _vocabularies_as_arrays(pipeline):
        content = dumps(pipeline)
    unknown = set(get_untrusted_types(data=content)) - set(TRUSTED)
    assert not unknown, f"no pipeline of ours holds {unknown}"
    path.write_bytes(content)


@contextmanager
def _vocabularies_as_arrays(pipeline: Any) -> Iterator[None]:
    """Give the word counters of a pipeline their words as an array, in the order of the features, from which a loaded
    one makes its dictionary again: skops describes each entry of a dictionary, which takes seconds and 40 MB for 50,000
    words."""
    from sklearn.feature_extraction.text import CountVectorizer

    # A `ColumnTransformer` has those that are not fitted, too.
    counters = [part for _, part in _parts(pipeline, None, set()) if isinstance(part, CountVectorizer)]
    fitted = [(part, part.vocabulary_) for part in counters if "vocabulary_" in vars(part)]
    for part, vocabulary in fitted:
        words = sorted(vocabulary, key=lambda word: vocabulary[word])
        # An array has room for the longest word in each place, and drops NUL at the end of a word.
        fits = len(words) * max(map(len, words)) <= MOST_CHARACTERS
        part.vocabulary = np.array(words) if fits and not any(word.endswith("\0") for word in words) else words
        del part.vocabulary_
    try:
        yield
    finally:
        for part, vocabulary in fitted:
            part.vocabulary, part.vocabulary_ = None, vocabulary


def trusted_types(path: Path) -> list[str]:
    """Return those of `TRUSTED` that a file holds, which `skops.io.load` takes as `trusted`."""
    from skops.io import get_untrusted_types

    return sorted(set(get_untrusted_types(file=path)) & set(TRUSTED))


def load_pipeline(path: Path, name: str) -> Any:
    """Read a pipeline that `save_pipeline` wrote.

    Args:
        name: of the model, for messages.

    Raises:
        InputError: skops is not installed; or the file is missing, damaged, or holds other types, or indices that lead
            out of its arrays.
    """
    try:
        from skops.io import get_untrusted_types, load
    except ModuleNotFoundError:
        raise InputError(f"{name} needs skops, which is not installed; pip install 'skops>=0.13'") from None
    try:
        unknown = sorted(set(get_untrusted_types(file=path)) - set(TRUSTED))
        if not unknown:
            pipeline = load(path, trusted=list(TRUSTED))
            check_indices(pipeline)
            pipeline.named_steps["classifier"].n_features_in_  # noqa: B018 - it is a fitted pipeline
            return pipeline
    except UNREADABLE as error:
        raise InputError(
            f"{path}: not a fitted pipeline of scikit-learn ({one_line(error)}); restore it, or train again"
        ) from None
    raise InputError(
        f"{path} holds {listed(unknown)}, which could run code, and is not loaded; expected the pipeline that "
        "`hf-finetune train --method classical` wrote; train again"
    )


def check_indices(model: Any) -> None:
    """Check the indices of trees and sparse matrices, into which scikit-learn reads without looking.

    Raises:
        ValueError: one leads out of its array, or a tree has a cycle.
    """
    for owner, part in _parts(model, None, set()):
        if sparse.issparse(part):
            part.check_format(full_check=True)
        elif type(part).__name__ == "TreePredictor":
            nodes = part.nodes
            if nodes["is_categorical"].any():
                raise ValueError("a tree with categorical splits, which no pipeline of ours has")
            _check_tree(nodes["left"], nodes["right"], nodes["feature_idx"], nodes["is_leaf"] != 0, owner)
        elif type(part).__name__ == "Tree":
            left_N = part.children_left
            _check_tree(left_N, part.children_right, part.feature, left_N == -1, owner)


def _check_tree(
    left_N: np.ndarray, right_N: np.ndarray, feature_N: np.ndarray, is_leaf_N: np.ndarray, owner: Any
) -> None:
    """Raises: ValueError."""
    numbers, inner = np.arange(len(left_N)), ~is_leaf_N
    for child_N in (left_N.astype(np.int64), right_N.astype(np.int64)):
        # A child comes after its parent, so there is no cycle.
        if not ((child_N > numbers) & (child_N < len(left_N)))[inner].all():
            raise ValueError("the nodes of a tree lead out of it")
    features = owner.n_features_in_
    if not len(left_N) or not ((feature_N >= 0) & (feature_N < features))[inner].all():
        raise ValueError("a tree splits by features that it does not read")


def _parts(value: Any, owner: Any, seen: set[int]) -> Iterator[tuple[Any, Any]]:
    """Yield every object below a model, with the estimator that holds it."""
    if id(value) in seen or isinstance(value, str | bytes | int | float | np.number | type | None):
        return
    seen.add(id(value))
    yield owner, value
    if isinstance(value, dict):
        parts: Any = value.values()
    elif isinstance(value, list | tuple | set) or (isinstance(value, np.ndarray) and value.dtype == object):
        parts = value.ravel() if isinstance(value, np.ndarray) else value
    else:
        parts = getattr(value, "__dict__", {}).values()
        owner = value if hasattr(value, "n_features_in_") else owner
    for part in parts:
        yield from _parts(part, owner, seen)
