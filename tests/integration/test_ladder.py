"""Method auto, from its rungs to its result: stopped, killed and resumed, and what it leaves."""

import csv
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers.hub_server import HubServer
from helpers.small_runs import recipe_of_a_lower_layer, small_recipe, stop_after
from helpers.tiny import tiny_text_checkpoint

from hf_finetune import Classifier, Hub, InputError, Launch, Recipe, Search, StoppedBySignal, run
from hf_finetune.hub.push import push
from hf_finetune.pipeline import push as push_run
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.run_folder import UNFINISHED
from hf_finetune.search.checkpoints import choose
from hf_finetune.search.ladder import climb as module
from hf_finetune.search.ladder import costs, decisions, ensemble, folds, judgement, judges, standing
from hf_finetune.search.ladder.costs import RungCost
from hf_finetune.utils.manifest import Manifest


@pytest.fixture(autouse=True)
def cheap_rungs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a tiny network cost what nobody has to measure."""
    monkeypatch.setattr(costs, "measure", lambda *_: RungCost(0.5, 0.1, 0.1, 7))
    # Frozen features of random weights have no signal.
    monkeypatch.setattr(decisions, "LEAST_EXPLAINED", -9.0)
    monkeypatch.setattr(folds, "COUNTS", (2,))


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def recipe(tmp_path: Path) -> Recipe:
    small = small_recipe(tmp_path)
    train = replace(small.train, num_train_epochs=3.0, learning_rate=1e-2)
    return replace(small, method="auto", train=train, search=Search(preset="best"))


@pytest.mark.usefixtures("gate_here")
def test_stopped_in_the_last_rung_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: HubServer) -> None:
    """The best model so far stays in DIR, for predict and push; no rung is repeated; another recipe is refused. At the end a student learns
    from what is found as an ensemble."""
    folder, auto = tmp_path / "auto", recipe(tmp_path)
    larger = str(tiny_text_checkpoint(tmp_path / "larger", num_hidden_layers=4))
    search = replace(auto.search, candidates=(larger, auto.model.checkpoint), ensemble=True)
    evaluate = replace(auto.evaluate, plots=True)
    auto = replace(auto, search=search, evaluate=evaluate, model=replace(auto.model, checkpoint=larger))
    begun: list[str] = []
    train_prepared = module.train_prepared

    def counted(prepared, launch, **options):
        begun.append(prepared.recipe.method)
        return train_prepared(prepared, launch, **options)

    monkeypatch.setattr(module, "train_prepared", counted)
    monkeypatch.setattr(judges, "choose_folds", lambda *_, **__: None)
    monkeypatch.setattr(standing, "compare", judging("better", "no worse", "better", "no worse", "no worse", "better"))
    monkeypatch.setattr(ensemble, "compare", judging("better"))
    monkeypatch.setattr(ensemble, "select", lambda scores, _: ["linear", "top"])
    with monkeypatch.context() as patch:
        patch.setattr(module.Climb, "_weigh", _stopping_at_full(patch, module.Climb._weigh))
        with pytest.raises(StoppedBySignal, match=r"the best model so far \(top\) is in"):
            run(auto, Launch(str(folder)))
    assert begun == ["head", "top", "lora", "full"]
    result = read(folder)
    assert result[UNFINISHED] and result["method"] == "top" and Manifest.of(folder).hashes == result["artifacts"]
    assert Classifier.load(str(folder)).predict(["good"])[0] in ("bad", "good")
    with monkeypatch.context() as patch:
        hub.connect(patch, tmp_path / "home")
        patch.setattr(push_run, "push", partial(push, endpoint=hub.endpoint))
        # It pulls, and compares bytes and logits.
        push_run.push_run(folder, Hub(repo_id="tester/stopped"))
    assert [rung["name"] for rung in result["rungs"]][:3] == ["majority", "linear", "head"]
    with pytest.raises(InputError, match=r"train\.seed: the run in"):
        run(replace(auto, train=replace(auto.train, seed=7)), Launch(str(folder), resume=True))
    # A kill before the result was in its place.
    os.remove(folder / "result.json")
    begun.clear()
    monkeypatch.setattr(choose, "rank", lambda *_, **__: pytest.fail("ranked again"))
    document = run(auto, Launch(str(folder), resume=True))
    assert document is not None and begun == ["full", "full"]
    assert read(folder) == {name: value for name, value in document.items() if name != "folder"}
    assert UNFINISHED not in document and document["ladder"]["verdict"]
    rungs = {rung["name"]: rung for rung in document["rungs"]}
    assert list(rungs) == ["majority", "linear", "head", "top", "lora", "full", "soup", "student"]
    assert "unlike random heads" in rungs.pop("soup")["reason"]
    assert all(rung["folder"] and rung["metrics"]["accuracy"]["n"] == 6 for rung in rungs.values())
    chosen = next(rung for rung in reversed(document["rungs"]) if rung["promoted"])
    assert document["ladder"]["chosen"] == chosen["name"] and document["parity"]["reload"]["ok"]
    assert chosen["name"] == "student" and "pipeline.skops" in document["teacher"]["name"]
    assert (folder / "rungs" / "2-linear" / "classical" / "pipeline.skops").exists()
    for rung in ("head", "top", "lora", "full", "student"):
        rung_folder = folder / "rungs" / rungs[rung]["folder"]
        assert (rung_folder / "model" / "config.json").exists()
        # A run that is set aside is not drawn.
        assert (rung_folder / "plots").exists() == rungs[rung]["promoted"]
    card, ranked = (folder / "README.md").read_text(), document["candidates"]
    assert "## What was tried" in card and "## Checkpoints compared" in card and "all-MiniLM" not in card
    head = read(folder / "rungs" / rungs["head"]["folder"])
    assert [c["checkpoint"] for c in ranked["checkpoints"] if c["chosen"]] == [head["checkpoint"]] != [larger]
    assert "LogME" in str(Classifier.load(str(folder)).result) and str(tmp_path) not in card
    assert document["ladder"]["verdict"] in " ".join(str(Classifier.load(str(folder)).result).split())
    with pytest.raises(InputError, match="the run in it is finished"):
        run(auto, Launch(str(folder), resume=True))


@pytest.mark.usefixtures("gate_here")
def test_the_mean_of_two_full_fine_tunings_is_the_last_rung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the second one, the first is the result; the resumed climb trains the second one alone."""
    folder, auto, begun = tmp_path / "auto", recipe(tmp_path), []
    train_prepared = module.train_prepared

    def noted(prepared: Run, launch: Launch, **options: Any) -> Any:
        begun.append((prepared.recipe.method, prepared.recipe.train.seed, len(prepared.recipe.averaging.runs)))
        return train_prepared(prepared, launch, **options)

    monkeypatch.setattr(module, "train_prepared", noted)
    monkeypatch.setattr(judges, "choose_folds", lambda *_, **__: None)
    verdicts = ["better", "better", "no worse", "no worse", "better", "better"]
    monkeypatch.setattr(standing, "compare", judging(*verdicts))
    with monkeypatch.context() as patch:
        patch.setattr(module, "plan_soup", _stopping(patch, module.plan_soup))
        with pytest.raises(StoppedBySignal, match=r"the best model so far \(full\) is in"):
            run(auto, Launch(str(folder)))
    assert begun[-2:] == [("full", 0, 0), ("full", 1000, 1)]
    begun.clear()
    # By another name of the folder.
    document = run(auto, Launch(str(tmp_path / "bert" / ".." / "auto"), resume=True))
    assert document is not None and begun == [("full", 1000, 1)]
    soup = document["rungs"][-1]
    assert soup["name"] == "soup" == document["ladder"]["chosen"]
    # Its share of the level was not asked of the rungs before it, but of those that are not proven better.
    shares = {rung["name"]: rung["comparison"]["comparisons"] for rung in document["rungs"] if rung["comparison"]}
    assert [shares[name] for name in ("head", "top", "lora", "full", "soup")] == [5, 3, 3, 3, 3]
    assert read(folder)["best"]["weights"] == "runs" and document["parity"]["reload"]["ok"]


