"""The estimators keep scikit-learn's contract; a stand-in trains in their place, so that the checks take no minutes."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MultiLabelBinarizer
from sklearn.utils.estimator_checks import parametrize_with_checks

from hf_finetune import InputError, sklearn
from hf_finetune.sklearn import FineTunedClassifier, FineTunedRegressor


class Numbers:
    """A classifier, tagger or regression model of texts that consist of numbers."""

    def __init__(self, texts: list[str], labels: list[Any], task: str) -> None:
        features, classes = self.features(texts), LogisticRegression(C=100.0, max_iter=200)
        self.fitted: Any = LinearRegression()
        self.binarizer = MultiLabelBinarizer()
        self.labels: tuple[str, ...] = ("label",)
        if task == "single-label":
            self.fitted, self.labels = classes, tuple(sorted({*labels}))
        elif task == "multi-label":
            self.fitted, labels = OneVsRestClassifier(classes), self.binarizer.fit_transform(labels)
            self.labels = tuple(self.binarizer.classes_)
        self.fitted.fit(features, labels)

    @staticmethod
    def features(texts: Any) -> np.ndarray:
        width = 10
        rows = [[float(word) for word in str(text).split()] for text in texts]
        return np.array([np.resize(row, width) for row in rows])

    def predict(self, texts: Any) -> Any:
        predicted = self.fitted.predict(self.features(texts))
        return predicted if predicted.ndim == 1 else self.binarizer.inverse_transform(predicted)

    def predict_proba(self, texts: Any) -> np.ndarray:
        return self.fitted.predict_proba(self.features(texts)).astype(np.float32)


class OnNumbers:
    """For scikit-learn's checks, whose data are arrays of numbers: their rows as texts."""

    def __sklearn_tags__(self) -> Any:
        tags: Any = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.two_d_array = True
        return tags

    def _inputs(self, X: Any, *y: Any, **options: Any) -> Any:
        if not sparse.issparse(X):
            rows = np.asarray(X.__array__() if hasattr(X, "__array__") else X)
            if rows.ndim == 2:
                X = [" ".join(map(str, row)) for row in rows]
        return super()._inputs(X, *y, **options)  # type: ignore[misc]


class Classes(OnNumbers, FineTunedClassifier):
    pass


class Targets(OnNumbers, FineTunedRegressor):
    pass


TEXTS_HAVE_NO = {
    "check_n_features_in": "a text is not an array of features",
    "check_n_features_in_after_fitting": "a text is not an array of features",
    "check_fit1d": "a list of texts has one dimension",
    "check_fit2d_predict1d": "a list of texts has one dimension",
    "check_classifiers_train": "a text is not an array of features: another number of them is no error",
    "check_do_not_raise_errors_in_init_or_set_params": "it sets a parameter `fields`; only names of fields are ones",
    "check_estimators_empty_data_messages": "a row without features is an empty text",
}


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    def train(data: Any, *, task: str, **keywords: Any) -> Numbers:
        calls.append(keywords)
        return Numbers(*data, task)

    monkeypatch.setattr(sklearn, "train", train)
    return calls


@parametrize_with_checks([Classes(), Targets()], expected_failed_checks=lambda estimator: TEXTS_HAVE_NO)
def test_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


TEXTS = [f"{i} 1" for i in range(20)] + [f"-{i} -1" for i in range(1, 21)]
LABELS = ["up"] * 20 + ["down"] * 20


@pytest.mark.parametrize("labels", [LABELS, [1] * 20 + [10] * 20, [True] * 20 + [False] * 20, [2.0] * 20 + [1.0] * 20])
def test_classes_keep_their_type_and_order(labels: list[Any]) -> None:
    fitted = FineTunedClassifier().fit(TEXTS, labels)
    assert fitted.classes_.tolist() == sorted({*labels}) and fitted.predict(TEXTS).tolist() == labels
    assert fitted.predict_proba(TEXTS)[0].argmax() == sorted({*labels}).index(labels[0])
    assert fitted.score(pd.Series(TEXTS), labels) == 1


def test_every_keyword_is_a_parameter(stand_in: list[dict[str, Any]]) -> None:
    estimator = FineTunedClassifier("bert", label_smoothing=0.1).set_params(epochs=2, rows_per_class=8)
    copy = clone(estimator)
    assert copy.get_params() == estimator.get_params() and copy.get_params()["rows_per_class"] == 8
    assert "label_smoothing=0.1" in repr(copy) and "rows_per_class=8" in repr(copy)
    copy.fit(TEXTS, LABELS)
    keywords = {name: value for name, value in stand_in[-1].items() if name != "output"}
    assert keywords == {
        "model": "bert",
        "method": "full",
        "epochs": 2,
        "seed": 0,
        "label_smoothing": 0.1,
        "rows_per_class": 8,
    }


