"""Metrics of `evaluate` modules: loaded without a network, tried before the training, with an interval."""

import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
from evaluate import loading

from hf_finetune.errors import InputError
from hf_finetune.evaluation import extra_metrics
from hf_finetune.evaluation.extra_metrics import check_extra_metrics, load_extra_metrics, with_intervals
from hf_finetune.evaluation.metrics import softmax
from hf_finetune.tasks.ordinal import Ordinal

NAMES = ("bad", "good", "neutral")
SCRIPT = """
import datasets, evaluate
{imports}

class Mine(evaluate.Metric):
    def _info(self):
        features = datasets.Features({{{features}}})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, {arguments}):
        {body}
"""
CLASSES = '"predictions": datasets.Value("int64"), "references": datasets.Value("int64")'
SHARE = 'return {"share": sum(p == r for p, r in zip(predictions, references)) / len(references) ** power}'


def write(
    path: Path,
    *,
    features: str = CLASSES,
    arguments: str = "predictions, references, power=1",
    body: str = SHARE,
    imports: str = "",
) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SCRIPT.format(features=features, arguments=arguments, body=body, imports=imports))
    return str(path)


@pytest.fixture
def share(tmp_path: Path) -> str:
    return write(tmp_path / "share" / "share.py")


LABELS = np.random.default_rng(0).integers(3, size=90)
PROBABILITIES = softmax(np.random.default_rng(1).normal(size=(90, 3)) + 2 * np.eye(3)[LABELS])


def test_a_script_or_its_folder_with_arguments(share: str) -> None:
    metrics = load_extra_metrics([share, f"{Path(share).parent}:power=2"], NAMES)
    values = with_intervals(metrics, LABELS, PROBABILITIES, PROBABILITIES.argmax(1))
    correct = (PROBABILITIES.argmax(1) == LABELS).mean()
    assert values["share"].value == pytest.approx(correct) and values["share_2"].value == pytest.approx(correct / 90)
    # The exact interval of the share of correct rows is about as wide.
    assert 0.1 < values["share"].high - values["share"].low < 0.25 and values["share"].n == 90
    assert with_intervals(metrics, LABELS, PROBABILITIES, PROBABILITIES.argmax(1)) == values, "seeded"


def test_a_script_may_import_its_neighbor(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "neighbor.py").write_text("POWER = 2\n")
    script = write(tmp_path / "m" / "m.py", imports="from .neighbor import POWER")
    assert load_extra_metrics([script], NAMES)[0].key == "m"


def test_an_installed_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "their_package" / "share_of_theirs.py")
    monkeypatch.syspath_prepend(tmp_path)
    (metric,) = load_extra_metrics(["their_package.share_of_theirs"], NAMES)
    assert metric.key == "share_of_theirs" and metric.compute(
        np.array([0, 1]), np.eye(3)[[0, 2]], np.array([0, 2])
    ) == {metric.key: 0.5}
    for name in ("their_package.share_of_theirs", "their_package"):
        sys.modules.pop(name)