@pytest.mark.usefixtures("gate_here")
def test_a_climb_whose_second_run_is_refused_goes_on_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here of numbers, in whose units the last layer of the first one answers."""
    auto = recipe(tmp_path)
    lengths = [f"{text},{len(text)}.5" for text, _ in csv.reader((tmp_path / "train.csv").read_text().splitlines()[1:])]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *lengths]) + "\n")
    monkeypatch.setattr(judges, "choose_folds", lambda *_, **__: None)
    compared = judging(*["better"] * 6)
    monkeypatch.setattr(standing, "compare", compared)
    document = run(auto, Launch(str(tmp_path / "auto")))
    assert document is not None and document["problem_type"] == "regression"
    assert document["ladder"]["chosen"] == "full" and UNFINISHED not in document
    assert document["rungs"][-1]["reason"].startswith("left: averaging.runs: expected none with numbers")
    assert len(list((tmp_path / "auto" / "rungs").glob("*-soup"))) == 0


@pytest.mark.usefixtures("gate_here")
def test_a_head_on_a_lower_layer_leaves_all_layers_to_the_rungs_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of them starts from it, also after a kill."""
    small, begun = recipe_of_a_lower_layer(tmp_path), []
    auto = replace(small, method="auto", search=Search(preset="good"))
    train_prepared = module.train_prepared

    def noted(prepared: Run, launch: Launch, **options: Any) -> Any:
        starts = [head.weight_CD.tolist() for head in prepared.start_heads]
        begun.append((prepared.recipe.method, prepared.model.network.config.num_hidden_layers, starts))
        return train_prepared(prepared, launch, **options)

    monkeypatch.setattr(module, "train_prepared", noted)
    monkeypatch.setattr(judges, "choose_folds", lambda *_, **__: None)
    monkeypatch.setattr(standing, "compare", judging("better", "better", "better", "better", "better"))
    folder = tmp_path / "auto"
    with monkeypatch.context() as patch:
        patch.setattr(module.Climb, "_weigh", _stopping_at_full(patch, module.Climb._weigh))
        with pytest.raises(StoppedBySignal):
            run(auto, Launch(str(folder)))
    # No head from which to start: full fine-tuning fits one to the top layer itself.
    assert begun == [("head", 4, []), ("full", 5, [])]
    begun.clear()
    document = run(auto, Launch(str(folder), resume=True))
    assert document is not None and begun == [("full", 5, [])]
    assert [rung["layer"] for rung in document["rungs"] if rung["name"] in ("head", "full")] == [3, None]
    joined = next(rung for rung in document["rungs"] if rung["name"] == "linear+head")
    # Its pipeline reads the layer of the head.
    extractors = json.loads((folder / "rungs" / joined["folder"] / "recipe.json").read_text())
    assert [each["layer"] for each in extractors["recipe"]["classical"]["extractors"] if "layer" in each] == [3]


