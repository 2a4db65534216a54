"""Fine-tuning as estimators of scikit-learn: classes, tags and numbers.

Shapes: N rows, C classes or tags.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets, is_multilabel
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from hf_finetune.config.keywords import check_keyword
from hf_finetune.data.config import TaskName
from hf_finetune.errors import InputError
from hf_finetune.inference.session import python_session
from hf_finetune.search.fine_tuning import train

if TYPE_CHECKING:
    from sklearn.utils import Tags

    from hf_finetune.inference.classifier import Classifier


class _FineTuned(BaseEstimator):
    """What the estimators have in common: parameters, rows, and a run in `fit`."""

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
        self._fields: tuple[str, ...] = ()
        self.set_params(**fields)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name, further keywords included."""
        return {**super().get_params(deep), **{name: getattr(self, name) for name in self._fields}}

    def set_params(self, **params: Any) -> Self:
        """Set parameters. Any keyword of `hf_finetune.train` is one.

        Raises:
            InputError: there is no such keyword; nothing is set.
        """
        further = [name for name in params if name not in self.get_params(deep=False)]
        for name in further:
            if name == "task":
                raise InputError("task: expected none, as y tells it; leave it out")
            check_keyword(name)
        self._fields = (*self._fields, *further)
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def _train(self, inputs: Any, labels: list[Any], task: TaskName) -> Classifier:
        """Return the classifier of a run. Without `output` its folder is removed with it."""
        keywords = {name: value for name, value in self.get_params(deep=False).items() if value is not None}
        verbose, output = keywords.pop("verbose"), keywords.pop("output", None)
        temporary = None if output is not None else Path(tempfile.mkdtemp(prefix="hf_finetune_"))
        folder = output if temporary is None else temporary / "run"
        try:
            with python_session(notes=verbose):
                classifier = train((inputs, labels), task=task, output=folder, **keywords)
        except BaseException:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
            raise
        if temporary is not None:
            weakref.finalize(classifier, shutil.rmtree, temporary, ignore_errors=True)
        return classifier

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags

    def _inputs(self, X: Any, y: Any = None, *, labeled: bool = False) -> Any:
        """Return rows as `train` and `Classifier` take them.

        Raises:
            InputError: there are none, or it is no collection of texts or images.
            ValueError: with `labeled`, there is no y, or one of another length.
        """
        if labeled and y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        if sparse.issparse(X):
            raise InputError("X: expected texts or images, got a sparse matrix")
        if isinstance(X, str) or not hasattr(X, "__len__"):
            raise InputError(f"X: expected a list of texts or images, got {type(X).__name__}")
        if len(X) == 0:
            raise InputError("X: expected at least one row, got none")
        if labeled:
            check_consistent_length(X, y)
        return X


