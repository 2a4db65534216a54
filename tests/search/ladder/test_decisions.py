"""What is decided between two rungs, by costs that a person can add."""

import math
from dataclasses import replace

import numpy as np
import pytest

from hf_finetune.evaluation.intervals import Interval
from hf_finetune.pipeline.measure_row import _share_of_tokens
from hf_finetune.search.ladder.costs import RungCost, Scoring
from hf_finetune.search.ladder.decisions import (
    STRAIGHT,
    describe,
    final_verdict,
    has_no_signal,
    methods_within,
    starts_from_head,
    trial_seconds,
    weigh,
    why_no_network,
    why_preferred,
)
from hf_finetune.search.ladder.judgement import Comparison, compare
from hf_finetune.search.ladder.state import LadderState, RungRecord
from hf_finetune.tasks.single_label import SingleLabel

COSTS = {"full": RungCost(40.0, 2.0, 8.0, 100), "lora": RungCost(30.0, 2.0, 8.0, 100), "top": RungCost(3, 12, 8, 100)}


def plan(method: str, left_s: float, *, epochs: float = 3):
    return weigh(method, COSTS.__getitem__, left_s=left_s, epochs=epochs)


def test_full_fine_tuning_takes_the_time_that_is_left() -> None:
    assert plan("full", 500).epochs == 3
    # 100 s, less the reserve of 8 %, less 10 s: 82 s of 0.4 s a step. The limit holds, whatever the estimate,
    # and leaves a fiftieth free.
    fitted = plan("full", 100)
    assert fitted.epochs == 3 and fitted.limit_s == 88
    assert "2.05 epochs" in fitted.reason and "the time that is left" in fitted.reason
    assert plan("full", math.inf).limit_s is None
    left = plan("full", 18)
    assert left.epochs is None and "it would take 20s at least, and 18s are left" in left.reason


def test_a_cheaper_method_goes_first_if_both_fit_and_alone_if_full_does_not() -> None:
    assert plan("lora", 300).epochs == 3
    assert plan("lora", 200).epochs is None
    assert "full fine-tuning needs the time" in plan("lora", 200).reason
    # Where full fine-tuning takes all that is left, nothing else is measured.
    assert weigh("lora", {"full": COSTS["full"]}.__getitem__, left_s=100, epochs=3).epochs is None
    slow = COSTS | {"full": RungCost(4_000.0, 2.0, 8.0, 100)}
    assert "2.73 epochs" in weigh("lora", slow.__getitem__, left_s=100, epochs=3).reason


def test_the_cost_of_a_method_that_is_not_measured() -> None:
    # 100 rows a second; training on a row costs 20 ms.
    scoring = Scoring(0.01, {"train": 1_000, "validation": 100, "test": 200}, 2.0)
    # The validation rows twice: at the end of the training, in two thirds of the time, and to be judged.
    after_s = 100 * (1 + 2 / 3) * 0.01 + 2 + 2
    assert scoring.after_s == pytest.approx(after_s) and replace(scoring, gate_s=4.0).after_s == pytest.approx(
        after_s + 4
    )
    assert scoring.least("full").seconds(2) == pytest.approx(2 * 0.6 * 20 + after_s)
    assert scoring.usual().seconds(2) == pytest.approx(1.5 + 2 * 20 + after_s)


def test_rows_of_a_head() -> None:
    scoring = Scoring(0.01, {"train": 4_000, "validation": 100, "test": 200}, 2.0)
    assert scoring.head_rows(math.inf, fine_tunes=True) == 4_000
    # 100 s: a tenth for the features, as 75 s of training follow; a row takes two thirds of its prediction in float32,
    # as training takes two and not three of them. Alone: 92 s, less the scoring, for all rows.
    assert scoring.head_rows(100, fine_tunes=True) == 1_500 and scoring.head_rows(100, fine_tunes=False) == 4_000
    # 27 s: a quarter of an epoch takes 20 s, and 7.2 s of other work, so that nothing follows.
    assert scoring.head_rows(27, fine_tunes=True) == scoring.head_rows(27, fine_tunes=False) == 2_876
    assert replace(scoring, trained_row=3.5).head_rows(27, fine_tunes=False) == 1_884
    assert scoring.head_rows(1, fine_tunes=True) == 256
    # At most 8 s of features, whatever the time.
    assert [scoring.head_rows(left_s, fine_tunes=True, most_s=8) for left_s in (math.inf, 300, 1)] == [
        1_200,
        1_200,
        256,
    ]
    # What joins it with the linear model is left free, where full fine-tuning does not follow.
    assert scoring.head_rows(27, fine_tunes=True, joined_s=5) == 2_126
    assert scoring.head_rows(100, fine_tunes=True, joined_s=5) == 1_500
    # At the end two builds, 96 rows and a class; else a build, these rows and those of test, the linear model again, and
    # a write.
    assert scoring.joined_s(7, later=True) == pytest.approx(3 + 0.96 + 0.02)
    assert scoring.joined_s(7, later=False) == pytest.approx(1.5 + 0.96 + 2 + 7 + 2)


