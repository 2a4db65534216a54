"""The fine-tuned classifier as an estimator of scikit-learn."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from hf_finetune.errors import InputError
from hf_finetune.inference.fine_tuning import train
from hf_finetune.inference.session import python_session

if TYPE_CHECKING:
    from sklearn.utils import Tags

    from hf_finetune.inference.classifier import Classifier


class FineTunedClassifier(ClassifierMixin, BaseEstimator):
    """Fine-tune on texts or images in `fit`, by `hf_finetune.train`: for `cross_val_score`, pipelines and grids.

    `X` is a list, array or Series of texts or images, an array of one column of texts or of two columns of pairs, or a
    DataFrame. Every fit is a whole run with its gates and validation rows, which are held out from `X`. A pickle
    contains the files of the model.

    Args:
        model: Hub id or folder of the checkpoint. None: an embedded one for texts.
        method: full, lora, top or head.
        epochs: passes over the training rows. None: the default of a recipe.
        learning_rate: None: the default of the method.
        max_length: longest text in tokens. None: the default of a recipe.
        seed: of the head, the order of the rows, and dropout.
        output: folder of the run, which must be new or empty. None: a temporary one, removed with the classifier.
        verbose: print the notes and the progress of the run on stderr.
        fields: any other keyword of `hf_finetune.train`. They are parameters, too: `set_params(rows_per_class=8)`.

    Attributes:
        classes_: the classes, sorted.
        classifier_: the fitted `hf_finetune.Classifier`, with its `result`.

    Examples:
        >>> from hf_finetune.sklearn import FineTunedClassifier
        >>> estimator = FineTunedClassifier(epochs=1, label_smoothing=0.1).fit(frame["review"], frame["stars"])
        >>> estimator.classes_.tolist(), estimator.predict_proba(["works as it should"]).shape
        (['bad', 'good'], (1, 2))
        >>> 0 <= estimator.score(frame["review"][:20], frame["stars"][:20]) <= 1
        True
    """

    classes_: np.ndarray
    classifier_: Classifier

    def __init__(
        self,
        model: Any = None,
        *,
        method: str = "full",
        epochs: float | None = None,
        learning_rate: float | None = None,
        max_length: int | None = None,
        seed: int = 0,
        output: str | Path | None = None,
        verbose: bool = False,
        **fields: Any,
    ) -> None:
        self.model = model
        self.method = method
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.max_length = max_length
        self.seed = seed
        self.output = output
        self.verbose = verbose
        self._fields = tuple(fields)
        for name, value in fields.items():
            setattr(self, name, value)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name, further keywords included."""
        return {**super().get_params(deep), **{name: getattr(self, name) for name in self._fields}}

    def set_params(self, **params: Any) -> Self:
        """Set parameters. Any keyword of `hf_finetune.train` is one; `fit` refuses an unknown name."""
        self._fields = (*self._fields, *(params.keys() - self.get_params(deep=False).keys()))
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def fit(self, X: Any, y: Any) -> Self:
        """Fine-tune on `X` with the labels `y`.

        Raises:
            ValueError: `X` has no rows, or `y` another number of them or no classes.
            InputError: see `hf_finetune.train`.
        """
        if y is None:
            raise ValueError("FineTunedClassifier requires y to be passed, but the target y is None")
        inputs = self._inputs(X)
        check_consistent_length(inputs, y)
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        classes, ids_N = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise InputError(f"y: expected at least two classes, got 1 class: {classes[0]!r}")
        # As names: a run reads labels as text, whatever their type.
        names = [str(value) for value in classes.tolist()]
        keywords = {name: value for name, value in self.get_params(deep=False).items() if value is not None}
        verbose, output = keywords.pop("verbose"), keywords.pop("output", None)
        temporary = None if output is not None else Path(tempfile.mkdtemp(prefix="hf_finetune_"))
        try:
            with python_session(notes=verbose):
                labels = [names[i] for i in ids_N]
                classifier = train((inputs, labels), output=temporary / "run" if temporary else output, **keywords)
        except BaseException:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
            raise
        if temporary is not None:
            weakref.finalize(classifier, shutil.rmtree, temporary, ignore_errors=True)
        self.classes_, self.classifier_ = classes, classifier
        self._columns = [classifier.labels.index(name) for name in names]
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the class of each row, shape (N,)."""
        scores_NC = self.predict_proba(X)
        return self.classes_[scores_NC.argmax(axis=1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, shape (N, C), float32, in the order of `classes_`."""
        check_is_fitted(self)
        with python_session(notes=self.verbose):
            return self.classifier_.predict_proba(self._inputs(X))[:, self._columns]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags

    def _inputs(self, X: Any) -> Any:
        """Return rows as `train` and `Classifier` take them.

        Raises:
            InputError: it has no rows, or is no collection of texts or images.
        """
        if sparse.issparse(X):
            raise InputError("X: expected texts or images, got a sparse matrix")
        if isinstance(X, str) or not hasattr(X, "__len__"):
            raise InputError(f"X: expected a list of texts or images, got {type(X).__name__}")
        if len(X) == 0:
            raise InputError("X: expected at least one row, got none")
        return X