class FineTunedClassifier(ClassifierMixin, _FineTuned):
    """Fine-tune on texts or images in `fit`, by `hf_finetune.train`: for `cross_val_score`, pipelines and grids.

    `X` is a list, array or Series of texts or images, an array of one column of texts or of two columns of pairs, or a
    DataFrame. `y` has a class for each row or, as everywhere in scikit-learn, a 0 or 1 for each tag, shape (N, C): then
    any number of tags is predicted. Every fit is a whole run with its gates and validation rows, which are held out
    from `X`. A pickle contains the files of the model.

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
        classes_: the classes, sorted; of tags the numbers of the columns of `y`, or their names in a DataFrame.
        multilabel_: whether tags are predicted.
        classifier_: the fitted `hf_finetune.Classifier`, with its `result`.

    Examples:
        >>> from hf_finetune.sklearn import FineTunedClassifier
        >>> estimator = FineTunedClassifier(epochs=1, label_smoothing=0.1).fit(frame["review"], frame["stars"])
        >>> estimator.classes_.tolist(), estimator.predict_proba(["works as it should"]).shape
        (['bad', 'good'], (1, 2))
        >>> 0 <= estimator.score(frame["review"][:20], frame["stars"][:20]) <= 1
        True

    Raises:
        InputError: `fields` has a name that is no keyword.
    """

    classes_: np.ndarray
    multilabel_: bool
    classifier_: Classifier

    def fit(self, X: Any, y: Any) -> Self:
        """Fine-tune on `X` with the labels `y`.

        Raises:
            ValueError: `X` has no rows, or `y` another number of them or no classes.
            InputError: see `hf_finetune.train`.
        """
        inputs = self._inputs(X, y, labeled=True)
        return self._fit_tags(inputs, y) if is_multilabel(y) else self._fit_classes(inputs, y)

    def _fit_classes(self, inputs: Any, y: Any) -> Self:
        if isinstance(y, list | tuple) and any(isinstance(each, list | tuple | set) for each in y):
            raise InputError(
                "y: expected a class for each row, or an array of 0 and 1 with a column for each tag, as "
                "MultiLabelBinarizer of scikit-learn makes it of lists"
            )
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        classes, ids_N = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise InputError(f"y: expected at least two classes, got 1 class: {classes[0]!r}")
        # As names: a run reads labels as text, whatever their type.
        names = [str(value) for value in classes.tolist()]
        classifier = self._train(inputs, [names[i] for i in ids_N], "single-label")
        self.classes_, self.classifier_, self.multilabel_ = classes, classifier, False
        self._columns = [classifier.labels.index(name) for name in names]
        return self

    def _fit_tags(self, inputs: Any, y: Any) -> Self:
        hot_NC = (y.toarray() if sparse.issparse(y) else np.asarray(y)).astype(bool)
        classes = np.asarray(y.columns) if isinstance(y, pd.DataFrame) else np.arange(hot_NC.shape[1])
        names = np.array([str(value) for value in classes.tolist()], dtype=object)
        classifier = self._train(inputs, [names[hot_C].tolist() for hot_C in hot_NC], "multi-label")
        self.classes_, self.classifier_, self.multilabel_ = classes, classifier, True
        # A tag without a row is unknown to the run: -1.
        known = {name: i for i, name in enumerate(classifier.labels)}
        self._columns = [known.get(name, -1) for name in names]
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the class of each row, shape (N,), or a 0 or 1 for each tag, (N, C)."""
        check_is_fitted(self)
        if not self.multilabel_:
            return self.classes_[self.predict_proba(X).argmax(axis=1)]
        with python_session(notes=self.verbose):
            predicted = self.classifier_.predict(self._inputs(X))
        labels = (*self.classifier_.labels, None)
        names = [labels[column] for column in self._columns]
        return np.array([[int(name in tags) for name in names] for tags in map(set, predicted)])

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class or tag, shape (N, C), float32, in the order of `classes_`."""
        check_is_fitted(self)
        with python_session(notes=self.verbose):
            scores_NC = self.classifier_.predict_proba(self._inputs(X))
        return np.pad(scores_NC, ((0, 0), (0, 1)))[:, self._columns]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class FineTunedRegressor(RegressorMixin, _FineTuned):
    """Fine-tune on texts or images with a number each; everything else is as in `FineTunedClassifier`.

    Args:
        model, method, epochs, learning_rate, max_length, seed, output, verbose, fields: see `FineTunedClassifier`.

    Attributes:
        regressor_: the fitted `hf_finetune.Classifier`, with its `result`.

    Examples:
        >>> from hf_finetune.sklearn import FineTunedRegressor
        >>> estimator = FineTunedRegressor(epochs=1).fit(frame["review"], frame["review"].str.len() / 10)
        >>> estimator.predict(["works as it should", "broke after a day"]).shape
        (2,)
        >>> estimator.score(frame["review"], frame["review"].str.len() / 10) <= 1  # R²
        True

    Raises:
        InputError: `fields` has a name that is no keyword.
    """

    regressor_: Classifier

    def fit(self, X: Any, y: Any) -> Self:
        """Fine-tune on `X` with the numbers `y`.

        Raises:
            ValueError: `X` has no rows, or `y` another number of them, or one that is no finite number.
            InputError: see `hf_finetune.train`.
        """
        inputs = self._inputs(X, y, labeled=True)
        y = column_or_1d(y, dtype=np.float64, warn=True)
        assert_all_finite(y, input_name="y")
        self.regressor_ = self._train(inputs, y.tolist(), "regression")
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the number of each row, shape (N,), float64."""
        check_is_fitted(self)
        with python_session(notes=self.verbose):
            return np.asarray(self.regressor_.predict(self._inputs(X)), dtype=np.float64)