def test_a_cached_module_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `evaluate.load` leaves it behind."""
    package = "cached_metrics_of_a_test"
    folder = tmp_path / package / "metrics" / "evaluate-metric--share" / ("0" * 64)
    write(folder / "share.py")
    for parent in (folder, *folder.parents[:3]):
        (parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(loading, "init_dynamic_modules", lambda *_: str(tmp_path / package))
    (metric,) = load_extra_metrics(["share"], NAMES)
    assert metric.compute(np.array([0, 1]), np.eye(3)[[0, 1]], np.array([0, 1])) == {"share": 1.0}


def test_probabilities_and_names(tmp_path: Path) -> None:
    lists = '"prediction_scores": datasets.Sequence(datasets.Value("float64")), "references": datasets.Value("int32")'
    score = '"prediction_scores": datasets.Value("float64"), "references": datasets.Value("int32")'
    names = '"predictions": datasets.Value("string"), "references": datasets.Value("string")'
    scored = "prediction_scores, references"
    of_lists = write(
        tmp_path / "a.py", features=lists, arguments=scored, body='return {"x": max(prediction_scores[0])}'
    )
    of_score = write(tmp_path / "b.py", features=score, arguments=scored, body='return {"x": prediction_scores[0]}')
    of_names = write(
        tmp_path / "c.py", features=names, body='return {"x": len(predictions[0]), "y": len(references[0])}'
    )
    metrics = load_extra_metrics([of_lists, of_score, of_names], ["no", "yes!"])
    labels, probabilities = np.array([0]), np.array([[0.25, 0.75]])
    values = {
        name: value
        for metric in metrics
        for name, value in metric.compute(labels, probabilities, probabilities.argmax(1)).items()
    }
    assert values == {"a": 0.75, "b": 0.75, "c_x": 4, "c_y": 2}
    with pytest.raises(
        InputError, match=r"it needs prediction_scores: float64, references: int32; expected .* of 3 class"
    ):
        load_extra_metrics([of_score], NAMES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"features": '"sources": datasets.Value("string"), "references": datasets.Value("int64")'},
            "it needs sources: st",
        ),
        ({"features": CLASSES.replace("int64", "float64")}, "it needs predictions: float64"),
        ({"body": 'return {"matrix": [[1, 2]]}'}, "expected one number for each of its names, got none"),
        ({"body": "raise ValueError('binary\\nlabels only')"}, "binary labels only"),
        ({"imports": "import no_such_package"}, "No module named 'no_such_package'"),
        ({"imports": "a b"}, "invalid syntax"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    script = write(tmp_path / "mine.py", **changes)
    with pytest.raises(InputError, match=message) as error:
        load_extra_metrics([script], NAMES)
    assert str(error.value).startswith(f"evaluate.extra: {script}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("accuracy_of_theirs", "no such path, installed module or cached metric; --trust-remote-code downloads it"),
        ("their/metric", "no such path, installed module or cached metric; --trust-remote-code downloads it"),
        ("missing.py", "no such file"),
        ("json.decoder", "it holds no class of evaluate.Metric"),
        ("", "expected NAME or NAME:ARGUMENT=VALUE, got ''"),
    ],
)
def test_there_is_no_such_metric(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_extra_metrics([spec], NAMES)


def test_only_with_trust_the_hub_is_asked(monkeypatch: pytest.MonkeyPatch, share: str) -> None:
    loaded: list[str] = []
    local = load_extra_metrics([share], NAMES)[0].module
    monkeypatch.setattr(evaluate, "load", lambda name, *_, **__: loaded.append(name) or local)
    with pytest.raises(InputError):
        load_extra_metrics(["f1_of_theirs"], NAMES)
    assert loaded == []
    monkeypatch.setattr(extra_metrics, "is_offline_mode", lambda: False)
    load_extra_metrics(["f1_of_theirs"], NAMES, trust_remote_code=True)
    assert loaded == ["f1_of_theirs"]


def test_what_the_run_computes_anyway_is_refused(tmp_path: Path, share: str) -> None:
    with pytest.raises(InputError, match="a metric 'accuracy' is computed already; leave it out"):
        load_extra_metrics([write(tmp_path / "accuracy.py")], NAMES, computed=Ordinal.metrics)
    with pytest.raises(InputError, match="a metric 'mae' is computed already"):
        load_extra_metrics([write(tmp_path / "mae.py")], NAMES, computed=Ordinal.metrics)
    with pytest.raises(InputError, match="a metric 'share' is computed already"):
        load_extra_metrics([share, share], NAMES)


def test_a_metric_that_resamples_lack_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extra_metrics, "RESAMPLES", 20)
    body = 'if len(set(references)) < 3: raise ValueError("a class is missing")\n        return {"x": 1.0}'
    metrics = load_extra_metrics([write(tmp_path / "picky.py", body=body)], NAMES)
    assert with_intervals(metrics, np.array([0, 1, 2]), np.eye(3), np.arange(3)) == {}
    assert "picky has no value on most resamples of these rows; left out" in caplog.text
    # It is not defined on these rows at all.
    assert with_intervals(metrics, np.array([0, 1, 1]), np.eye(3), np.arange(3)) == {}
    assert "picky.py: a class is missing; left out" in caplog.text


def test_a_wrong_name_is_refused_before_the_data_are_read(share: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And offline no download is tried."""
    check_extra_metrics([share])
    monkeypatch.setattr(evaluate, "load", lambda *_, **__: pytest.fail("a download"))
    monkeypatch.setattr(extra_metrics, "is_offline_mode", lambda: True)
    with pytest.raises(InputError, match=r"evaluate\.extra: none: no such path, installed module or cached metric"):
        check_extra_metrics([share, "none"])
    with pytest.raises(InputError, match=r"evaluate\.extra: none: it is not in the cache, and HF_HUB_OFFLINE is set"):
        check_extra_metrics(["none"], trust_remote_code=True)


TAGS = '"predictions": datasets.Sequence(datasets.Value("int32")), "references": datasets.Sequence(datasets.Value("int32"))'
TAG_SCORES = TAGS.replace(
    '"predictions": datasets.Sequence(datasets.Value("int32"',
    '"prediction_scores": datasets.Sequence(datasets.Value("float"',
)
NUMBERS = '"predictions": datasets.Value("float"), "references": datasets.Value("float32")'


def test_metrics_of_tags_and_numbers(tmp_path: Path) -> None:
    """Three rows of two tags, of which five are as predicted; numbers that are 2 apart on average."""
    body = "return {'share': float(np.mean(np.array(predictions) == np.array(references)))}"
    tags = write(
        tmp_path / "tags.py",
        features=TAGS,
        arguments="predictions, references",
        body=body,
        imports="import numpy as np",
    )
    body = "return {'highest': max(map(max, prediction_scores))}"
    scores = write(tmp_path / "scores.py", features=TAG_SCORES, arguments="prediction_scores, references", body=body)
    metrics = load_extra_metrics([tags, scores], ("a", "b"), "sigmoid")
    labels, predicted = np.array([[1, 0], [1, 1], [0, 0]]), np.array([[1, 0], [0, 1], [0, 0]])
    values = with_intervals(metrics, labels, np.full((3, 2), 0.25), predicted)
    assert values["tags"].value == pytest.approx(5 / 6) and values["scores"].value == 0.25
    body = "return {'apart': sum(abs(p - r) for p, r in zip(predictions, references)) / len(references)}"
    apart = write(tmp_path / "apart.py", features=NUMBERS, arguments="predictions, references", body=body)
    (metric,) = load_extra_metrics([apart], ("score",), "identity")
    numbers = np.array([[1.0], [5.0]])
    assert metric.compute(numbers, numbers + 2, numbers + 2) == {"apart": 2.0}
    for path, activation, needed in (
        (tags, "identity", "a number for each row"),
        (apart, "sigmoid", "lists of a 0 or 1"),
    ):
        with pytest.raises(InputError, match=f"expected {needed}"):
            load_extra_metrics([path], ("a",), activation)