def test_rows_that_are_scored_in_a_share_of_the_time() -> None:
    scoring = Scoring(0.01, {"train": 4_000, "validation": 400}, 1.5)
    # Two passes of validation rows, one of them in half of the time, in 30 s; one of test rows in 20 s.
    assert scoring.rows_scored(99) == {"validation": 1_900, "test": 1_900}
    assert scoring.rows_scored(10) == {"validation": 300, "test": 300}


def test_a_network_is_left_where_its_judgement_takes_the_time() -> None:
    scoring = Scoring(0.01, {"train": 4_000, "validation": 1_200}, 1.5, later_s=10)
    # The features of 256 rows in half of the time of a prediction, those of 1,200 and their prediction, 3.5 s around and
    # 10 of the linear model.
    assert scoring.least_head_s == pytest.approx(1.28 + 18 + 3.5 + 10)
    assert why_no_network(33, lambda: scoring) is None
    assert why_no_network(32, lambda: scoring) == "left: a network takes 33 s at least, and 32 are left"
    # What was decided before is not measured again; with next to no time, nothing is.
    assert why_no_network(32, None) is None
    assert "5 s at least" in why_no_network(4, lambda: pytest.fail("measured"))


def test_padding_of_a_few_rows_is_not_that_of_many() -> None:
    # Batches of two: 1 and 3, 5 and 10.
    assert _share_of_tokens(np.array([10, 1, 5, 3]), 2) == pytest.approx(19 / 26)
    assert _share_of_tokens(None, 2) == 1


def test_of_many_rows_a_small_share_is_enough() -> None:
    scoring = Scoring(0.01, {"train": 400_000, "validation": 100}, 2.0)
    # 2,000 rows, or 200 of each of 20 classes, in place of a quarter of an epoch.
    assert scoring.usual().least_epochs == 0.005 and replace(scoring, outputs=20).least_epochs == 0.01
    assert replace(scoring, rows={"train": 4_000, "validation": 100}).least_epochs == 0.25
    plan = weigh("full", lambda _: scoring.usual(), left_s=100, epochs=3)
    assert plan.epochs == 3 and "which is the time that is left" in plan.reason
    assert weigh("full", lambda _: scoring.usual(), left_s=40, epochs=3).epochs is None


def test_a_head_is_not_judged_where_that_takes_the_time_of_training() -> None:
    scoring = Scoring(0.01, {"train": 4_000, "validation": 200, "test": 200}, 2.0, outputs=2)
    assert scoring.goes_straight(40) and not scoring.goes_straight(60)
    # A quarter of an epoch and its scoring take 28.8 s; 8 % stay free.
    assert scoring.goes_straight(32) and not scoring.goes_straight(31)
    # In 40 s training sees 1,365 rows: 200 of 6 classes, not of 7.
    assert replace(scoring, outputs=6).goes_straight(40) and not replace(scoring, outputs=7).goes_straight(40)


def test_a_head_is_left_where_it_takes_much_time_of_a_training_that_sees_many_rows() -> None:
    scoring = Scoring(0.01, {"train": 40_000, "validation": 200, "test": 200}, 2.0, outputs=2)
    # 100 s: the head takes 16.8 of the 92 that are used, in which training sees 4,160 rows: 2,000 of 2 classes, not of 3.
    assert scoring.goes_straight(100) and not replace(scoring, outputs=3).goes_straight(100)
    # 300 s: 36.8 of 276, which is a smaller share.
    assert not scoring.goes_straight(300) and not scoring.goes_straight(math.inf)


def test_all_features_of_many_classes_come_before_a_fine_tuning_that_sees_few_rows_of_each() -> None:
    scoring = Scoring(0.01, {"train": 4_000, "validation": 100, "test": 200}, 2.0, outputs=20)
    # 100 s: a tenth for the features would leave 75 s, in which training sees 187 rows of each.
    assert scoring.head_rows(100, fine_tunes=True) == 4_000
    assert replace(scoring, outputs=10).head_rows(100, fine_tunes=True) == 1_500


