"""The typed view of result.json."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from helpers.hub_run import example_result, interval

from hf_finetune import InputError, Result
from hf_finetune.evaluation.intervals import Interval


@pytest.fixture
def document() -> dict[str, Any]:
    scores = {"precision": interval(0.9), "recall": None, "f1": None, "support": 3, "predicted": 0}
    return {
        **example_result(),
        "per_class": {"test": {"neg<b>": scores}, "validation": {}},
        "doubts": [{"message": "a <tie> with the baseline", "remedy": "more --epochs, or --resume"}],
    }


def test_sections_are_typed(document: dict[str, Any]) -> None:
    result = Result(document)
    assert (result.name, result.split, result.method, result.seed) == ("movie-full", "test", "full", 0)
    assert result.metric("accuracy") == Interval(0.8461, 0.8461 - 0.03, 0.8461 + 0.03, 200)
    assert result.metric("accuracy", "validation").n == 100 and result.metrics["test"]["ece"].value == 0.04
    assert result.baselines["linear"].keys() == {"accuracy", "macro_f1"}
    assert result.per_class["neg<b>"]["precision"].value == 0.9 and result.per_class["neg<b>"]["recall"] is None
    assert result.parity["reload"]["ok"] and result.time["train_s"] == 70.0 and result.rows["train"] == 1600
    assert result["rows"] is document["rows"] and json.dumps(result.to_dict()) == json.dumps(document)


def test_unknown_metrics_and_splits(document: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"acuracy: no such metric, did you mean 'accuracy'\?"):
        Result(document).metric("acuracy")
    with pytest.raises(InputError, match="tests: no such split; there are validation, test"):
        Result(document).metric("accuracy", "tests")


def test_equal_by_content_and_pickled(document: dict[str, Any]) -> None:
    result = Result(document, Path("a"))
    assert result == Result(json.loads(json.dumps(document)), Path("b")) == pickle.loads(pickle.dumps(result))
    assert result != Result({**document, "seed": 1})


def test_prints_as_a_table_and_as_html(document: dict[str, Any]) -> None:
    result = Result(document)
    assert str(result).splitlines()[0] == "movie-full on 200 test rows, 95% intervals" and repr(result) == str(result)
    assert "linear (tfidf+logistic)" in str(result) and "accuracy  0.846 [0.816, 0.876]" in str(result)
    assert (
        "remedy: more `epochs=`, or `resume=True`" in str(result) and "more --epochs, or --resume" in result.to_text()
    )
    html = result._repr_html_()
    assert "<td>0.846 [0.816, 0.876]</td>" in html and "neg&lt;b&gt;" in html and "a &lt;tie&gt;" in html
    assert html.count("<table>") == html.count("</table>") == 2
    assert "more `epochs=`, or `resume=True`" in html, "remedies are Python's in a notebook"
    assert "<th>this model</th><th>majority</th>" in html and "<tr><td>accuracy</td>" in html, "a line a metric"


def test_many_classes_are_folded(document: dict[str, Any]) -> None:
    """Those with the lowest F1 come first, and are of tags in a result of tags."""
    scores = {
        f"tag{i:02}": {"precision": None, "recall": None, "f1": interval(i / 12), "support": 5}
        for i in range(12, 0, -1)
    }
    tags = {"problem_type": "multi_label_classification", "per_class": {"test": scores}}
    html = Result({**document, **tags})._repr_html_()
    shown, folded = html.split("<details><summary>2 others with a higher F1</summary>")
    assert "<th>tag</th>" in shown and shown.index("tag01") < shown.index("tag10") and "tag11" not in shown
    assert (
        "tag11" in folded
        and "tag12" in folded
        and "... and 2 tags with a higher F1" in str(Result({**document, **tags}))
    )
    entities = Result({**document, **tags, "problem_type": "named_entity_recognition"})
    assert "<th>entity</th>" in entities._repr_html_() and "... and 2 entities with a higher F1" in str(entities)


def test_results_of_earlier_versions_have_fewer_sections(tmp_path: Path) -> None:
    result = Result({"metrics": {"validation": {"accuracy": interval(0.5)}}})
    assert (result.split, result.labels, result.per_class, result.doubts, result.notes) == (
        "validation",
        (),
        {},
        (),
        (),
    )
    assert result._repr_html_() and str(result)
    with pytest.raises(InputError, match=r"no result.json"):
        Result.read(tmp_path)


def test_plots_of_the_folder_are_shown(document: dict[str, Any], tmp_path: Path) -> None:
    """The learning curves are in the summary of a notebook; a copy of a repository may have none."""
    result = Result(document, tmp_path)
    assert result.plots == Result(document).plots == {} and "<img" not in result._repr_html_()
    (tmp_path / "plots").mkdir()
    for name in ("confusion_matrix", "learning_curves", "mine"):
        (tmp_path / "plots" / f"{name}.png").write_bytes(b"picture")
    assert list(result.plots) == ["learning_curves", "confusion_matrix"]
    assert result.plots["confusion_matrix"]._repr_png_() == b"picture"
    assert result.plots["confusion_matrix"].svg == tmp_path / "plots" / "confusion_matrix.svg"
    assert 'src="data:image/png;base64,cGljdHVyZQ=="' in result._repr_html_()
