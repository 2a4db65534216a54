"""Pipelines as skops files: what is written is read again, and nothing else is."""

import typing
import zipfile
from pathlib import Path

import numpy as np
import pytest
import skops.io
from helpers.classical_rows import LABELS
from helpers.classical_rows import classical_rows as rows
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeClassifier

from hf_finetune.errors import InputError
from hf_finetune.features import skops_file
from hf_finetune.features.classical import fit_classical
from hf_finetune.features.config import (
    BoostedTrees,
    Classical,
    ClassicalClassifier,
    DecisionTree,
    NumberColumns,
    RandomForest,
    RowStatistics,
    TextCounts,
    WordOverlap,
    WordTfidf,
)
from hf_finetune.features.skops_file import check_indices, load_pipeline, save_pipeline

SMALL = {RandomForest: {"trees": 2}, BoostedTrees: {"rounds": 2}}


@pytest.mark.parametrize(
    "classifier", [c(**SMALL.get(c, {})) for c in typing.get_args(ClassicalClassifier)], ids=lambda c: type(c).__name__
)
def test_every_pipeline_is_read_again(classifier: object, tmp_path: Path) -> None:
    train = rows(40).add_column("text_pair", rows(40, 1)["text"][:])
    extractors = (WordTfidf(), WordOverlap(), TextCounts(), NumberColumns(), RowStatistics())
    fitted = fit_classical(Classical(classifier, extractors), train, labels=LABELS, search_s=1e-9)
    save_pipeline(fitted.pipeline, tmp_path / "pipeline.skops")
    again = load_pipeline(tmp_path / "pipeline.skops", "run")
    frame = fitted.table(train)
    assert (again.predict_proba(frame) == fitted.pipeline.predict_proba(frame)).all()


def test_a_file_holds_no_file_for_each_word(tmp_path: Path) -> None:
    """scikit-learn numbers words by numpy's integers where it keeps the most frequent ones only."""
    fitted = fit_classical(Classical(extractors=(WordTfidf(max_features=20),)), rows(40), labels=LABELS, search_s=1e-9)
    save_pipeline(fitted.pipeline, tmp_path / "pipeline.skops")
    with zipfile.ZipFile(tmp_path / "pipeline.skops") as archive:
        assert len(archive.namelist()) < 20


@pytest.mark.parametrize("most", [skops_file.MOST_CHARACTERS, 10], ids=["array", "long words"])
def test_words_keep_their_places(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skops_file, "MOST_CHARACTERS", most)
    fitted = fit_classical(Classical(extractors=(WordTfidf(),)), rows(40), labels=LABELS, search_s=1e-9)
    columns = fitted.pipeline["features"]
    before = columns.get_feature_names_out().tolist()
    save_pipeline(fitted.pipeline, tmp_path / "pipeline.skops")
    again = load_pipeline(tmp_path / "pipeline.skops", "run")
    assert again["features"].get_feature_names_out().tolist() == before == columns.get_feature_names_out().tolist()
    # What was saved can be fitted again, to other words.
    counter = columns.named_transformers_["tfidf"]
    assert counter.vocabulary is None and set(counter.fit(["other words"]).vocabulary_) >= {"other", "words"}
    # A loaded one is saved as well.
    save_pipeline(again, tmp_path / "again.skops")
    third = load_pipeline(tmp_path / "again.skops", "run")
    assert third["features"].get_feature_names_out().tolist() == before


def test_a_word_keeps_its_nul(tmp_path: Path) -> None:
    """An array of strings drops it at their end."""
    train = rows(40)
    train = train.remove_columns("text").add_column("text", [f"{text} \0" for text in train["text"]])
    fitted = fit_classical(Classical(extractors=(WordTfidf(),)), train, labels=LABELS, search_s=1e-9)
    names = fitted.pipeline["features"].get_feature_names_out().tolist()
    assert any(name.endswith("\0") for name in names)
    save_pipeline(fitted.pipeline, tmp_path / "pipeline.skops")
    again = load_pipeline(tmp_path / "pipeline.skops", "run")
    assert again["features"].get_feature_names_out().tolist() == names


def shout(texts: object) -> object:
    return texts


def test_other_types_are_not_loaded(tmp_path: Path) -> None:
    model = Pipeline([("features", FunctionTransformer(shout)), ("classifier", LogisticRegression())])
    model.fit(np.eye(4), [0, 1, 0, 1])
    skops.io.dump(model, tmp_path / "pipeline.skops")
    with pytest.raises(InputError, match=r"pipeline\.skops holds .*shout, which could run code, and is not loaded"):
        load_pipeline(tmp_path / "pipeline.skops", "run")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive"])
def test_another_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "pipeline.skops").write_bytes(content)
    with pytest.raises(InputError, match=r"not a fitted pipeline of scikit-learn \(.*restore it, or train again"):
        load_pipeline(tmp_path / "pipeline.skops", "run")


def test_a_model_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    skops.io.dump(LogisticRegression().fit(np.eye(2), [0, 1]), tmp_path / "pipeline.skops")
    with pytest.raises(InputError, match="not a fitted pipeline"):
        load_pipeline(tmp_path / "pipeline.skops", "run")


@pytest.mark.parametrize(("place", "value"), [("left", 10**6), ("right", 0), ("feature_idx", 10**6)])
def test_nodes_of_boosted_trees_stay_in_the_tree(place: str, value: int) -> None:
    """scikit-learn would read memory beyond the arrays, or never end."""
    pipeline = fit_classical(Classical(BoostedTrees(rounds=2, learning_rate=0.1)), rows(), labels=LABELS).pipeline
    check_indices(pipeline)
    pipeline["classifier"]._predictors[0][0].nodes[place][0] = value
    with pytest.raises(ValueError, match="a tree"):
        check_indices(pipeline)


@pytest.mark.parametrize("classifier", [DecisionTree(4), RandomForest(trees=2)])
@pytest.mark.parametrize(("place", "value"), [("children_left", 10**6), ("children_right", 0), ("feature", -5)])
def test_nodes_of_trees_stay_in_the_tree(classifier: object, place: str, value: int) -> None:
    model = fit_classical(Classical(classifier), rows(), labels=LABELS).pipeline["classifier"]
    check_indices(model)
    tree: DecisionTreeClassifier = model.estimators_[1] if hasattr(model, "estimators_") else model
    getattr(tree.tree_, place)[0] = value
    with pytest.raises(ValueError, match="a tree"):
        check_indices(model)


def test_sparse_matrices_stay_in_their_shape() -> None:
    matrix = sparse.csr_matrix(np.eye(3))
    matrix.indices[1] = 7
    with pytest.raises(ValueError, match="indices must be"):
        check_indices(Pipeline([("classifier", matrix)]))