def test_a_head_is_preferred_where_few_rows_decide_nothing() -> None:
    few, many = (
        Comparison("linear", Interval(0.01, -0.2, 0.2, rows), "undecided", "accuracy", 3) for rows in (50, 500)
    )
    assert why_preferred("head", few) and not why_preferred("head", many) and not why_preferred("full", few)
    assert not why_preferred("head", replace(few, verdict="worse"))
    # As English features of 106 sequences of DNA, against letters counted.
    assert not why_preferred("head", replace(few, difference=Interval(-0.094, -0.192, 0.007, 106)))
    assert why_preferred("head", few).startswith("50 rows are too few to prove it better than linear")
    # Both together, if the log loss speaks for it, too.
    assert not why_preferred("linear+head", few)
    lower, higher = (
        replace(few, against="head", log_loss_gain=Interval(v, v - 0.1, v + 0.1, 50)) for v in (0.04, -0.04)
    )
    assert "words and frozen features" in why_preferred("linear+head", lower)
    assert not why_preferred("linear+head", higher)


def test_full_fine_tuning_is_preferred_to_a_head_where_few_held_out_rows_decide_nothing() -> None:
    held_out = Comparison("head", Interval(0.01, -0.2, 0.2, 50), "undecided", "accuracy", 3)
    assert why_preferred("full", held_out) and not why_preferred("lora", held_out)
    # Out of fold all rows judge; of 16 rows two are held out.
    assert not why_preferred("full", held_out, folds=3)
    assert not why_preferred("full", replace(held_out, difference=Interval(0.0, -0.5, 0.5, 2)))
    assert not why_preferred("full", replace(held_out, difference=Interval(-0.06, -0.1, 0.02, 150)))
    assert "fine-tuning is mostly better" in why_preferred("full", held_out)
    assert "fine-tuning is mostly better" in why_preferred("full", replace(held_out, against="linear+head"))


def test_of_two_fine_tuned_networks_neither_is_simpler() -> None:
    """Estimates decide: a higher accuracy, or a lower log loss if the accuracy does not speak against it."""
    gain = Interval(0.01, -0.02, 0.04, 848)
    found = Comparison("full", Interval(-0.002, -0.02, 0.016, 848), "undecided", "accuracy", 2, gain)
    assert why_preferred("soup", found) == "its log loss is lower than that of full, which is no simpler"
    higher = replace(found, against="lora", difference=Interval(0.01, -0.01, 0.03, 848), log_loss_gain=None)
    assert why_preferred("full", higher) == "its accuracy is higher than that of lora, which is no simpler"
    # The head and classical models are.
    assert why_preferred("full", replace(higher, against="head")) is None and why_preferred("head", higher) is None
    assert why_preferred("soup", replace(found, log_loss_gain=Interval(-0.01, -0.04, 0.02, 848))) is None
    assert why_preferred("soup", replace(found, difference=Interval(-0.01, -0.021, 0.009, 848))) is None
    assert why_preferred("soup", replace(found, verdict="worse")) is None


def test_what_the_accuracy_cannot_decide_the_log_loss_may() -> None:
    gain = Interval(0.044, 0.010, 0.078, 848)
    comparison = Comparison("linear", Interval(0.028, -0.004, 0.060, 848), "undecided", "accuracy", 2, gain)
    reason = "its log loss is lower than that of linear, by 0.044 [0.010, 0.078], and its accuracy is no lower"
    assert why_preferred("full", comparison) == why_preferred("linear+head", comparison) == reason
    assert why_preferred("full", replace(comparison, log_loss_gain=Interval(0.044, -0.010, 0.098, 848))) is None
    assert why_preferred("full", replace(comparison, difference=Interval(-0.001, -0.03, 0.028, 848))) is None
    assert why_preferred("full", replace(comparison, verdict="worse")) is None
    # Probabilities that are less sure, and the same labels.
    task, labels = SingleLabel(("a", "b")), np.arange(400) % 2
    sure_NC, less_NC = (np.eye(2)[labels] * (2 * sure - 1) + 1 - sure for sure in (0.9, 0.8))
    assert compare(task, labels, sure_NC, less_NC, against="linear", comparisons=3).log_loss_gain.low > 0
    found = compare(task, labels, sure_NC, less_NC, against="majority", comparisons=3, is_constant=True)
    assert found.log_loss_gain is None and why_preferred("full", found) is None


def test_what_tells_classes_apart_takes_the_place_of_a_constant_that_is_right_as_often() -> None:
    difference = Interval(0.0, -0.01, 0.01, 500)
    comparison = Comparison("majority", difference, "no worse", "accuracy", 5, association=0.0005, is_constant=True)
    reason = "it tells classes apart (p = 0.0005 by permutation), though its accuracy is not proven higher than that of majority"
    for name, found in (("linear", comparison), ("full", replace(comparison, verdict="worse"))):
        assert why_preferred(name, found) == reason
    assert why_preferred("linear", replace(comparison, association=0.003)) is None
    # Against a model that does, too, it is no reason.
    assert why_preferred("linear", replace(comparison, is_constant=False)) is None