@pytest.mark.usefixtures("gate_here")
def test_a_head_that_was_begun_reads_the_layer_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its layer was chosen on as many rows as there was time for; a resumed climb has less time, and the same network. What is
    finished and was not recorded has its layer, too."""
    auto = replace(recipe_of_a_lower_layer(tmp_path), method="auto", search=Search(preset="fast", budget="1h"))
    monkeypatch.setattr(judges, "choose_folds", lambda *_, **__: None)
    folder = tmp_path / "auto"
    for times, interrupted in enumerate(("_keep", "_join")):
        with monkeypatch.context() as patch:
            patch.setattr(module.Climb, interrupted, _killed)
            if times:
                patch.setattr(costs.Scoring, "layer_rows", lambda *_: 0)
            with pytest.raises(Killed):
                run(auto, Launch(str(folder), resume=bool(times)))
    document = run(auto, Launch(str(folder), resume=True))
    assert document is not None
    assert [rung["layer"] for rung in document["rungs"] if rung["name"] == "head"] == [3]


class Killed(BaseException):
    """In place of kill -9."""


def _killed(*_: Any) -> None:
    raise Killed


@pytest.mark.usefixtures("gate_here")
def test_without_time_for_a_network_the_classical_model_is_the_result(tmp_path: Path) -> None:
    """It is verified and usable, and its gate and its time are those of seconds."""
    small = recipe(tmp_path)
    short = replace(small, search=Search(budget="1s"), evaluate=replace(small.evaluate, baselines=True))
    document = run(short, Launch(str(tmp_path / "auto")))
    assert document is not None and [rung["name"] for rung in document["rungs"]] == ["majority", "linear", "head"]
    # The baseline has judged; the model is fitted to all rows.
    assert document["rows"]["train"] == 60 and document["metrics"]["validation"]["accuracy"]["n"] == 6
    assert document["rungs"][1]["title"] == "tfidf+logistic" and document["rungs"][2]["verdict"] == "left"
    assert "a network takes 5 s at least" in document["rungs"][2]["reason"]
    assert document["ladder"]["chosen"] == "linear" and document["method"] == "classical"
    assert document["parity"]["reload"]["ok"] and document["artefacts"] == ["classical"]
    # It is the linear baseline itself.
    assert not any("linear" in doubt["message"] for doubt in document["doubts"])
    model = Classifier.load(str(tmp_path / "auto"))
    assert list(model.predict(["good", "bad"])) == ["good", "bad"]
    assert document["ladder"]["verdict"] in " ".join(str(model.result).split())
    card = (tmp_path / "auto" / "README.md").read_text()
    assert "## What was tried" in card and "pipeline.skops" in card
    assert "The model was chosen on these rows" in card and "Nothing was chosen" not in card


@pytest.mark.usefixtures("gate_here")
def test_a_climb_that_ends_with_the_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row is measured by the network that the head then trains. Without a signal nothing is fine-tuned to find one."""
    monkeypatch.setattr(decisions, "LEAST_EXPLAINED", 9.0)
    monkeypatch.setattr(judges, "choose_folds", lambda *_, **__: None)
    fast = replace(recipe(tmp_path), search=Search(preset="fast", budget="1h"))
    document = run(fast, Launch(str(tmp_path / "auto")))
    assert document is not None
    assert [rung["name"] for rung in document["rungs"]] == ["majority", "linear", "head", "linear+head"]
    # The hidden layer below the head of a BERT is no feature of its tokens.
    assert "left: the head reads other features" in document["rungs"][3]["reason"]
    assert document["ladder"]["chosen"] == "head" and document["rungs"][2]["preferred"]


