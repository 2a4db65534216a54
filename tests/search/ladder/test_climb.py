"""What a climb computes before its first rung, and when its models are written."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hf_finetune import InputError, Model, Recipe, Search, TextData
from hf_finetune.features.baselines import Baseline
from hf_finetune.pipeline.evaluate import Scoring
from hf_finetune.search.budget import Budget
from hf_finetune.search.ladder import classical_rungs
from hf_finetune.search.ladder import climb as module
from hf_finetune.search.ladder import standing as standing_module
from hf_finetune.search.ladder.decisions import final_verdict
from hf_finetune.search.ladder.standing import Standing
from hf_finetune.search.ladder.state import LadderState, RungRecord, write_scores
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.tasks.regression import Regression
from hf_finetune.tasks.single_label import SingleLabel
from hf_finetune.training.warm_start import FittedHead


def labels_and_scores(right: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of 100 rows, and scores of a model that is right on the first ones."""
    labels = np.arange(100) % 2
    return labels, np.eye(2)[np.where(np.arange(100) < right, labels, 1 - labels)]


@pytest.fixture
def standing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Standing:
    """Of a climb whose constant is judged."""
    monkeypatch.setattr(standing_module, "promote", lambda *_: None)
    labels, scores = labels_and_scores(50)
    state = LadderState(tmp_path / "rungs", tested=["linear", "head", "full"])
    task, inputs = SingleLabel(("bad", "good")), lambda: np.arange(100)
    standing = Standing("a", tmp_path, Budget(30), state, task, labels, 100, inputs)
    standing.judge("majority", scores, tmp_path / "rungs" / "1-majority", started=0.0, is_model=False)
    return standing


def later(standing: Standing, right: int) -> list[bool]:
    """Judge a linear model that is written later, and return what its `finish` is called with."""
    called: list[bool] = []
    scores, folder = labels_and_scores(right)[1], standing.state.folder / "2-linear"
    standing.judge("linear", scores, folder, started=0.0, finish=called.append, later=True)
    return called


def test_a_model_that_stays_the_best_is_written_at_the_end_and_by_a_killed_climb_fitted_again(
    standing: Standing,
) -> None:
    called = later(standing, 90)
    assert called == [] and standing.has_model and standing.state.chosen is None
    standing.record(RungRecord("head", "left"))
    # A worse network is no model to keep in its place.
    network: list[bool] = []
    scores = labels_and_scores(60)[1]
    standing.judge("full", scores, standing.state.folder / "3-full", started=0.0, finish=network.append)
    assert network == [False] and standing.state.best is standing.state.find("linear")
    assert [rung.name for rung in LadderState.read(standing.state.folder).rungs] == ["majority"]
    standing.write_pending()
    assert called == [True] and standing.state.chosen is standing.state.find("linear")
    assert LadderState.read(standing.state.folder).rungs == standing.state.rungs
    standing.write_pending()
    assert called == [True]


def test_the_end_takes_the_linear_model_again_where_that_is_a_part_of_what_is_written(standing: Standing) -> None:
    assert standing.later_s == 0
    later(standing, 90)
    assert standing.later_s == pytest.approx(standing.state.rungs[1].seconds + 2)
    standing.judge("head", labels_and_scores(99)[1], Path("3-head"), started=0.0, finish=lambda _: None, later=True)
    assert standing.pending is not None and standing.pending.name == "head" and standing.later_s == 2


