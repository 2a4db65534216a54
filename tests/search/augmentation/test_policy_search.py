"""A search from its data to its verdict: what it leaves, how it goes on, what it refuses."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from helpers.searches import PLENTY, fake_runs
from helpers.small_runs import small_recipe

from hf_finetune import Batching, Recipe, Supervised, Train
from hf_finetune.augmentation.compose import Compose, Phases
from hf_finetune.augmentation.mixing import Mixup
from hf_finetune.augmentation.text.words import DeleteWords, SwapWords
from hf_finetune.cli.main import main_command
from hf_finetune.cli.train import TrainJob, parse_train
from hf_finetune.errors import InputError, StoppedBySignal
from hf_finetune.pipeline.run import prepare
from hf_finetune.search import planning
from hf_finetune.search.augmentation import policy_search
from hf_finetune.search.augmentation.policy import Move, Policy
from hf_finetune.search.augmentation.policy_search import search_policy
from hf_finetune.search.augmentation.proxy_task import ProxyTask, Score
from hf_finetune.search.augmentation.report import NONE_HELPS, UNDECIDED, describe
from hf_finetune.search.augmentation.search_run import SearchRun
from hf_finetune.search.budget import Budget
from hf_finetune.search.config import SearchOptions
from hf_finetune.search.final_runs import FinalRun
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.search.searchers.base import Trial
from hf_finetune.search.searchers.table import SEARCHERS


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return small_recipe(tmp_path_factory.mktemp("input"))


def without_times(state: dict[str, Any]) -> dict[str, Any]:
    """What a search found, without seconds and places."""
    state = json.loads(json.dumps(state))
    for name in ("seconds", "folder"):
        state.pop(name)
    state["plan"] = {
        n: v for n, v in state["plan"].items() if n in ("steps", "recipe_steps", "trials", "rung_steps", "eval_rows")
    }
    for entry in [*state["trials"], *state["with"], *state["without"]]:
        for name in ("seconds", "step_s", "score_s", "head_s", "kept_s"):
            entry.pop(name, None)
    return state


@pytest.mark.usefixtures("gate_here")
def test_a_real_search_from_the_command_line(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "search"
    flags = ["--model", recipe.model.checkpoint, "--train.max-steps", "2", "--max-length", "32"]
    main_command(
        [
            "search",
            "augmentation",
            recipe.data.path,
            *flags,
            "--trials",
            "3",
            "--budget",
            "27h",
            "--seeds",
            "3",
            "--output",
            str(output),
        ]
    )
    said = capsys.readouterr().out
    state = json.loads((output / "search.json").read_text())
    assert state["rows"] == {"train": 54, "fit": 35, "scored": 19, "validation": 6}
    assert [t["policy"] for t in state["trials"][:3]] == ["none"] * 3 and len(state["trials"]) == 6
    assert [t["steps"] for t in state["trials"]] == [4, 8, 16] * 2
    assert [r["seed"] for r in state["with"]] == [r["seed"] for r in state["without"]] == [0, 1, 2]
    assert all(len(r["predicted"]) == 6 for r in [*state["with"], *state["without"]])
    assert state["plan"]["steps"] == 2 and state["evidence"]["n"] == 6
    for word in ("space ", "tried ", "evidence ", "verdict ", state["best"]["policy"], f"{output}/policy.yaml"):
        assert word in said
    assert ElementTree.parse(output / "search.svg").getroot().tag.endswith("svg")
    # Six rows allow no verdict: the fragment sets nothing, and can be used all the same.
    assert state["verdict"] == UNDECIDED
    job = parse_train(TrainJob, [recipe.data.path, *flags, "--config", str(output / "policy.yaml")], "train")
    assert job.recipe.data.augment == ()


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_a_helpful_policy_is_a_fragment_for_train(
    recipe: Recipe, searcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = fake_runs(monkeypatch, right_with=190, right_without=150)
    state = search_policy(
        RecipeVariant(recipe), SearchOptions(searcher, PLENTY, trials=8), output=str(tmp_path / "out")
    )
    assert state["verdict"] == "helps" and state["evidence"]["value"] == pytest.approx(0.2)
    assert state["evidence"]["low"] > 0 and "better" in describe(state)
    augment = requests[-1]["augment"]
    # As many pairs as there are at most: there is time for all.
    assert [a["augment"] for a in requests] == [(), augment] * 10
    assert [a["mix"] for a in requests] == [(), requests[-1]["mix"]] * 10 and (augment or requests[-1]["mix"])
    assert [a["seed"] for a in requests] == [seed for seed in range(10) for _ in range(2)]
    assert {a["steps"] for a in requests} == {state["plan"]["recipe_steps"]} == {7}
    job = parse_train(TrainJob, [recipe.data.path, "--config", str(tmp_path / "out" / "policy.yaml")], "train")
    assert job.recipe.data.augment == augment and job.recipe.objective.mix == requests[-1]["mix"]


def best_is(monkeypatch: pytest.MonkeyPatch, *schedule: Policy) -> None:
    """Whatever the trials say; a policy after another on the next rung."""
    real = SearchRun.best_trial

    def best(self: SearchRun, bar: Any) -> Trial:
        real(self, bar)
        return Trial(schedule, len(schedule) - 1)

    monkeypatch.setattr(SearchRun, "best_trial", best)


MIX = Move("Mixup", 0.6, 0.4)
SWAP = ((Move("SwapWords", 1.0, 1.0),),)


@pytest.mark.parametrize(
    ("policy", "lines"),
    [
        (Policy(mix=MIX), ["objective:", "  mix:", "  - {type: Mixup, alpha: 0.4, p: 0.6}"]),
        (
            Policy(SWAP, mix=MIX),
            [
                "data:",
                "  type: TextData",
                "  augment:",
                "  - {type: SwapWords, p: 0.3, keep: nothing}",
                "objective:",
                "  mix:",
                "  - {type: Mixup, alpha: 0.4, p: 0.6}",
            ],
        ),
    ],
)
def test_mixing_is_in_final_runs_and_fragment(
    recipe: Recipe, policy: Policy, lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = fake_runs(monkeypatch, right_with=190, right_without=150)
    best_is(monkeypatch, policy)
    state = search_policy(
        RecipeVariant(recipe), SearchOptions("sweep", PLENTY, trials=3, seeds=3), output=str(tmp_path / "out")
    )
    assert state["verdict"] == "helps" and "Mixup" in state["space"]
    assert [a["mix"] for a in requests] == [(), (Mixup(0.4, p=0.6),)] * 3
    fragment = tmp_path / "out" / "policy.yaml"
    assert [line for line in fragment.read_text().splitlines() if not line.startswith("#")] == lines
    job = parse_train(TrainJob, [recipe.data.path, "--text", "text", "--config", str(fragment)], "train")
    assert job.recipe.objective.mix == requests[-1]["mix"] and job.recipe.data.augment == requests[-1]["augment"]


def test_a_schedule_is_in_final_runs_and_fragment(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one starts after 4 of 16 steps of the longest trials, and the third after 8."""
    requests = fake_runs(monkeypatch, right_with=190, right_without=150)
    later = Policy(((Move("DeleteWords", 1.0, 0.4),),))
    best_is(monkeypatch, Policy(SWAP), Policy(), later)
    state = search_policy(
        RecipeVariant(recipe), SearchOptions("population", PLENTY, trials=3, seeds=3), output=str(tmp_path / "out")
    )
    phases = Phases((SwapWords(0.3), Compose(()), DeleteWords(0.12)), (0.25, 0.5))
    assert [a["augment"] for a in requests] == [(), (phases,)] * 3
    assert state["best"]["policy"] == "SwapWords 1 then none then DeleteWords 0.4"
    assert state["best"]["starts"] == [0.25, 0.5] and len(state["best"]["schedule"]) == 3
    fragment = ["--config", str(tmp_path / "out" / "policy.yaml")]
    job = parse_train(TrainJob, [recipe.data.path, "--text", "text", *fragment], "train")
    assert job.recipe.data.augment == (phases,)