def test_a_second_constant_is_no_signal(tmp_path) -> None:
    rungs = [record("mean"), record("median", "better"), record("linear", "undecided", promoted=True)]
    state = LadderState(tmp_path, rungs)
    assert state.best is rungs[1] and not state.beats_constant
    assert (
        final_verdict(state)
        == "no signal: none of linear is better than median by a paired test on the validation rows"
    )


def record(name: str, verdict: str | None = None, **fields) -> RungRecord:
    comparison = None if verdict is None else {"against": "majority", "verdict": verdict, **dict.fromkeys("x")}
    return RungRecord(name, "why", f"1-{name}", comparison=comparison, **fields)


def test_a_trial_is_short_where_it_would_end_late() -> None:
    assert trial_seconds(200, 10, 30) == 20 and trial_seconds(200, 10, 38) == 12 and trial_seconds(200, 10, 70) == 6
    assert trial_seconds(15, 10, 30) == trial_seconds(15, 10, 70) == 5 and trial_seconds(10.5, 10, 30) == 0


def test_verdicts(tmp_path) -> None:
    state = LadderState(tmp_path, [record("majority"), record("linear", "undecided")])
    state.rungs.append(record("head", "no worse", promoted=True))
    assert has_no_signal(state, 0.001) and not has_no_signal(state, 0.2) and not has_no_signal(state, None)
    assert final_verdict(state).startswith("no signal: none of linear, head is better than majority")
    assert not starts_from_head(state, 0.15) and starts_from_head(state, 0.25)
    state.rungs[1] = record("linear", "better", title="tfidf+logistic")
    assert "nothing beats the linear model (tfidf+logistic)" in final_verdict(state)
    state.rungs.append(record("full", "better", promoted=True))
    assert final_verdict(state).startswith("full: why")
    state.rungs[2] = record("head", "better")
    assert starts_from_head(state, 0.001)
    # A rung fits its own layer where the head has none, but where the head was left for want of time.
    assert starts_from_head(state, None)
    assert not starts_from_head(LadderState(tmp_path, [RungRecord("head", STRAIGHT)]), None)
    state.rungs[2:] = [record("head", "no worse", promoted=True, preferred=True)]
    state.rungs[2].comparison["against"] = "linear"
    assert state.best is state.chosen is state.rungs[2]
    # Not better than the constant, it is no signal.
    state.rungs[2].comparison["against"] = "majority"
    assert state.best is state.rungs[1] and state.chosen is state.rungs[2]
    state.rungs[2].comparison["tells_apart"] = True
    assert state.best is state.chosen is state.rungs[2] and state.beats_constant
    trial = replace(state.rungs[2], name="trial")
    assert LadderState(tmp_path, [record("majority"), trial]).has_signal
    assert not LadderState(tmp_path, [record("majority"), record("trial", "no worse")]).has_signal
    assert describe(RungRecord("top", "left: no time"), "accuracy") == "top: left: no time"


def test_a_comparison_that_is_proven_leaves_its_level_to_the_others(tmp_path) -> None:
    state = LadderState(tmp_path, [record("majority")], tested=["linear", "head", "lora"])
    assert state.comparisons_left == 3
    state.rungs.append(record("linear", "better"))
    assert state.comparisons_left == 2
    state.rungs.append(record("head", "worse"))
    assert state.comparisons_left == 2
    # No result has decided that there is no time for it.
    state.rungs.append(RungRecord("lora", "left"))
    assert state.comparisons_left == 1
    # One that was never to be compared had no share.
    state.rungs.append(RungRecord("top", "left"))
    assert state.comparisons_left == 1 and len(state.tested) == 3
    state.tested.append("full")
    assert state.comparisons_left == 2
    # Without a head there is none with a linear model.
    state.tested.append("linear+head")
    assert state.comparisons_left == 3
    state.rungs[2] = RungRecord("head", "left")
    assert state.comparisons_left == 1
    assert methods_within("best", 44) == methods_within("good", 60) == ("full",)
    assert methods_within(None, 60) == ("top", "lora", "full") and methods_within("fast", 60) == ()


def test_a_state_is_read_as_it_was_written(tmp_path) -> None:
    state = LadderState(tmp_path, [record("majority"), RungRecord("top", "left")], 12.5, {"name": "full", "epochs": 1})
    state.tested, state.compared_rows = ["linear", "full"], 300
    state.save()
    assert LadderState.read(tmp_path) == state and LadderState.read(tmp_path / "other").rungs == []
    assert state.next_folder("full") == "2-full" and state.find("top") is state.rungs[1] and state.has_signal
