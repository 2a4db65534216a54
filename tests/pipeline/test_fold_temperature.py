"""The temperature that is folded into the classification layer."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.checkpoints import load_classifier
from helpers.tiny import tiny_text_checkpoint

from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.metrics import row_log_losses
from hf_finetune.models.modules import classification_layers
from hf_finetune.pipeline.fold_temperature import Temperature, calibrated, fit_temperature, fold, trained_heads
from hf_finetune.pipeline.out_of_fold import OutOfFold
from hf_finetune.tasks.single_label import SingleLabel

TASK = SingleLabel(("a", "b", "c"))


def over_confident(rows: int, factor: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels that are drawn from the softmax of logits, and these logits times the factor."""
    rng = np.random.default_rng(seed)
    logits_NC = rng.normal(size=(rows, 3))
    return np.array([rng.choice(3, p=p) for p in TASK.scores(logits_NC)]), (factor * logits_NC).astype(np.float32)


def test_an_over_confident_model_is_divided_by_its_factor() -> None:
    labels, logits_NC = over_confident(2000, factor=3.0)
    temperature = fit_temperature(TASK, labels, logits_NC)
    assert temperature.fitted == pytest.approx(3.0, rel=0.1) and temperature.is_folded
    section = temperature.to_dict(TASK, labels, logits_NC / temperature.divisor, is_test=True)
    assert section["rows"] == 2000 and section["folded"]
    losses = [row_log_losses(labels, TASK.scores(logits_NC / by)).mean() for by in (1, temperature.fitted)]
    assert [section[name]["log_loss"] for name in ("before", "after")] == pytest.approx(losses, abs=1e-4)
    assert section["gain"]["value"] == pytest.approx(losses[0] - losses[1], abs=1e-4)
    assert section["after"]["ece"] < 0.05 < section["before"]["ece"]


def test_what_a_few_rows_say_by_chance_is_not_folded() -> None:
    labels, logits_NC = over_confident(12, factor=1.0, seed=3)
    temperature = fit_temperature(TASK, labels, logits_NC)
    assert abs(temperature.fitted - 1) > 0.2 and not temperature.is_folded and temperature.divisor == 1
    assert set(temperature.to_dict(TASK, labels, logits_NC, is_test=True)) == {"temperature", "rows", "gain", "folded"}


def test_each_fold_is_divided_by_the_temperature_of_the_others() -> None:
    parts = [over_confident(500, factor, seed) for seed, factor in enumerate((2.0, 2.0, 4.0))]
    labels, logits_NC = np.concatenate([y for y, _ in parts]), np.concatenate([z for _, z in parts])
    fold_N = np.repeat([0, 1, 2], 500)
    rows = Dataset.from_dict({"label": labels.tolist()})
    predicted = OutOfFold(rows, logits_NC[None], fold_N[None], seconds=1.0, predict_s=1.0)
    divided, temperature = calibrated(TASK, predicted)
    assert temperature.is_folded and temperature.rows == 1500 and temperature.divisors_N is not None
    others = fit_temperature(TASK, labels[:1000], logits_NC[:1000]).fitted
    assert temperature.divisors_N[-1] == pytest.approx(others)
    assert temperature.divisors_N[0] > temperature.fitted > others
    np.testing.assert_allclose(divided.logits_RNC[0], logits_NC / temperature.divisors_N[:, None], rtol=1e-6)
    section = temperature.to_dict(TASK, labels, divided.logits_RNC[0], is_test=False)
    values = TASK.values(labels, TASK.scores(logits_NC))
    assert section["before"] == {name: round(values[name], 4) for name in ("log_loss", "ece")}


def test_the_layer_is_divided_and_comes_back(tmp_path: Path) -> None:
    labels = ("a", "b", "c")
    network = load_classifier(tiny_text_checkpoint(tmp_path / "bert"), task="text-classification", labels=labels).model
    (layer,) = classification_layers(network.eval())
    weight, tokens = layer.weight.detach().clone(), torch.tensor([[2, 5, 6, 3]])
    before = network(tokens).logits
    temperature = Temperature(2.5, 100, Interval(0.1, 0.05, 0.15, 100))
    fold(temperature, network)
    torch.testing.assert_close(2.5 * network(tokens).logits, before)
    (head,) = trained_heads(network, temperature, explained=0.5)
    torch.testing.assert_close(head.weight_CD, weight)
