"""The signature of `train`, and the call that a card shows."""

from __future__ import annotations

import inspect
from pathlib import Path

import pandas as pd
import pytest

from hf_finetune import Classifier, InputError, Result, SwapWords, train
from hf_finetune.search.fine_tuning import public_call
from hf_finetune.sklearn import FineTunedClassifier, FineTunedRegressor

SIGNATURES = {
    train: "data *validation *test *model *method *text *label *epochs *seed *output *resume *push **fields",
    Classifier.load: "model *revision *trust_remote_code *limits",
    Classifier.predict: "self inputs *text *text_pair *image *batch_size *precision *reverse_complement *limits",
    Classifier.predict_proba: "self inputs *text *text_pair *image *batch_size *precision *reverse_complement *limits",
    Classifier.evaluate: "self data *text *text_pair *image *label *split *drop_bad_rows *batch_size *extra *reverse_complement *limits",
    Classifier.embed: "self inputs *text *text_pair *image *limits",
    Classifier.save: "self folder",
    Classifier.push_to_hub: "self repo_id *private *revision *create_pr *space",
    Result.read: "folder",
    Result.metric: "self name split",
    FineTunedClassifier: "model *method *epochs *learning_rate *max_length *seed *output *verbose **fields",
    FineTunedClassifier.fit: "self X y",
    FineTunedRegressor: "model *method *epochs *learning_rate *max_length *seed *output *verbose **fields",
    FineTunedRegressor.fit: "self X y",
}


def test_names_that_programs_rely_on() -> None:
    """Names may be added. A program that uses these must go on working."""
    marks = {inspect.Parameter.KEYWORD_ONLY: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    for function, expected in SIGNATURES.items():
        parameters = inspect.signature(function).parameters.values()
        actual = " ".join(f"{marks.get(parameter.kind, '')}{parameter.name}" for parameter in parameters)
        assert actual == expected, function.__qualname__
    public = {name for name in dir(Classifier) if not name.startswith("_")}
    assert public == {
        "load",
        "predict",
        "predict_proba",
        "evaluate",
        "embed",
        "compress",
        "export",
        "save",
        "push_to_hub",
    }
    sections = {"name", "checkpoint", "method", "seed", "labels", "rows", "split", "metrics", "baselines", "per_class"}
    sections |= {"per_target", "doubts", "parity", "time", "throughput", "notes", "document", "folder", "plots"} | {
        "rungs"
    }
    fields = {name for name, value in vars(Result).items() if isinstance(value, property) and not name.startswith("_")}
    assert fields | {"document", "folder"} == sections


def test_the_call_on_a_card(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").touch()
    frame = pd.DataFrame({"text": ["secret"]})
    assert public_call(frame, {"text": "text", "push": "me/x"}, test=frame, validation=None) == (
        "hf_finetune.train(data, test=test, text='text')"
    )
    call = public_call(
        tmp_path / "reviews.csv", {"augment": [SwapWords(p=0.2)], "optim": {"optimizer": "Lion"}, "epochs": 2}
    )
    assert (
        call == "hf_finetune.train('reviews.csv', augment=(SwapWords(p=0.2),), optim={'optimizer': 'Lion'}, epochs=2)"
    )


def test_bad_calls_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"text": ["a", "b"] * 10, "label": [0, 1] * 10})
    for arguments, message in (
        ({"data": 5}, "data: expected a pandas or polars DataFrame"),
        ({"data": None}, "data: expected a pandas or polars DataFrame"),
        ({"data": "nowhere.csv"}, "nowhere.csv: no such file or folder"),
        ({"data": frame, "validation": frame}, "`validation=`, `test=`: these are the training rows"),
        ({"data": frame, "text": "txt"}, "`text=` txt: data .DataFrame. has no such column, did you mean 'text'"),
        (
            {"data": frame, "epochs": "3"},
            "train.num_train_epochs: expected a number above 0 and at most 1000000 or null, got '3'",
        ),
        ({"data": frame, "model": tmp_path / "none"}, "none: "),
        ({"data": frame, "epoch": 3}, "epoch: no such keyword, did you mean 'epochs'"),
    ):
        with pytest.raises(InputError, match=message) as error:
            train(**arguments)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