@pytest.mark.parametrize("estimator", [FineTunedClassifier, FineTunedRegressor])
def test_a_wrong_name_is_refused_when_it_is_given(estimator: type[FineTunedClassifier]) -> None:
    """And nothing is set."""
    fitted = estimator()
    with pytest.raises(InputError, match="epochz: no such keyword, did you mean 'epochs'"):
        fitted.set_params(seed=3, epochz=3)
    assert fitted.seed == 0 and "epochz" not in fitted.get_params()
    with pytest.raises(InputError, match="lerning_rate: no such keyword, did you mean 'learning_rate'"):
        estimator(lerning_rate=1e-3)
    with pytest.raises(InputError, match="task: expected none, as y tells it"):
        estimator(task="regression")
    assert estimator(train={"weight_decay": 0.1}, low_resolution=32).get_params()["low_resolution"] == 32


def test_tags() -> None:
    """An array of 0 and 1, sparse or dense, or a DataFrame; a column without a row is never predicted."""
    hot = np.array([[label == "up", True, False] for label in LABELS]).astype(int)
    hot[::3, 1] = 0
    frame = pd.DataFrame(hot, columns=["up", "any", "none"])
    for y in (hot, sparse.csr_array(hot), frame):
        fitted = FineTunedClassifier().fit(TEXTS, y)
        predicted, scores = fitted.predict(TEXTS), fitted.predict_proba(TEXTS)
        assert predicted.shape == scores.shape == (40, 3) and predicted[:, 0].tolist() == hot[:, 0].tolist()
        assert fitted.multilabel_ and predicted.dtype == int and not predicted[:, 2].any() and not scores[:, 2].any()
    assert fitted.classes_.tolist() == ["up", "any", "none"] and 0 < fitted.score(TEXTS, hot) <= 1
    folds = KFold(2, shuffle=True, random_state=0)
    assert cross_val_score(FineTunedClassifier(), TEXTS, hot, cv=folds).shape == (2,)
    with pytest.raises(InputError, match="y: expected a class for each row, or an array of 0 and 1"):
        FineTunedClassifier().fit(TEXTS, [["up"], ["down"]] * 20)


def test_numbers() -> None:
    """The score is R²."""
    numbers = [float(text.split()[0]) for text in TEXTS]
    fitted = FineTunedRegressor().fit(TEXTS, numbers)
    assert fitted.predict(TEXTS) == pytest.approx(numbers) and fitted.score(TEXTS, numbers) == pytest.approx(1)
    assert cross_val_score(FineTunedRegressor(), TEXTS, numbers, cv=2) == pytest.approx([1, 1])
    copy = pickle.loads(pickle.dumps(clone(fitted).fit(TEXTS, pd.Series(numbers))))
    assert copy.predict(TEXTS[:1]).dtype == np.float64
    with pytest.raises(ValueError, match="could not convert string to float"):
        FineTunedRegressor().fit(TEXTS, LABELS)


def test_pipelines_grids_and_folds(stand_in: list[dict[str, Any]]) -> None:
    pipeline = make_pipeline(FunctionTransformer(lambda texts: [text.strip() for text in texts]), FineTunedClassifier())
    assert cross_val_score(pipeline, TEXTS, LABELS, cv=4).tolist() == [1, 1, 1, 1]
    grid = GridSearchCV(pipeline, {"finetunedclassifier__learning_rate": [1e-4, 1e-3]}, cv=2).fit(TEXTS, LABELS)
    assert grid.score(TEXTS, LABELS) == 1 and {call.get("learning_rate") for call in stand_in[4:]} == {1e-4, 1e-3}


def test_pickled_without_its_folder() -> None:
    fitted = FineTunedClassifier(label_smoothing=0.1).fit(TEXTS, LABELS)
    copy = pickle.loads(pickle.dumps(fitted))
    assert copy.predict(TEXTS).tolist() == LABELS and copy.get_params() == fitted.get_params()


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ("a text", "X: expected a list of texts or images, got str"),
        ([], "X: expected at least one row"),
        (sparse.csr_array((40, 2)), "X: expected texts or images, got a sparse matrix"),
        (TEXTS[1:], "inconsistent numbers of samples"),
    ],
)
def test_refusals(X: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FineTunedClassifier().fit(X, LABELS)
