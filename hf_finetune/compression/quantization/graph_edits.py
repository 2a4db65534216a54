"""Changes of a graph in float32 before its matrix products are quantized.

Legend: K inputs and N outputs of a matrix product, V rows of an embedding table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from hf_finetune.compression.quantization.linear_layers import linear_layers

if TYPE_CHECKING:
    import onnx

FLOAT = 1
"""TensorProto.FLOAT: onnx is imported late."""
SMALLEST = 1e-5
"""Of largest values and of factors, for channels that are 0."""
FEWEST_WEIGHTS = 50_000
"""Of an embedding table that is rounded."""


def products(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, onnx.TensorProto]]:
    """Yield each matrix product with a matrix of weights, and these."""
    weights = {each.name: each for each in graph.initializer}
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights:
            yield node, weights[node.input[1]]


def name_products(graph: onnx.GraphProto, network: nn.Module) -> None:
    """Name each matrix product like the layer of the network whose weights it has, by which it can be left out."""
    from onnx import numpy_helper

    names: dict[bytes, list[str]] = {}
    for name, layer in linear_layers(network).items():
        names.setdefault(_digest(layer.weight.detach().cpu().numpy()), []).append(name)
    for node, tensor in products(graph):
        matrix = numpy_helper.to_array(tensor)
        # A product has the transposed weights of a layer, except the kind that transposes them itself.
        found = names.get(_digest(matrix.T)) or names.get(_digest(matrix))
        if found:
            node.name = found.pop(0)


def split_residual_sums(graph: onnx.GraphProto) -> None:
    """Let ONNX Runtime compute the sum before a layer norm by itself, see `models.exported_network.SLOW_FUSIONS`.

    It fuses an `Add` with the norm, and no `Sum`, which computes the same. The file is fast in every program.
    """
    source = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "LayerNormalization":
            before = source.get(node.input[0])
            if before is not None and before.op_type == "Add":
                before.op_type = "Sum"


def round_embeddings(graph: onnx.GraphProto) -> None:
    """Store embedding tables in int8, each row with a scale of its own.

    ONNX Runtime gives a table one scale.
    """
    from onnx import helper, numpy_helper

    tables = {each.name: each for each in graph.initializer if len(each.dims) == 2 and each.data_type == FLOAT}
    readers = {name: [node for node in graph.node if name in node.input] for name in tables}
    for name, nodes in readers.items():
        lookups = [node for node in nodes if node.op_type == "Gather" and node.input[0] == name]
        if not nodes or len(lookups) < len(nodes) or int(np.prod(tables[name].dims)) < FEWEST_WEIGHTS:
            continue
        if any(attribute.name == "axis" and attribute.i != 0 for node in lookups for attribute in node.attribute):
            continue
        values_VK = numpy_helper.to_array(tables[name])
        scales_V1 = np.maximum(np.abs(values_VK).max(1, keepdims=True) / 127, np.finfo(np.float32).tiny)
        rounded_VK = np.round(values_VK / scales_V1).astype(np.int8)
        tables[name].CopyFrom(numpy_helper.from_array(rounded_VK, name))
        graph.initializer.append(numpy_helper.from_array(scales_V1.astype(np.float32), f"{name}_scales"))
        for node in lookups:
            output = node.output[0]
            node.output[0] = f"{output}_int8"
            at = list(graph.node).index(node) + 1
            for number, each in enumerate(
                (
                    helper.make_node("Cast", [f"{output}_int8"], [f"{output}_cast"], f"{output}_cast", to=FLOAT),
                    helper.make_node(
                        "Gather", [f"{name}_scales", node.input[1]], [f"{output}_scale"], f"{output}_scale"
                    ),
                    helper.make_node("Mul", [f"{output}_cast", f"{output}_scale"], [output], f"{output}_float"),
                )
            ):
                graph.node.insert(at + number, each)


def smooth(graph: onnx.GraphProto, largest: Mapping[str, torch.Tensor], alpha: float) -> int:
    """Divide the inputs of matrix products by a factor of their channel, and multiply the weights by it.

    Channels of large inputs get smaller, and their weights larger, so that both lose less by rounding. Products of the
    same inputs share the factors max|x|^alpha / max|w|^(1 - alpha). SmoothQuant, Xiao et al. 2023,
    https://arxiv.org/abs/2211.10438

    Args:
        largest: largest absolute inputs, shape (K,), by the name of the product.

    Returns:
        The number of smoothed products.
    """
    from onnx import helper, numpy_helper

    groups: dict[str, list[tuple[onnx.NodeProto, onnx.TensorProto]]] = {}
    for node, tensor in products(graph):
        if node.op_type == "MatMul" and node.name in largest:
            groups.setdefault(node.input[0], []).append((node, tensor))
    for number, (name, group) in enumerate(groups.items()):
        matrices = [numpy_helper.to_array(tensor) for _, tensor in group]
        inputs_K = np.max([largest[node.name].numpy() for node, _ in group], axis=0)
        weights_K = np.max([np.abs(matrix_KN).max(1) for matrix_KN in matrices], axis=0)
        factors_K = np.maximum(inputs_K, SMALLEST) ** alpha / np.maximum(weights_K, SMALLEST) ** (1 - alpha)
        factors_K = np.maximum(factors_K, SMALLEST).astype(np.float32)
        constant, smoothed = f"smooth_{number}", f"smooth_{number}_inputs"
        graph.initializer.append(numpy_helper.from_array(1 / factors_K, constant))
        first = next(i for i, node in enumerate(graph.node) if node.name == group[0][0].name)
        for (node, tensor), matrix_KN in zip(group, matrices, strict=True):
            tensor.CopyFrom(numpy_helper.from_array(matrix_KN * factors_K[:, None], tensor.name))
            node.input[0] = smoothed
        graph.node.insert(first, helper.make_node("Mul", [name, constant], [smoothed], f"smooth_{number}"))
    return sum(map(len, groups.values()))


def _digest(matrix: np.ndarray) -> bytes:
    import hashlib

    return hashlib.sha256(str(matrix.shape).encode() + np.ascontiguousarray(matrix).tobytes()).digest()
