"""A Space beside a pushed model, and its app in a process of its own, which loads the model from the Hub."""

from __future__ import annotations

import pytest
import yaml
from helpers.hub_bench import Bench

from hf_finetune import Hub
from hf_finetune.errors import InputError
from hf_finetune.hub.space.push import SpaceOptions, push_space

OPTIONS = SpaceOptions("text", has_scores=True)


def test_a_space_names_its_model(bench: Bench) -> None:
    target = Hub(repo_id="tester/reviews", private=True)
    url = push_space(target, OPTIONS, endpoint=bench.server.endpoint)
    assert url == f"{bench.server.endpoint}/spaces/tester/reviews"
    space = bench.server.repo("tester/reviews", "space")
    assert space.private and len(space.history("main")) == 2
    files = space.at("main").files
    front = yaml.safe_load(files["README.md"].content.decode().split("---")[1])
    assert (front["sdk"], front["app_file"], front["models"]) == ("gradio", "app.py", ["tester/reviews"])
    assert files["requirements.txt"].content.startswith(b"hf_finetune[vision]==")
    app = files["app.py"].content.decode()
    compile(app, "app.py", "exec")
    assert "MODEL, INPUTS, HAS_SCORES = 'tester/reviews', 'text', True" in app

    push_space(target, OPTIONS, endpoint=bench.server.endpoint)
    assert len(space.history("main")) == 2, "nothing has changed"
    push_space(target, SpaceOptions("pair", has_scores=False), endpoint=bench.server.endpoint)
    assert len(space.history("main")) == 3 and b"'pair', False" in space.at("main").files["app.py"].content


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