@pytest.mark.parametrize(("searcher", "made"), [("sweep", 4), ("tpe", 5)])
def test_requested_number_of_trials_or_a_note(
    recipe: Recipe, tmp_path: Path, searcher: str, made: int, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    fake_runs(monkeypatch, right_with=120, right_without=120)
    monkeypatch.setattr(ProxyTask, "run", lambda self, stages: Score(0.0, 0.0, 0.1))
    with caplog.at_level(logging.INFO, "hf_finetune.run"):
        state = search_policy(
            RecipeVariant(recipe), SearchOptions(searcher, PLENTY, trials=5, seeds=3), output=str(tmp_path / "out")
        )
    # Three of none beside them.
    assert state["plan"]["trials"] == len(state["trials"]) - 3 == made
    assert (f"--trials 5: {searcher} makes {made}" in caplog.text) == (made < 5)


def test_the_recipes_own_mixing_stays(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = replace(recipe, objective=replace(recipe.objective, mix=(Mixup(0.9),)))
    requests, stages = fake_runs(monkeypatch, right_with=160, right_without=150), []
    real = ProxyTask.run

    def recorded(self: ProxyTask, given: list) -> Any:
        stages.extend(given)
        return real(self, given)

    monkeypatch.setattr(ProxyTask, "run", recorded)
    state = search_policy(
        RecipeVariant(own), SearchOptions("sweep", PLENTY, trials=3, seeds=3), output=str(tmp_path / "out")
    )
    assert "Mixup" not in state["space"] and "objective.mix has the recipe's own" in state["left_out"][-1]
    assert [a["mix"] for a in requests] == [(Mixup(0.9),)] * 6
    # Two of them are for measuring.
    assert [stage.mix for stage in stages] == [()] * 2 + [(Mixup(0.9),)] * (len(stages) - 2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"objective": Supervised(mix=(Mixup(),))}, "objective.mix has the recipe's own"),
        ({"batching": Batching(unpadded=True)}, "batching.unpadded: expected false or None"),
        ({"train": Train(per_device_train_batch_size=1)}, "a forward pass has a single row"),
        ({"method": "lora"}, None),
        ({"method": "lora", "train": Train(per_device_train_batch_size=1)}, "a forward pass has a single row"),
    ],
)
def test_why_no_mixing(recipe: Recipe, changes: dict, reason: str | None) -> None:
    searched = RecipeVariant(replace(recipe, **changes))
    actual = policy_search.why_no_mixing(searched, prepare(searched.for_proxy_task().recipe))
    assert actual is None if reason is None else reason in actual


