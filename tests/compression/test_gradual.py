"""Removal of neurons and heads during training: the schedule, the scores and the masks by hand."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import load_classifier
from helpers.models import logits, randomized
from helpers.small_runs import text_rows
from helpers.tiny import TEXT_FAMILIES, tiny_image_checkpoint, tiny_text_checkpoint
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel

from hf_finetune.compression.calibration import calibration_batches, logits_of
from hf_finetune.compression.pruning.feed_forward import PruneFeedForward
from hf_finetune.compression.pruning.gradual import PruneGradually, remove_masked
from hf_finetune.compression.pruning.hard_concrete import HardConcrete, gate_values, open_probability
from hf_finetune.compression.pruning.heads import PruneHeads
from hf_finetune.compression.pruning.masks import largest, masked, removed_share
from hf_finetune.compression.pruning.movement import Movement
from hf_finetune.compression.pruning.networks import why_not_stock
from hf_finetune.compression.pruning.sites import Site
from hf_finetune.compression.recovery import Distill
from hf_finetune.compression.steps import StepRows
from hf_finetune.data.inputs import TextInputs
from hf_finetune.tasks.single_label import SingleLabel
from hf_finetune.tasks.trained_model import TrainedModel

CPU = torch.device("cpu")
SITE = Site(("0",), "1", 2)
"""Of two neurons between two linear layers."""


def test_the_cubic_schedule() -> None:
    """Nothing in the first tenth, half of the way 7/8 of the final share, and all of it from seven tenths on."""
    shares = [removed_share(done, 0.8) for done in (0.0, 0.1, 0.4, 0.7, 0.95)]
    assert shares == pytest.approx([0.0, 0.0, 0.7, 0.8, 0.8])


def test_a_tie_is_won_by_the_first_groups() -> None:
    assert largest(torch.tensor([1.0, 3.0, 1.0, 0.0]), 2).tolist() == [1, 1, 0, 0]


def test_movement_is_weight_times_gradient() -> None:
    """The neurons are 1 and 2, and their weights 3 and -1, so that the loss 3 * 1 - 1 * 2 changes by 3 and -2 with them.

    The first one then moves towards zero, and goes; its score changes further, although its mask is 0.
    """
    network = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0], [2.0]]))
        network[1].weight.copy_(torch.tensor([[3.0, -1.0]]))
    masks = Movement([SITE], 0.5, CPU)
    with masked(network, masks):
        losses = []
        for done in (0.0, 0.69):
            masks.before_step(done)
            losses.append(network(torch.ones(1, 1)).sum())
            losses[-1].backward()
            masks.after_backward()
    assert [loss.item() for loss in losses] == [1.0, -2.0]
    assert masks.scores[0].tolist() == [-6.0, 4.0]
    masks.settle()
    assert masks.masks[0].tolist() == [0.0, 1.0]


def test_hard_concrete_gates() -> None:
    """At location 0 the odds of an open gate are 11 to the power of the temperature 2/3: 4.946 to 1."""
    assert gate_values(torch.tensor([-9.0, 0.0, 9.0])).tolist() == [0.0, 0.5, 1.0]
    assert gate_values(torch.zeros(1), torch.tensor([0.5])).item() == 0.5
    assert open_probability(torch.zeros(1)).item() == pytest.approx(4.946 / 5.946, abs=1e-4)
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    is_open = gate_values(torch.zeros(20_000), uniform) > 0
    assert is_open.float().mean().item() == pytest.approx(4.946 / 5.946, abs=0.01)


def test_gates_keep_the_budget_and_what_the_loss_needs() -> None:
    """Of 8 gates the last 4 cost when they are closed: those remain."""
    masks = HardConcrete([Site(("0",), "1", 8)], 0.5, CPU)
    steps = 300
    for step in range(steps):
        masks.before_step(step / steps)
        if not masks.is_settled:
            (-masks.masks[0][4:].sum() + masks.penalty()).backward()
            masks.after_backward()
            closed = 1 - open_probability(masks.logits[0]).mean().item()
    assert closed == pytest.approx(0.5, abs=0.1)
    assert (masks.masks[0] > 0).tolist() == [False] * 4 + [True] * 4


def network(folder: Path, family: str) -> PreTrainedModel:
    text = family in TEXT_FAMILIES
    made = (tiny_text_checkpoint if text else tiny_image_checkpoint)(folder / family, family)
    task = "text-classification" if text else "image-classification"
    return randomized(load_classifier(made, task=task, labels=["no", "yes"]).model)


@pytest.mark.parametrize("family", ["bert", "modernbert", "vit"])
@pytest.mark.parametrize("groups", [PruneFeedForward(), PruneHeads()])
def test_removed_is_what_was_masked(family: str, groups: PruneFeedForward | PruneHeads, tmp_path: Path) -> None:
    """The smaller network computes what the masked one does, with gates between 0 and 1 in its weights."""
    model = network(tmp_path, family)
    if groups.refusal(TrainedModel(model=model, inputs=None, task=None)) is not None:  # type: ignore[arg-type]
        assert (family, groups.name) == ("modernbert", "heads")
        return
    sites = groups.sites(model)
    masks = Movement(sites, 0.5, CPU)
    generator = torch.Generator().manual_seed(0)
    masks.masks = [
        torch.rand(site.groups, generator=generator)
        * largest(torch.rand(site.groups, generator=generator), site.kept(0.5))
        for site in sites
    ]
    batch: dict[str, torch.Tensor] = {"pixel_values": torch.randn(2, 3, 32, 32, generator=generator)}
    if family in TEXT_FAMILIES:
        batch = {"input_ids": torch.randint(6, 100, (3, 7), generator=generator)}
    smaller = copy.deepcopy(model)
    remove_masked(smaller, masks)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())
    with masked(model, masks):
        expected = logits(model, batch)
    torch.testing.assert_close(logits(smaller, batch), expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    folder = tmp_path_factory.mktemp("gradual")
    model = network(folder, "bert")
    return TrainedModel(
        model=model,
        inputs=TextInputs(AutoTokenizer.from_pretrained(folder / "bert"), 64),
        task=SingleLabel(("no", "yes")),
    )


@pytest.mark.parametrize("score", ["movement", "gates"])
def test_the_source_teaches_what_remains(score: Any, source: TrainedModel) -> None:
    """An eighth of the neurons as a plain checkpoint, closer to the source than those of the largest weights."""
    rows = text_rows(48)
    steps = StepRows(rows, rows, source)
    step = PruneGradually(score=score, share=7 / 8, training=Distill(epochs=10.0, batch_size=8, learning_rate=2e-3))
    before = {name: weight.clone() for name, weight in source.model.state_dict().items()}
    result = step.apply(source, steps)
    assert all(torch.equal(weight, before[name]) for name, weight in source.model.state_dict().items())
    assert why_not_stock(result.model) is None and result.model.config.intermediate_size == 8
    plain = PruneFeedForward(share=7 / 8, importance="magnitude", reconstruct=False).apply(source, steps)
    batches = calibration_batches(source, rows)
    expected = logits_of(source.model, batches)
    lost, lost_plain = ((logits_of(each.model, batches) - expected).square().mean() for each in (result, plain))
    assert lost < 0.5 * lost_plain


def test_without_time_it_still_removes(source: TrainedModel) -> None:
    rows = text_rows(16)
    step = PruneGradually(part="heads", score="gates", share=0.25)
    result = step.apply(source, StepRows(rows, rows, source, seconds=1e-9))
    assert "has shape (24, 32)" in str(why_not_stock(result.model))
    assert replace(step, share=0.5).label == "heads-gates" and step.label == "heads-gates-0.25"
    assert step.row_passes(StepRows(rows, rows, source)) == 7 * 16
