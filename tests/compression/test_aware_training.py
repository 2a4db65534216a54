"""Quantization-aware training: what is rounded, and that it helps."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import classifier_on, randomized
from helpers.small_runs import text_rows
from helpers.tiny import tiny_text_checkpoint
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.compression.formats import Onnx, Safetensors
from hf_finetune.compression.named_steps import named_chains
from hf_finetune.compression.quantization import aware_training, graph_edits
from hf_finetune.compression.quantization.aware_training import DistillQuantized, RoundedWeights, fake_quantized
from hf_finetune.compression.quantization.sensitivity import rounded_inputs, rounded_weights
from hf_finetune.compression.steps import StepRows
from hf_finetune.inference.compressing.gate import logits_of
from hf_finetune.tasks.trained_model import TrainedModel, load_trained

needs_torchao = pytest.mark.skipif(aware_training.find_spec("torchao") is None, reason="the extra quantize")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """Each output of a feed-forward network has one large weight, beside which the others are rounded coarsely."""

    def coarse(model: PreTrainedModel) -> None:
        for layer in randomized(model).bert.encoder.layer:
            layer.output.dense.weight.data[:, 0] = 40.0

    encoder = tiny_text_checkpoint(tmp_path_factory.mktemp("aware") / "encoder")
    return classifier_on(encoder, ["low", "high"], coarse)


def by_hand(weights_NK: torch.Tensor, weights: RoundedWeights) -> torch.Tensor:
    """int8: k * max / 127 with a whole k. int4: k from -8 to 7 in blocks of 32, of which the largest one is -8."""
    if weights == "int8":
        return rounded_weights(weights_NK)
    rounded_NK = torch.empty_like(weights_NK)
    for n, row_K in enumerate(weights_NK):
        for start in range(0, len(row_K), 32):
            block = row_K[start : start + 32]
            scale = max(block.tolist(), key=abs) / -8
            rounded_NK[n, start : start + 32] = (block / scale).round().clamp(-8, 7) * scale
    return rounded_NK


@needs_torchao
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_layer_computes_with_rounded_values(weights: RoundedWeights, source: TrainedModel) -> None:
    network = copy.deepcopy(source.model)
    name = "bert.encoder.layer.1.output.dense"
    layer = network.get_submodule(name)
    x_BK = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(0))
    inputs_BK = rounded_inputs(x_BK) if weights == "int8" else x_BK
    expected_BN = nn.functional.linear(inputs_BK, by_hand(layer.weight.detach(), weights), layer.bias)
    with fake_quantized(network, weights):
        rounding = network.get_submodule(name)
        torch.testing.assert_close(rounding(x_BK), expected_BN)
        rounding(x_BK).sum().backward()
        assert rounding.weight is layer.weight and (layer.weight.grad != 0).float().mean() > 0.9
        assert type(network.classifier) is nn.Linear and type(network.bert.pooler.dense) is nn.Linear
    assert {type(each) for each in network.modules() if isinstance(each, nn.Linear)} == {nn.Linear}


@needs_torchao
def test_training_rounds_as_the_graph_does(
    source: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The matrices of the encoder; not a large embedding table, which the graph has in int8."""
    network, rows = copy.deepcopy(source.model), text_rows(16)
    table_VK = network.bert.embeddings.word_embeddings.weight.data
    monkeypatch.setattr(graph_edits, "FEWEST_WEIGHTS", table_VK.numel())
    Onnx("int4-weights").write(source, StepRows(rows, rows, source), tmp_path)
    with fake_quantized(network, "int4"):
        trained_NC = logits_of(replace(source, model=network), rows)
        table_VK.copy_(rounded_weights(table_VK))
        expected_NC = logits_of(replace(source, model=network), rows)
    exact_NC, found_NC = (logits_of(each, rows) for each in (source, load_trained(str(tmp_path))))
    np.testing.assert_allclose(found_NC, expected_NC, rtol=0, atol=1e-4)
    assert np.abs(found_NC - exact_NC).max() > 0.01, "rounding changes something"
    assert np.abs(found_NC - trained_NC).max() > 1e-4, "the table, too"


@needs_torchao
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_rounding_loses_less_after_it(weights: RoundedWeights, source: TrainedModel, tmp_path: Path) -> None:
    rows = text_rows(48)
    steps = StepRows(rows, rows, source)
    step = DistillQuantized(weights=weights, epochs=6.0, learning_rate=3e-4, batch_size=8)
    trained = step.apply(source, steps)
    wanted_NC = logits_of(source, rows)

    def loss(classifier: TrainedModel) -> float:
        network = copy.deepcopy(classifier.model)
        with fake_quantized(network, weights):
            return float(((logits_of(replace(classifier, model=network), rows) - wanted_NC) ** 2).mean())

    assert loss(trained) < 0.5 * loss(source)
    # A plain network: it is stored and read again.
    assert not any(module.training for module in trained.model.modules())
    Safetensors().write(trained, steps, tmp_path)
    assert (logits_of(load_trained(str(tmp_path)), rows) == logits_of(trained, rows)).all()


def test_its_names_and_formats() -> None:
    names = {
        text: [chain.name for chain in named_chains(text)]
        for text in ("qat-int8", "layers,qat-int4=2", "qat-int4,int8")
    }
    assert names == {
        "qat-int8": ["qat-int8+onnx-int8", "qat-int8+onnx-int8-static"],
        "layers,qat-int4=2": ["layers+qat-int4-2+onnx-int4-weights"],
        "qat-int4,int8": ["qat-int4+onnx-int8"],
    }


def test_without_torchao_the_extra_is_named(source: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aware_training, "find_spec", lambda name: None)
    why = "qat-int4 needs the package torchao; pip install 'hf_finetune[quantize]'"
    assert DistillQuantized(weights="int4").refusal(source) == why
