"""Operations counted by hand, and the peak they are held against."""

import numpy as np
import pytest
import torch
from helpers.tiny import tiny_image_checkpoint, tiny_text_checkpoint
from torch import nn
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from hf_finetune.models.freezing import freeze_lower
from hf_finetune.training import flops
from hf_finetune.training.flops import gemm_peak, training_flops

# The tiny BERT: 3 layers of width 32, inner width 64.
LAYER = 2 * (4 * 32 * 32 + 2 * 32 * 64)
HEAD = 2 * (32 * 32 + 32 * 5)


def forward(tokens, layers=3):
    return layers * (tokens * LAYER + 4 * tokens**2 * 32) + HEAD


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_text_checkpoint(tmp_path_factory.mktemp("bert"))


def classifier(checkpoint, attention="eager"):
    return AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=5, attn_implementation=attention)


def ids(tokens):
    return {"input_ids": torch.full((1, tokens), 7)}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_trained_network_counts_three_times_its_forward_pass(checkpoint, attention, autocast):
    model = classifier(checkpoint, attention)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        counted = training_flops(model, ids(9))
    # The lowest layer's input is the embeddings, which train: nothing is left out.
    assert counted == 3 * forward(9)


def test_a_frozen_layer_counts_once_and_the_lowest_trained_one_needs_no_gradient_of_its_input(checkpoint):
    model = classifier(checkpoint)
    freeze_lower(model, 1)
    inputs_gradient = 9 * 2 * 3 * 32 * 32  # of query, key and value
    assert training_flops(model, ids(9)) == forward(9, 1) - HEAD + 3 * forward(9, 2) - inputs_gradient


def test_counting_leaves_no_trace(checkpoint):
    model = classifier(checkpoint).eval()
    before = torch.get_rng_state()
    training_flops(model, ids(9))
    assert not model.training and all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), before)


def test_counting_leaves_batch_norm_as_it_was(tmp_path):
    """One small image, of which nothing but one value a channel is left in the end."""
    checkpoint = tiny_image_checkpoint(tmp_path, "resnet")
    model = AutoModelForImageClassification.from_pretrained(checkpoint, num_labels=5).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert before and training_flops(model, {"pixel_values": torch.zeros(1, 3, 32, 32)}) > 0
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert model.training and all(module.training for module in model.modules())


def test_rows_are_read_off_the_parabola_through_three_of_them(checkpoint):
    class Numbers:
        def __getitems__(self, indices):
            return {"tokens": [lengths[i] for i in indices]}

    lengths = np.array([5, 40, 11, 17, 5, 29])
    model = classifier(checkpoint)
    result = flops.flops_of_rows(model, Numbers(), lambda batch: ids(batch["tokens"][0]), lengths)
    assert result == pytest.approx([3 * forward(t) for t in lengths.tolist()])
    same = np.array([8, 8])
    lengths = same
    result = flops.flops_of_rows(model, Numbers(), lambda batch: ids(batch["tokens"][0]), same)
    assert result == pytest.approx([3 * forward(8)] * 2)


def test_images_count_by_their_size(tmp_path):
    model = AutoModelForImageClassification.from_pretrained(tiny_image_checkpoint(tmp_path / "vit"), num_labels=5)
    patches = (32 // 8) ** 2
    tokens = patches + 1
    once = 3 * (tokens * LAYER + 4 * tokens**2 * 32) + 2 * 32 * 5
    embedding = 2 * patches * 3 * 8 * 8 * 32
    work = flops.WorkCounter()
    work.add({"pixel_values": torch.zeros(7, 3, 32, 32), "labels": torch.zeros(7)}, model.config)
    used = flops.measure(model, work, passes=1, rows=None, collate=dict, lengths=None, seconds=2.0, dtype=torch.float32)
    # An image has no gradient.
    assert used.trained == 7 * (3 * once + 2 * embedding)
    assert used.dtype == "float32" and used.share == used.trained / 2.0 / used.peak > 0
    assert flops.patches(model.config, (3, 32, 32)) == patches
    assert flops.patches(model.config, (17, 32)) == 17


def test_nothing_trained_is_nothing_measured():
    model = nn.Linear(2, 2)
    arguments = {"passes": 1, "rows": None, "collate": dict, "lengths": None, "seconds": 1.0}
    assert flops.measure(model, flops.WorkCounter(), **arguments, dtype=torch.float32) is None


def test_the_peak_is_some_speed_measured_once_for_the_same_settings(monkeypatch):
    where = {"device": torch.device("cpu"), "width": 32, "budget_s": 0.0}
    found = gemm_peak(torch.bfloat16, **where)
    assert found == gemm_peak(torch.bfloat16, **where) > 0
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "another")
    assert gemm_peak(torch.bfloat16, **where) != found
