"""A Space beside a pushed model, and its app in a process of its own, which loads the model from the Hub."""

from __future__ import annotations

import ast
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.hub_bench import Bench

from hf_finetune import Hub
from hf_finetune.errors import InputError
from hf_finetune.hub.space.push import SpaceOptions, push_space, space_files

OPTIONS = SpaceOptions("text", has_scores=True)


class Shown(Exception):
    """A message on the page, in place of Gradio's."""

    def __init__(self, message: str, **_: object) -> None:
        super().__init__(message)


class Recorder:
    """A classifier that knows what it read."""

    labels = ("bad", "good")

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def predict(self, rows: list[Any]) -> np.ndarray:
        self.rows += rows
        if "damaged" in rows:
            raise InputError("row 0: damaged")
        return np.array(["good"])

    def predict_proba(self, rows: list[Any]) -> np.ndarray:
        return np.array([[0.25, 0.75]], np.float32)


def classify_of(options: SpaceOptions, classifier: Recorder) -> Callable[..., Any]:
    """The function of a Space's app.py that answers, without Gradio."""
    tree = ast.parse(space_files("tester/reviews", options)["app.py"])
    tree.body = [each for each in tree.body if isinstance(each, ast.FunctionDef)]
    names: dict[str, Any] = {"classifier": classifier, "InputError": InputError, "gr": SimpleNamespace(Error=Shown)}
    names |= {"INPUTS": options.inputs, "HAS_SCORES": options.has_scores}
    exec(compile(tree, "app.py", "exec"), names)
    return names["classify"]


@pytest.mark.parametrize(
    ("inputs", "values", "row"),
    [("text", ["fine"], "fine"), ("pair", ["fine", "well"], ("fine", "well")), ("image", ["a.png"], "a.png")],
)
def test_what_the_app_answers(inputs: Any, values: list[str], row: object) -> None:
    classifier = Recorder()
    classify = classify_of(SpaceOptions(inputs, has_scores=True), classifier)
    assert classify(*values) == [{"prediction": "good"}, {"bad": 0.25, "good": 0.75}]
    assert classify_of(SpaceOptions(inputs, has_scores=False), classifier)(*values) == {"prediction": "good"}
    assert classifier.rows == [row, row]
    for empty in ("", " ", None):
        with pytest.raises(Shown, match="An input is empty"):
            classify(*values[:-1], empty)
    if inputs != "pair":
        with pytest.raises(Shown, match="row 0: damaged"):
            classify("damaged")


def test_the_app_reads_the_file_of_an_image() -> None:
    """Pixels that Gradio converted are others, of 16-bit gray images."""
    app = space_files("tester/photos", SpaceOptions("image", has_scores=True))["app.py"].decode()
    (fields,) = [
        each for each in ast.walk(ast.parse(app)) if isinstance(each, ast.Call) and ast.unparse(each.func) == "gr.Image"
    ]
    assert {each.arg: ast.literal_eval(each.value) for each in fields.keywords} == {
        "label": "Image",
        "type": "filepath",
        "image_mode": None,
    }


def test_a_space_names_its_model(bench: Bench) -> None:
    target = Hub(repo_id="tester/reviews", private=True)
    url = push_space(target, OPTIONS, endpoint=bench.server.endpoint)
    assert url == f"{bench.server.endpoint}/spaces/tester/reviews"
    space = bench.server.repo("tester/reviews", "space")
    assert space.private and len(space.history("main")) == 2
    files = space.at("main").files
    front = yaml.safe_load(files["README.md"].content.decode().split("---")[1])
    assert (front["sdk"], front["app_file"], front["models"]) == ("gradio", "app.py", ["tester/reviews"])
    assert files["requirements.txt"].content.startswith(b"hf_finetune==")
    app = files["app.py"].content.decode()
    compile(app, "app.py", "exec")
    assert "MODEL, INPUTS, HAS_SCORES = 'tester/reviews', 'text', True" in app

    push_space(target, OPTIONS, endpoint=bench.server.endpoint)
    assert len(space.history("main")) == 2, "nothing has changed"
    push_space(target, SpaceOptions("pair", has_scores=False, extras=("onnx",)), endpoint=bench.server.endpoint)
    assert len(space.history("main")) == 3 and b"'pair', False" in space.at("main").files["app.py"].content
    assert space.at("main").files["requirements.txt"].content.startswith(b"hf_finetune[onnx]==")


def test_another_app_is_kept(bench: Bench) -> None:
    bench.server.create("tester/reviews", "space")
    bench.server.commit("tester/reviews", {"app.py": b"mine", "README.md": b"---\ntitle: mine\n---\n"}, kind="space")
    with pytest.raises(InputError, match="the Space of this name holds another app"):
        push_space(Hub(repo_id="tester/reviews"), OPTIONS, endpoint=bench.server.endpoint)
    assert bench.server.repo("tester/reviews", "space").at("main").files["app.py"].content == b"mine"


@pytest.mark.parametrize("target", [Hub("tester/reviews", revision="old"), Hub("tester/reviews", create_pr=True)])
def test_a_model_of_another_branch_is_refused(target: Hub, bench: Bench) -> None:
    with pytest.raises(InputError, match="--space: the Space loads the model of the main branch"):
        push_space(target, OPTIONS, endpoint=bench.server.endpoint)
