"""Training of a pruned network by the unpruned one."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from helpers.models import classifier_on
from helpers.small_runs import text_rows
from helpers.tiny import tiny_text_checkpoint

from hf_finetune.compression.recovery import Distill
from hf_finetune.compression.steps import StepRows
from hf_finetune.inference.compressing.gate import logits_of
from hf_finetune.tasks.trained_model import TrainedModel


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    encoder = tiny_text_checkpoint(tmp_path_factory.mktemp("distill") / "encoder")
    return classifier_on(encoder, ["low", "high"])


def damaged(source: TrainedModel) -> TrainedModel:
    """A copy that lacks a part: its last feed-forward network writes nothing."""
    model = copy.deepcopy(source.model)
    layer = model.bert.encoder.layer[-1].output.dense
    layer.weight.data.zero_()
    model.classifier.weight.data.mul_(-1)
    return replace(source, model=model)


def test_the_logits_of_the_source_are_learned(source: TrainedModel) -> None:
    rows = text_rows(48)
    steps, student = StepRows(rows, rows, source), damaged(source)
    before = {name: weight.clone() for name, weight in student.model.state_dict().items()}
    trained = Distill(epochs=12.0, learning_rate=2e-3, batch_size=8).apply(student, steps)
    wanted_NC = logits_of(source, rows)
    first, last = (((logits_of(each, rows) - wanted_NC) ** 2).mean() for each in (student, trained))
    assert last < 0.2 * first
    assert all(torch.equal(weight, before[name]) for name, weight in student.model.state_dict().items())
    assert trained.inputs is student.inputs and not trained.model.training


def test_no_time_trains_nothing(source: TrainedModel) -> None:
    rows = text_rows(16)
    student = damaged(source)
    trained = Distill().apply(student, StepRows(rows, rows, source, seconds=1e-9))
    assert (logits_of(trained, rows) == logits_of(student, rows)).all()


def test_its_cost_counts_all_epochs(source: TrainedModel) -> None:
    rows = text_rows(40)
    assert Distill(epochs=2.0).row_passes(StepRows(rows, rows, source)) == (1 + 2 * 2) * 40
    assert Distill(epochs=2.0, most_passes=50).row_passes(StepRows(rows, rows, source)) == 40 + 2 * 50
    assert Distill(epochs=2.0, most_rows=10).row_passes(StepRows(rows, rows, source)) == (1 + 2 * 2) * 10