@pytest.mark.usefixtures("gate_here")
def test_few_rows_are_judged_out_of_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rung predicts all rows by models that were not trained on them, and the result trains on all of them."""
    monkeypatch.setattr(standing, "compare", judging("better", "no worse", "better"))
    few = replace(recipe(tmp_path), search=Search(preset="good"))
    document = run(few, Launch(str(tmp_path / "auto")))
    assert document is not None and document["ladder"]["folds"] == 2
    rungs = {rung["name"]: rung for rung in document["rungs"]}
    assert list(rungs) == ["majority", "linear", "head", "full"]
    assert all(rung["out_of_fold"] and rung["metrics"]["accuracy"]["n"] == 60 for rung in rungs.values())
    assert rungs["head"]["preferred"] and "60 rows are too few to prove it better" in rungs["head"]["reason"]
    assert rungs["full"]["comparison"]["against"] == "head" and document["ladder"]["chosen"] == "full"
    assert document["rows"] == {"train": 60, "validation": 60} and document["out_of_fold"]["folds"] == 2
    linear = read(tmp_path / "auto" / "rungs" / rungs["linear"]["folder"])
    assert linear["rows"] == document["rows"] and linear["out_of_fold"]["rows"] == 60
    assert linear["metrics"]["validation"]["accuracy"]["value"] == rungs["linear"]["metrics"]["accuracy"]["value"]
    assert "all rows in 2 folds" in document["ladder"]["verdict"]
    assert "(out of fold)" in (tmp_path / "auto" / "README.md").read_text()


def judging(*verdicts: str):
    """Compare as the climb does, with verdicts of the test's own: linear, head, top, lora, full."""
    given = iter(verdicts)

    def compare(*scores, **options):
        found = replace(judgement.compare(*scores, **options), verdict=next(given))
        level = replace(found.difference, value=0.0, low=-0.1, high=0.1)
        return replace(found, difference=level) if found.verdict == "no worse" else found

    return compare


def _stopping(patch: pytest.MonkeyPatch, plan):
    def plan_and_stop(*given, **options):
        stop_after(patch, 9)
        return plan(*given, **options)

    return plan_and_stop


def _stopping_at_full(patch: pytest.MonkeyPatch, weigh):
    def weigh_or_stop(self, method, **options):
        if method == "full":
            stop_after(patch, 9)
        return weigh(self, method, **options)

    return weigh_or_stop
