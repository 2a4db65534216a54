"""Quantization: rounding by hand, changes of a graph that must not change what it computes, and options that clash."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from hf_finetune.compression.config import ExportOptions, QuantizationOptions
from hf_finetune.compression.quantization import graph_edits
from hf_finetune.compression.quantization.quantize import check_quantization, needs_rows
from hf_finetune.compression.quantization.sensitivity import rounded, rounded_inputs, rounded_weights


def test_weights_have_a_scale_by_channel() -> None:
    found = rounded_weights(torch.tensor([[127.0, 0.4], [254.0, 1.2], [0.0, 0.0]]))
    assert found.tolist() == [[127, 0], [254, 2], [0, 0]]


def test_inputs_have_one_scale_with_zero_among_the_values() -> None:
    assert rounded_inputs(torch.tensor([-1.0, 0.4, 0.6, 254.0])).tolist() == [-1, 0, 1, 254]
    assert rounded_inputs(torch.tensor([10.0, 255.0, 100.4])).tolist() == [10, 255, 100]
    assert rounded_inputs(torch.zeros(3)).tolist() == [0, 0, 0]


def test_a_rounded_layer_is_restored() -> None:
    layer = nn.Linear(2, 2)
    weights, values = layer.weight.data.clone(), torch.tensor([[0.3, 1.0]])
    before = layer(values)
    with rounded(layer):
        assert not torch.equal(layer(values), before)
    assert torch.equal(layer(values), before) and torch.equal(layer.weight, weights)


def graph_of(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], inputs: Any, outputs: list[str]) -> Any:
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    returned = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    return helper.make_model(
        helper.make_graph(nodes, "test", inputs, returned, tensors),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )


def computed(model: Any, **inputs: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)


def test_smoothing_moves_the_spread_of_inputs_to_the_weights() -> None:
    first, second = np.array([[1, 0.5], [2, 4]], np.float32), np.array([[0.25], [1]], np.float32)
    nodes = [helper.make_node("MatMul", ["x", name], [f"{name}_out"], name) for name in ("a", "b")]
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 2])]
    model = graph_of(nodes, {"a": first, "b": second}, values, ["a_out", "b_out"])
    x = np.array([[4, 1], [-2, 0.5]], np.float32)
    before = computed(model, x=x)
    largest = {"a": torch.tensor([4.0, 1.0]), "b": torch.tensor([4.0, 1.0])}
    assert graph_edits.smooth(model.graph, largest, 0.5) == 2
    for found, expected in zip(computed(model, x=x), before, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    weights = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    # Factors: the root of 4 / 1, and of 1 / 4, where 1 and 4 are the largest weights of each input.
    np.testing.assert_allclose(weights["smooth_0"], [0.5, 2])
    np.testing.assert_allclose(weights["a"], [[2, 1], [1, 2]])


def test_each_row_of_an_embedding_has_a_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_edits, "FEWEST_WEIGHTS", 4)
    table = np.array([[1.27, 0.01], [127, 0.4], [0, 0]], np.float32)
    nodes = [helper.make_node("Gather", ["table", "ids"], ["y"], "lookup")]
    model = graph_of(nodes, {"table": table}, [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N"])], ["y"])
    graph_edits.round_embeddings(model.graph)
    (found,) = computed(model, ids=np.array([1, 0, 2]))
    np.testing.assert_allclose(found, [[127, 0], [1.27, 0.01], [0, 0]], rtol=1e-5)
    assert {each.name: each.data_type for each in model.graph.initializer}["table"] == TensorProto.INT8


def test_a_table_that_something_else_reads_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_edits, "FEWEST_WEIGHTS", 4)
    nodes = [helper.make_node("Gather", ["table", "ids"], ["y"]), helper.make_node("MatMul", ["y", "table"], ["z"])]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["N"])
    model = graph_of(nodes, {"table": np.ones((2, 2), np.float32)}, [ids], ["z"])
    graph_edits.round_embeddings(model.graph)
    assert [node.op_type for node in model.graph.node] == ["Gather", "MatMul"]


def test_sums_before_a_layer_norm_are_not_fused() -> None:
    nodes = [
        helper.make_node("Add", ["x", "bias"], ["y"]),
        helper.make_node("Add", ["x", "y"], ["z"]),
        helper.make_node("LayerNormalization", ["z", "scale", "bias"], ["out"]),
    ]
    constants = {"bias": np.zeros(2, np.float32), "scale": np.ones(2, np.float32)}
    model = graph_of(nodes, constants, [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 2])], ["out"])
    graph_edits.split_residual_sums(model.graph)
    assert [node.op_type for node in model.graph.node] == ["Add", "Sum", "LayerNormalization"]


def test_products_are_named_like_their_layers() -> None:
    network = nn.ModuleDict({"up": nn.Linear(3, 2), "down": nn.Linear(2, 3)})
    up, down = (layer.weight.detach().numpy() for layer in network.values())
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["y"], "node_1"),
        helper.make_node("Gemm", ["y", "b"], ["z"], "node_2", transB=1),
    ]
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 3])]
    model = graph_of(nodes, {"a": up.T.copy(), "b": down.copy()}, values, ["z"])
    graph_edits.name_products(model.graph, network)
    assert [node.name for node in model.graph.node] == ["up", "down"]


@pytest.mark.parametrize(
    ("weights", "chosen", "message"),
    [
        ("float16", {"smooth": 0.5}, "--quantization.smooth: expected --weights int8 or int8-static, got float16"),
        ("int8", {"calibration": "entropy"}, "--quantization.calibration: expected --weights int8-static, got int8"),
        (
            "float32",
            {"float_layers": 1},
            "--quantization.float-layers: expected --weights int8, int4 or float16 of onnx",
        ),
    ],
)
def test_options_that_do_not_apply(weights: Any, chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        check_quantization(ExportOptions(weights=weights, quantization=QuantizationOptions(**chosen)))


def test_rows_are_read_only_where_they_calibrate() -> None:
    assert not needs_rows(ExportOptions(weights="int8")) and needs_rows(ExportOptions(weights="int8-static"))
    assert needs_rows(ExportOptions(weights="int8", quantization=QuantizationOptions(float_layers=1)))
