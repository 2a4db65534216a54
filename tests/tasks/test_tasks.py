"""Tasks by hand: units of a target, thresholds, what is predicted."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.checkpoints import load_classifier
from helpers.tiny import tiny_text_checkpoint

from hf_finetune.errors import InputError
from hf_finetune.tasks.base import Task
from hf_finetune.tasks.choose import TASKS
from hf_finetune.tasks.multi_label import MultiLabel
from hf_finetune.tasks.regression import Regression
from hf_finetune.tasks.single_label import SingleLabel

THIRDS = MultiLabel(("a", "b"), (0.25, 0.8))
SCORES = np.array([[0.3, 0.7], [0.2, 0.9], [0.1, 0.1]])


def test_a_target_is_folded_and_taken_out_again(tmp_path: Path) -> None:
    """A run that starts from one that answers in the user's unit begins with standardized answers."""
    checkpoint = str(tiny_text_checkpoint(tmp_path / "bert"))
    network = load_classifier(checkpoint, task="text-classification", labels=("x",)).model
    task, layer = Regression(("x",), (1000.0,), (50.0,)), network.classifier
    with torch.no_grad():
        layer.bias.fill_(0.5)
    weight = layer.weight.detach().clone()
    task.finish(network)
    assert torch.allclose(layer.weight, 50 * weight) and float(layer.bias.detach()) == 1025.0
    task.start(network, ("classifier",))
    assert float(layer.bias.detach()) == 1025.0, "a random head has no unit"
    task.start(network, ())
    assert torch.allclose(layer.weight, weight) and float(layer.bias.detach()) == pytest.approx(0.5)


def test_what_a_fit_to_frozen_features_predicts_in_words() -> None:
    assert SingleLabel(("a", "b")).explained(0.128) == "explains 0.13 of the entropy of the labels"
    for task, expected in ((MultiLabel, "the frequencies of the labels"), (Regression, "their mean")):
        assert task(("a",)).explained(-0.39) == f"predicts held-out labels no better than {expected}"


def test_settled_thresholds_predict_the_same_by_hand() -> None:
    """A threshold of 1/4 has odds of 1/3, which move to 1."""
    moved = THIRDS.settled(SCORES)
    assert moved[0, 0] == pytest.approx((0.3 / 0.7) / (0.3 / 0.7 + 1 / 3))
    assert ((moved >= 0.5) == (SCORES >= [0.25, 0.8])).all()
    assert THIRDS.decided(SCORES).tolist() == [[1, 0], [0, 1], [0, 0]]
    assert np.allclose(THIRDS.cuts_C, np.log([1 / 3, 4]))


def test_agreement_by_hand() -> None:
    """Of six tags five are decided alike, of three classes two."""
    others = np.array([[0.9, 0.9], [0.1, 0.9], [0.1, 0.1]])
    assert THIRDS.agreement(SCORES, others) == pytest.approx(5 / 6)
    assert SingleLabel(("a", "b")).agreement(SCORES, others) == pytest.approx(2 / 3)
    assert Regression(("x",)).agreement(SCORES[:, :1], -SCORES[:, :1]) == pytest.approx(-1)


def test_gain_of_log_loss_by_hand() -> None:
    """The first row has 0.8 in place of 0.4, a gain of ln 2; the other one has the same."""
    scores, others = np.array([[0.8, 0.2], [0.5, 0.5]]), np.array([[0.4, 0.6], [0.5, 0.5]])
    gain = SingleLabel(("a", "b")).log_loss_gain(np.array([0, 1]), scores, others)
    assert gain.value == pytest.approx(np.log(2) / 2)
    assert MultiLabel(("a", "b")).log_loss_gain(scores, scores, others) is None


@pytest.mark.parametrize("task", [SingleLabel(("a", "b")), MultiLabel(("a", "b")), Regression(("x",))])
def test_scores_of_predictions_predict_them_again(task: SingleLabel | MultiLabel | Regression) -> None:
    predicted = task.predicted(SCORES[:, : len(task.labels)])
    assert task.predicted(task.scores_of(predicted)) == predicted


def test_a_refusal_names_field_task_and_reason() -> None:
    Regression(("x",)).refuse("batching.sampling", is_set=False)
    with pytest.raises(InputError, match=r"^batching.sampling: expected its default with regression: numbers have no"):
        Regression(("x",)).refuse("batching.sampling", is_set=True)


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize(("method", "field"), [("decided", "evaluate.extra"), ("scores_of", "pretrain.objective")])
def test_a_task_refuses_what_it_lacks(kind: type[Task], method: str, field: str) -> None:
    """What reads these methods is refused before anything is computed."""
    assert getattr(kind, method) is not getattr(Task, method) or field in kind.refuses
    # The search of augmentation.
    assert (kind.by_row is Task.by_row) == (not kind.augments)