@pytest.mark.parametrize(("right", "word"), [(151, UNDECIDED), (110, NONE_HELPS)])
def test_an_unhelpful_policy_is_commented_out(
    recipe: Recipe, right: int, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = fake_runs(monkeypatch, right_with=right, right_without=150)
    state = search_policy(RecipeVariant(recipe), SearchOptions("sweep", PLENTY, trials=3), output=str(tmp_path / "out"))
    assert state["verdict"] == word and state["evidence"]["value"] == pytest.approx((right - 150) / 200)
    assert f"verdict       {word}" in describe(state)
    lines = (tmp_path / "out" / "policy.yaml").read_text().splitlines()
    assert lines and all(line.startswith("# ") for line in lines)
    tried = tmp_path / "tried.yaml"
    tried.write_text("\n".join(line.removeprefix("# ") for line in lines[3:]))
    job = parse_train(TrainJob, [recipe.data.path, "--text", "text", "--config", str(tried)], "train")
    assert job.recipe.data.augment == requests[-1]["augment"] != ()


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_a_resumed_search_gives_the_same_result(
    recipe: Recipe, searcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_runs(monkeypatch, right_with=160, right_without=150)
    options = SearchOptions(searcher, PLENTY, trials=9)
    whole = search_policy(RecipeVariant(recipe), options, output=str(tmp_path / "whole"))
    real, calls = ProxyTask.run, []

    def dies(self: ProxyTask, policies: Any) -> Any:
        calls.append(policies)
        # Three are for measuring, three without augmentation, then four trials.
        if len(calls) > 10:
            raise KeyboardInterrupt
        return real(self, policies)

    monkeypatch.setattr(ProxyTask, "run", dies)
    with pytest.raises(StoppedBySignal, match="stopped after 7 trials; --resume"):
        search_policy(RecipeVariant(recipe), options, output=str(tmp_path / "killed"))
    monkeypatch.setattr(ProxyTask, "run", real)
    assert len(json.loads((tmp_path / "killed" / "search.json").read_text())["trials"]) == 7
    again = search_policy(RecipeVariant(recipe), options, output=str(tmp_path / "killed"), resume=True)
    assert without_times(again) == without_times(whole)
    assert (tmp_path / "killed" / "policy.yaml").read_text() == (tmp_path / "whole" / "policy.yaml").read_text()
    with pytest.raises(InputError, match="finished, there is nothing to resume"):
        search_policy(RecipeVariant(recipe), options, output=str(tmp_path / "killed"), resume=True)


def test_resuming_another_search_is_refused(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_runs(monkeypatch, right_with=160, right_without=150)
    options, output = SearchOptions("sweep", PLENTY, trials=3), str(tmp_path / "out")

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr(policy_search, "train_final", dies)
        with pytest.raises(StoppedBySignal):
            search_policy(RecipeVariant(recipe), options, output=output)
    with pytest.raises(InputError, match=r"searcher: the search in .* has 'sweep', now it is 'reinforce'"):
        search_policy(RecipeVariant(recipe), replace(options, searcher="reinforce"), output=output, resume=True)
    other = replace(recipe, train=replace(recipe.train, weight_decay=0.5))
    with pytest.raises(InputError, match=r"train\.weight_decay"):
        search_policy(RecipeVariant(other), options, output=output, resume=True)
    with pytest.raises(InputError, match="the folder is not empty"):
        search_policy(RecipeVariant(recipe), options, output=output)


def test_resuming_in_the_folder_of_a_run_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(InputError, match=r"no search\.json, this is not the folder of a search"):
        search_policy(RecipeVariant(recipe), SearchOptions(), output=str(tmp_path), resume=True)
    assert (tmp_path / "recipe.json").read_text() == "{}"


def test_fewer_than_three_seeds_are_undecided(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that would be called better, did it not rest on two seeds."""
    requests = fake_runs(monkeypatch, right_with=190, right_without=150)
    real = policy_search.train_final

    def slower(*arguments: Any, **fields: Any) -> FinalRun:
        # The fourth run takes nearly all of the time.
        return replace(real(*arguments, **fields), seconds=PLENTY - 3600 if len(requests) == 4 else 1.0)

    monkeypatch.setattr(policy_search, "train_final", slower)
    state = search_policy(RecipeVariant(recipe), SearchOptions("sweep", PLENTY, trials=3), output=str(tmp_path / "out"))
    assert len(state["with"]) == len(state["without"]) == 10 and state["verdict"] == "helps"
    monkeypatch.setattr(Budget, "used_s", property(lambda _: PLENTY - 3600 if len(requests) >= 4 else 0.0))
    requests.clear()
    state = search_policy(
        RecipeVariant(recipe), SearchOptions("sweep", PLENTY, trials=3), output=str(tmp_path / "slow")
    )
    assert len(state["with"]) == len(state["without"]) == 2
    assert state["evidence"]["low"] > 0 and state["verdict"] == UNDECIDED


def test_macro_f1_of_few_rows_is_undecided(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_runs(monkeypatch, right_with=190, right_without=150)
    recipe = replace(recipe, evaluate=replace(recipe.evaluate, metric="macro_f1"))
    for least, word in ((200, "helps"), (201, UNDECIDED)):
        monkeypatch.setattr(planning, "MIN_EVAL_ROWS", least)
        state = search_policy(
            RecipeVariant(recipe), SearchOptions("sweep", PLENTY, trials=3), output=str(tmp_path / word)
        )
        assert state["evidence"]["metric"] == "macro_f1" and state["verdict"] == word


def test_trials_stop_when_their_time_is_over(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_runs(monkeypatch, right_with=160, right_without=150)
    real = ProxyTask.run
    slow = {"by": 1.0}

    def slower(self: ProxyTask, policies: Any) -> Any:
        actual = real(self, policies)
        return replace(actual, seconds=actual.seconds * slow["by"])

    monkeypatch.setattr(ProxyTask, "run", slower)
    planned = SearchRun.plan_trials

    def then_slow(self: SearchRun) -> None:
        planned(self)
        slow["by"] = 1e6

    monkeypatch.setattr(SearchRun, "plan_trials", then_slow)
    state = search_policy(RecipeVariant(recipe), SearchOptions("sweep", 900.0), output=str(tmp_path / "out"))
    # Those without augmentation have used it up; one policy is tried in any case.
    assert state["plan"]["trials"] > 3 and len(state["trials"]) == 4
    assert "verdict" in state