def test_a_head_that_was_begun_is_left_only_with_next_to_no_time(
    standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    later(standing, 90)
    monkeypatch.setattr(module.Climb, "_scoring", SimpleNamespace(least_head_s=40.0))
    base = RecipeVariant(Recipe(name="a", data=TextData(path="x"), model=Model("m"), method="auto"))
    loaded: Any = None
    climb = module.Climb(base, loaded, standing, None, None, loaded)
    assert "40 s at least" in (climb._why_no_network() or "")
    standing.state.current = {"name": "head", "epochs": None, "rows": 256}
    assert climb._why_no_network() is None
    late = replace(climb, standing=replace(standing, budget=Budget(3)))
    assert "5 s at least" in (late._why_no_network() or "")


def test_a_model_that_another_one_beats_is_not_written(standing: Standing) -> None:
    called, network = later(standing, 75), []
    scores = labels_and_scores(98)[1]
    standing.judge("full", scores, standing.state.folder / "3-full", started=0.0, finish=network.append)
    standing.write_pending()
    assert (called, network) == ([], [True])
    assert [rung.promoted for rung in standing.state.rungs] == [False, False, True]
    # The linear model has beaten the constant, the network both: one comparison of three is left.
    assert standing.state.rungs[2].comparison["comparisons"] == 2 and standing.state.comparisons_left == 1
    assert LadderState.read(standing.state.folder).rungs == standing.state.rungs


@pytest.mark.parametrize(("right", "is_result"), [(59, False), (60, False), (61, True)])
def test_a_model_without_a_proof_stays_beside_a_proven_one_that_is_no_better(
    right: int, is_result: bool, standing: Standing
) -> None:
    """The first one is right on 60 rows, and on 20 of the constant's it is not, so that nothing is proven."""
    labels, _ = labels_and_scores(50)
    numbers = np.arange(100)
    scores = np.eye(2)[np.where((numbers >= 20) & (numbers < 80), labels, 1 - labels)]
    standing.judge("head", scores, Path("2-head"), started=0.0, finish=lambda _: None)
    assert standing.state.chosen is standing.state.rungs[1] and not standing.state.beats_constant
    standing.judge("full", labels_and_scores(right)[1], Path("3-full"), started=0.0, finish=lambda _: None)
    full = standing.state.rungs[2]
    assert full.is_better and standing.state.best is full and full.promoted is is_result
    reason = "better than majority" if is_result else "better than majority; head, whose estimate is no lower, stays"
    assert full.reason == reason and final_verdict(standing.state).startswith(f"full: {reason}")


def rare(standing: Standing) -> tuple[np.ndarray, np.ndarray]:
    """Of 100 rows 6 are of the second class: scores of a model that finds three of them, and of one that finds none."""
    standing.labels = np.repeat([0, 1], [94, 6])
    standing.scores["majority"] = np.tile([1.0, 0.0], (100, 1))
    found, frequencies = np.tile([0.95, 0.05], (100, 1)), np.tile([0.94, 0.06], (100, 1))
    found[-3:] = [0.3, 0.7]
    return found, frequencies


def test_a_model_that_finds_a_rare_class_is_a_signal(standing: Standing) -> None:
    scores, _ = rare(standing)
    standing.judge("linear", scores, Path("2-linear"), started=0.0, finish=lambda _: None)
    linear = standing.state.rungs[1]
    assert linear.preferred and linear.promoted and not linear.is_better and standing.state.best is linear
    assert final_verdict(standing.state).startswith("linear: it tells classes apart")
    # What comes next has to beat it, not the constant; from the disk, too.
    standing.judge("head", scores, Path("3-head"), started=0.0, finish=lambda _: None)
    assert standing.state.rungs[2].comparison["against"] == "linear"
    assert LadderState.read(standing.state.folder).rungs[1] == linear


def test_a_model_that_finds_a_rare_class_takes_the_place_of_one_without_a_signal(standing: Standing) -> None:
    """Also where it is right no more often."""
    scores, frequencies = rare(standing)
    scores[:3] = [0.45, 0.55]
    standing.judge("linear", frequencies, Path("2-linear"), started=0.0, finish=lambda _: None)
    assert standing.state.chosen is standing.state.rungs[1] and not standing.state.beats_constant
    standing.judge("head", scores, Path("3-head"), started=0.0, finish=lambda _: None)
    assert standing.state.chosen is standing.state.best is standing.state.rungs[2]


def test_what_is_right_as_often_as_a_constant_takes_no_place_of_what_tells_classes_apart(standing: Standing) -> None:
    """The linear model errs on rows of the frequent class, so that the frequencies alone are right more often."""
    scores, frequencies = rare(standing)
    scores[-6:], scores[:40] = [0.1, 0.9], [0.45, 0.55]
    standing.judge("linear", scores, Path("2-linear"), started=0.0, finish=lambda _: None)
    linear = standing.state.rungs[1]
    assert linear.comparison["verdict"] == "worse" and standing.state.best is linear
    standing.judge("full", frequencies, Path("3-full"), started=0.0, finish=lambda _: None)
    full = standing.state.rungs[2]
    assert full.comparison["value"] > 0.3 and full.comparison["verdict"] == "undecided" and not full.preferred
    assert full.reason == "not shown to tell classes apart, as linear does, which stays"
    # A better one that tells them apart, too, does.
    better = np.where(standing.labels[:, None] == [0, 1], 0.9, 0.1)
    standing.judge("student", better, Path("4-student"), started=0.0, finish=lambda _: None)
    assert standing.state.best.name == "student" and standing.state.best.tells_apart


def test_rows_of_groups_are_not_shuffled(standing: Standing) -> None:
    scores, _ = rare(standing)
    grouped = replace(standing, inputs=None)
    grouped.judge("linear", scores, Path("2-linear"), started=0.0, finish=lambda _: None)
    assert "association" not in grouped.state.rungs[1].comparison and not grouped.state.beats_constant


def test_a_killed_climb_fits_both_models_again_of_which_none_is_written(standing: Standing) -> None:
    linear, joined = later(standing, 75), []
    standing.record(RungRecord("head", "left"))
    scores = labels_and_scores(98)[1]
    folder = standing.state.folder / "3-linear+head"
    standing.judge("linear+head", scores, folder, started=0.0, finish=joined.append, later=True)
    assert standing.state.best is standing.state.find("linear+head") and standing.state.chosen is None
    # Without the linear one, a climb that is resumed and has no time for the other would have no model.
    assert [rung.name for rung in LadderState.read(standing.state.folder).rungs] == ["majority"]
    standing.write_pending()
    assert (linear, joined) == ([], [True])
    assert LadderState.read(standing.state.folder).rungs == standing.state.rungs


def test_a_finished_rung_that_a_kill_left_unrecorded_takes_the_place_of_what_is_not_written(standing: Standing) -> None:
    linear = later(standing, 75)
    scores = labels_and_scores(98)[1]
    standing.judge("head", scores, standing.state.folder / "3-head", started=0.0)
    standing.write_pending()
    assert linear == [] and standing.state.chosen is standing.state.find("head")


@pytest.mark.parametrize("joined_right", [60, 98])
def test_a_head_is_finished_after_both_together_were_judged(joined_right: int, standing: Standing) -> None:
    head, joined = [], []
    folder = standing.state.folder
    standing.judge("head", labels_and_scores(80)[1], folder / "2-head", started=0.0, finish=head.append, later=True)
    scores = labels_and_scores(joined_right)[1]
    standing.judge("linear+head", scores, folder / "3-linear+head", started=0.0, finish=joined.append, later=True)
    standing.settle("head", head.append)
    if joined_right == 98:
        # Set aside; what takes its place is written at the end.
        assert (head, joined) == ([False], []) and standing.state.chosen is None
        standing.write_pending()
        assert joined == [True]
    else:
        assert (head, joined) == ([True], []) and standing.pending is None
    assert [rung.promoted for rung in standing.state.rungs] == [False, joined_right == 60, joined_right == 98]


@pytest.mark.parametrize(("checks", "right", "is_taken"), [({"reload": 1}, 98, True), ({}, 98, False), ({}, 60, True)])
def test_a_finished_network_is_taken_without_any_time_left_unless_it_would_be_an_unverified_result(
    checks: dict[str, Any], right: int, is_taken: bool, standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    later(standing, 80)
    folder = standing.state.folder / "3-full"
    write_scores(folder, labels_and_scores(right)[1])
    (folder / "result.json").write_text('{"metrics": {}, "data": {}}')
    monkeypatch.setattr(module, "recorded_checks", lambda _: checks)
    monkeypatch.setattr(module.decisions, "weigh", lambda *_, **__: module.RungPlan("left: no time"))
    base = RecipeVariant(Recipe(name="a", data=TextData(path="x"), model=Model("m"), method="auto"))
    loaded: Any = None
    module.Climb(base, loaded, replace(standing, budget=Budget(0)), None, None, loaded)._weigh("full")
    full = standing.state.find("full")
    assert (full.folder is not None) is folder.exists() is is_taken and full.promoted is (is_taken and right == 98)


@pytest.mark.parametrize("name", ["head", "trial", "student"])
def test_what_else_is_finished_is_taken_without_any_time_left(
    name: str, standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    later(standing, 80)
    if name != "head":
        standing.record(RungRecord("head", "left"))
    write_scores(folder := standing.state.folder / f"3-{name}", labels_and_scores(60)[1])
    (folder / "result.json").write_text('{"metrics": {}, "data": {}}')
    monkeypatch.setattr(module.decisions, "has_no_signal", lambda *_: True)
    monkeypatch.setattr(module.Climb, "_join", lambda _: None)
    monkeypatch.setattr(module.Climb, "_why_no_network", lambda _: None)
    monkeypatch.setattr(module.Climb, "_goes_straight", lambda _: False)
    monkeypatch.setattr(module.Climb, "_weigh", lambda *_: None)
    recipe = Recipe(name="a", data=TextData(path="x"), model=Model("m"), method="auto", search=Search(ensemble=True))
    loaded: Any = None
    monkeypatch.setattr(module, "plan_student", lambda *_: None)
    monkeypatch.setattr(module.decisions, "trial_seconds", lambda *_: 0.0)
    monkeypatch.setattr(module.Climb, "_scoring", Scored())
    monkeypatch.setattr(module.Climb, "_folded", lambda _, cost: cost)
    module.Climb(
        RecipeVariant(recipe), loaded, replace(standing, budget=Budget(0)), None, None, loaded
    )._climb_networks()
    rung = standing.state.find(name)
    assert rung is not None and rung.folder == f"3-{name}" and folder.exists()


class Scored:
    """Of a head that is measured."""

    judged_s = 0.0

    def usual(self) -> Any:
        """A rung that takes no time."""
        return SimpleNamespace(seconds=lambda _: 0.0)


def test_a_network_that_was_set_aside_and_would_be_the_result_now_is_trained_again(
    standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill came before it was recorded, and a resumed climb decides otherwise: there is nothing to resume in it."""
    launches: list[Any] = []

    def train(_: Any, launch: Any, **__: Any) -> Any:
        launches.append(launch)
        raise InputError("trains")

    write_scores(folder := standing.state.folder / "2-full", labels_and_scores(98)[1])
    (folder / "result.json").write_text('{"metrics": {}, "data": {}}')
    standing.begin({"name": "full", "epochs": 3.0, "rows": 9, "layer_rows": 0})
    monkeypatch.setattr(module, "train_prepared", train)
    prepared = SimpleNamespace(data=SimpleNamespace(splits=SimpleNamespace(train=range(9))))
    monkeypatch.setattr(module.Climb, "_prepare", lambda *_: prepared)
    base = RecipeVariant(Recipe(name="a", data=TextData(path="x"), model=Model("m"), method="auto"))
    loaded: Any = None
    with pytest.raises(InputError, match="trains"):
        module.Climb(base, loaded, standing, None, None, loaded)._rung("full", "full", module.RungPlan("", 3.0))
    assert not launches[0].resume and not folder.exists()


def test_a_signal_before_a_model_is_in_its_place_puts_it_there(
    standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    promoted: list[str] = []
    monkeypatch.setattr(standing_module, "promote", stopped)
    with pytest.raises(KeyboardInterrupt):
        standing.judge("head", labels_and_scores(80)[1], Path("2-head"), started=0.0, finish=lambda _: None)
    monkeypatch.setattr(standing_module, "promote", lambda rung, *_: promoted.append(rung.name))
    assert "the best model so far (head) is in" in standing.stop() and promoted == ["2-head"]


def test_a_signal_while_a_network_is_judged_keeps_the_linear_model(
    standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    called = later(standing, 75)
    monkeypatch.setattr(Standing, "_metrics", stopped)
    with pytest.raises(KeyboardInterrupt):
        standing.judge("full", labels_and_scores(98)[1], Path("3-full"), started=0.0, finish=lambda _: None)
    assert "the best model so far (linear) is in" in standing.stop() and called == [True]


def test_what_began_before_a_kill_and_is_left_leaves_no_folder(standing: Standing) -> None:
    begun = standing.state.folder / "2-top"
    begun.mkdir()
    standing.record(RungRecord("top", "left: there is no time"))
    assert not begun.exists() and (standing.state.folder / "ladder.json").exists()


@pytest.mark.parametrize(("right", "is_straight"), [(90, True), (52, False)])
def test_full_fine_tuning_comes_straight_after_a_signal(
    right: int, is_straight: bool, standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one, head and trial are the sooner answer."""
    later(standing, right)
    monkeypatch.setattr(module.Climb, "_scoring", SimpleNamespace(goes_straight=lambda _: True))
    base = RecipeVariant(Recipe(name="a", data=TextData(path="x"), model=Model("m"), method="auto"))
    loaded: Any = None
    assert module.Climb(base, loaded, standing, None, None, loaded)._goes_straight() is is_straight


@pytest.mark.parametrize(("seconds", "folds", "trains"), [(60, 3, 5.0), (20, 3, None), (20, None, 15.8)])
def test_a_trial_leaves_the_time_of_what_surrounds_its_trainings(
    seconds: int, folds: int | None, trains: float | None, standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four trainings on 1,500 rows, each with its head and its predictions, take 20 s beside their steps."""
    limits: list[float | None] = []
    monkeypatch.setattr(module, "seconds_since_start", lambda: 0.0)
    monkeypatch.setattr(module.Climb, "_rung", lambda *arguments: limits.append(arguments[-1].limit_s))
    recipe = Recipe(name="a", data=TextData(path="x"), model=Model("m"), method="auto")
    base = RecipeVariant(replace(recipe, evaluate=replace(recipe.evaluate, folds=folds)))
    splits = SimpleNamespace(train=range(1350), validation=range(150), test=None, labels=("bad", "good"))
    context = SimpleNamespace(autocast=None, startup_s=0.0, recipe=recipe)
    loaded: Any = SimpleNamespace(data=SimpleNamespace(splits=splits), context=context)
    timed = replace(standing, budget=Budget(seconds))
    module.Climb(base, loaded, timed, None, None, splits, costs=module.MethodCosts(row_s=0.0024))._try_for_signal()
    assert limits == ([] if trains is None else [pytest.approx(trains, abs=0.1)])


@pytest.mark.parametrize(("explained", "fits"), [(0.0, False), (0.3, True)])
def test_no_head_is_fitted_again_where_the_features_of_a_lower_layer_explain_little(
    explained: float, fits: bool, standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be set aside, after seconds of features."""
    trained: list[bool] = []
    heads = (FittedHead(torch.zeros(2, 3), torch.zeros(2), explained),)
    loaded: Any = SimpleNamespace(variant=lambda recipe: trained.append(recipe.train.head_warm_start))
    monkeypatch.setattr(module, "with_network", lambda _: Built())
    standing.state.rungs.append(RungRecord("head", "of layer 4", "2-head", layer=4, comparison={"verdict": "no worse"}))
    base = RecipeVariant(Recipe(name="a", data=TextData(path="x"), model=Model("m"), method="auto"))
    built = module.Climb(base, loaded, standing, None, None, loaded, heads=heads)._prepare("full", module.RungPlan(""))
    assert trained == [fits] and built.start_heads == ()


@dataclass
class Built:
    """A run with its network, as far as a climb fills it in."""

    encoded: Any = None
    start_heads: Any = None
    is_noted: bool = False


def test_with_little_time_numbers_are_fitted_as_the_pipeline_that_is_written(
    standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their baseline chooses its penalty, so that it is another model."""
    fitted: list[Any] = []

    def fit(run: Any) -> Any:
        fitted.append(run)
        raise InputError("fitted")

    monkeypatch.setattr(classical_rungs, "fit_classical_run", fit)
    task: Any = Regression(("price",))
    classical_rungs._rung(replace(standing, task=task), "linear", "run", command=None, ensembles=False)
    assert fitted == ["run"] and standing.state.rungs[1].reason == "left: fitted"


@pytest.mark.parametrize("held_out", [True, False])
def test_with_little_time_the_baseline_judges_and_the_pipeline_is_fitted_at_the_end(
    held_out: bool, standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To all rows, where some of them were held out to judge it; its estimate stays that of the baseline."""
    baselines = {"linear": Baseline("tfidf+logistic", labels_and_scores(90)[1])}
    fitted, written, known = [], [], []
    monkeypatch.setattr(Scoring, "of", lambda _: SimpleNamespace(fitted_baselines=lambda rows: baselines))
    monkeypatch.setattr(classical_rungs, "fit_classical_run", lambda run: fitted.append(run) or Fitted())

    def finalize(_: Any, folder: Path, evaluation: Any, **__: Any) -> None:
        written.append(folder.name)
        known.append(evaluation)

    monkeypatch.setattr(classical_rungs, "finalize_classical", finalize)
    run = SimpleNamespace(splits=SimpleNamespace(validation=None))
    whole = SimpleNamespace(splits=run.splits) if held_out else run
    monkeypatch.setattr(classical_rungs, "on_held_out_rows", lambda _: whole)
    classical_rungs._rung(standing, "linear", run, command=None, ensembles=False)
    rung = standing.state.rungs[1]
    assert (rung.title, rung.is_better, rung.promoted, fitted) == ("tfidf+logistic", True, False, [])
    standing.write_pending()
    assert fitted == [whole] and written == [rung.folder] and standing.state.rungs[1].promoted
    scores = None if known[0] is None else np.exp(known[0])
    assert (scores is not None) is held_out and (
        scores is None or scores == pytest.approx(labels_and_scores(90)[1], abs=1e-9)
    )


class Fitted:
    """A fitted run whose gate took no time."""

    clock = SimpleNamespace(seconds=lambda _: 0.0)
    trained = SimpleNamespace(fitted=SimpleNamespace(outputs="classes"))

    def judged_by(self, logits_NC: np.ndarray) -> np.ndarray:
        return logits_NC
