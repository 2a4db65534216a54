"""The estimator keeps scikit-learn's contract; a stand-in trains in its place, so that the checks take no minutes."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from hf_finetune import InputError, sklearn
from hf_finetune.sklearn import FineTunedClassifier


class Numbers:
    """A classifier of texts that consist of numbers."""

    def __init__(self, texts: list[str], labels: list[str]) -> None:
        if len({*labels}) == 1:
            raise InputError(f"data: every row has the label {labels[0]!r}; expected at least two classes")
        self.fitted = LogisticRegression(C=100.0, max_iter=200).fit(self.features(texts), labels)
        self.labels = tuple(self.fitted.classes_)

    @staticmethod
    def features(texts: Any) -> np.ndarray:
        width = 10
        rows = [[float(word) for word in str(text).split()] for text in texts]
        return np.array([np.resize(row, width) for row in rows])

    def predict_proba(self, texts: Any) -> np.ndarray:
        return self.fitted.predict_proba(self.features(texts)).astype(np.float32)


class OnNumbers(FineTunedClassifier):
    """For scikit-learn's checks, whose data are arrays of numbers: their rows as texts."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags

    def _inputs(self, X: Any) -> Any:
        if not sparse.issparse(X):
            rows = np.asarray(X.__array__() if hasattr(X, "__array__") else X)
            if rows.ndim == 2:
                return super()._inputs([" ".join(map(str, row)) for row in rows])
        return super()._inputs(X)


TEXTS_HAVE_NO = {
    "check_n_features_in": "a text is not an array of features",
    "check_n_features_in_after_fitting": "a text is not an array of features",
    "check_fit1d": "a list of texts has one dimension",
    "check_fit2d_predict1d": "a list of texts has one dimension",
    "check_classifiers_train": "a text is not an array of features: another number of them is no error",
    "check_estimators_empty_data_messages": "a row without features is an empty text",
}


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    def train(data: Any, **keywords: Any) -> Numbers:
        calls.append(keywords)
        return Numbers(*data)

    monkeypatch.setattr(sklearn, "train", train)
    return calls


@parametrize_with_checks([OnNumbers()], expected_failed_checks=lambda estimator: TEXTS_HAVE_NO)
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
