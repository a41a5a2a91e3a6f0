"""Which values of a graph are computed in 16 bits: decided by what they mean, not by how large they are.

"Half" is float16 or bfloat16 below.

    products        Conv, ConvTranspose, Gemm, MatMul                       always half
    Q/DQ            QuantizeLinear, DequantizeLinear around products        always half
    sensitive       normalisation, softmax, long sums, sampling, ordering   always float32
    protected       whatever a coordinate, a flow, an index, a comparison   float32, back to the product that
                    or a float32 output is computed from                    made it, and all that mixes with it
    the rest        activations, sums and copies of features                half as soon as one operand is

A pixel position in float16 is off by 0.06 px at column 100 and by 0.5 px at column 1000, while a feature rounded to
11 bits costs nothing visible: magnitude based rules see no difference between the two (facts: TensorRT's own fp16
deformable convolution rounds coordinates and loses 40 times more than features do).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from bsst.errors import ExportError

__all__ = ["PRODUCTS", "QDQ", "Assignment", "assign_precision", "node_inputs", "value_types"]

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
SENSITIVE = frozenset(
    {
        *("Softmax", "LogSoftmax", "LayerNormalization", "InstanceNormalization", "GroupNormalization"),
        *("BatchNormalization", "GlobalAveragePool", "ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare"),
        *("ReduceProd", "ReduceLogSumExp", "CumSum", "Exp", "Log", "Pow", "Sqrt", "Reciprocal", "Atan", "Sin", "Cos"),
        *("GridSample", "DeformConv", "TopK", "ArgMax", "ArgMin", "Range", "Floor", "Ceil", "Round", "Mod"),
        *("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "NonZero"),
    }
)
COORDINATES = {"GridSample": (1,), "DeformConv": (2, 4)}
"""Inputs that are positions, or that share one type with positions."""
FIXED_FLOAT = {"Resize": (1, 2), "Upsample": (1,)}
"""Inputs whose type the operator fixes at float32 (scales)."""

QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Result of the analysis."""

    half: frozenset[int]
    """Indices of the nodes whose floating point operands and results are half."""
    protected: frozenset[str]
    """Values that stay float32 because of what is computed from them."""


def assign_precision(
    model: onnx.ModelProto,
    types: Mapping[str, int],
    *,
    half_tensors: Collection[str],
    operators: Operators,
    largest: float = 65504.0,
) -> Assignment:
    """Decide for every node of the main graph.

    Args:
        model: float32 graph in topological order without subgraphs.
        types: element type of every value, from `value_types`.
        half_tensors: graph inputs and outputs that are half.
        operators: custom operators, node type -> meaning of its inputs (`feature`, `float32`, `int32`).
        largest: finite number of the half type; a node with a larger constant stays float32.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    protected = _protected(graph, types, constants, half_tensors, operators)
    half: set[int] = set()
    half_values = set(half_tensors)
    for index, node in enumerate(graph.node):
        floats = [name for name in node_inputs(node) if types.get(name) in _FLOATS]
        if node.op_type in operators:
            chosen = any(meaning == "feature" for meaning in operators[node.op_type])
        elif node.op_type in QDQ:
            chosen = True
        elif node.op_type in PRODUCTS:
            chosen = types.get(node.output[0]) in _FLOATS
        elif node.op_type in SENSITIVE or any(types.get(name) not in _FLOATS for name in node.output):
            chosen = False
        else:
            chosen = (
                any(name in half_values for name in floats)
                and not protected.intersection(node.output)
                and not protected.intersection(name for name in floats if name not in constants)
            )
        if chosen and all(_fits(constants[name], largest) for name in floats if name in constants):
            half.add(index)
            half_values.update(node.output)
    return Assignment(half=frozenset(half), protected=frozenset(protected))


Operators = Mapping[str, tuple[str, ...]]


def node_inputs(node: onnx.NodeProto) -> list[str]:
    """Operands that may change type: those whose type the operator fixes and absent ones are left out."""
    fixed = FIXED_FLOAT.get(node.op_type, ())
    return [name for index, name in enumerate(node.input) if name and index not in fixed]


def value_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every value of the main graph.

    Raises:
        ExportError: a value without a type, or a node with a subgraph.
    """
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    for node in graph.node:
        if any(
            attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for attribute in node.attribute
        ):
            raise ExportError(f"node {node.name}: expected no control flow, got {node.op_type}; export static graphs")
        if untyped := [name for name in node.output if name and not types.get(name)]:
            raise ExportError(
                f"node {node.name} ({node.op_type}): expected a known type of {', '.join(untyped)}, got none; "
                "export the stage with value types"
            )
    return types


def _protected(
    graph: onnx.GraphProto,
    types: Mapping[str, int],
    constants: Mapping[str, TensorProto],
    half_tensors: Collection[str],
    operators: Operators,
) -> set[str]:
    producers = {name: node for node in graph.node for name in node.output}
    pending = [output.name for output in graph.output if output.name not in half_tensors]
    for node in graph.node:
        pending.extend(_coordinates(node, types, operators))
    protected: set[str] = set()
    while pending:
        name = pending.pop()
        if name in protected or name in constants or types.get(name) not in _FLOATS:
            continue
        protected.add(name)
        producer = producers.get(name)
        # A product ends the search: its operands are features even where its result is a flow or an offset.
        if producer is not None and producer.op_type not in PRODUCTS and producer.op_type not in operators:
            pending.extend(name for name in _operands_of_meaning(producer) if name)
    return protected.difference(half_tensors)


def _coordinates(node: onnx.NodeProto, types: Mapping[str, int], operators: Operators) -> Iterable[str]:
    if node.op_type in operators:
        return [
            name for name, meaning in zip(node.input, operators[node.op_type], strict=False) if meaning == "float32"
        ]
    if node.op_type in COORDINATES:
        return [node.input[index] for index in COORDINATES[node.op_type] if index < len(node.input)]
    if node.op_type in QDQ:
        return []
    to_other_type = any(types.get(name) not in _FLOATS for name in node.output if name)
    return list(node.input) if to_other_type and node.op_type != "Shape" else []


def _operands_of_meaning(node: onnx.NodeProto) -> list[str]:
    # What is sampled is a feature even where the positions matter; a normalised value depends on all of its input.
    return list(node.input[1:]) if node.op_type == "GridSample" else list(node.input)


def _fits(tensor: TensorProto, largest: float) -> bool:
    if tensor.data_type not in _FLOATS:
        return True
    values = np.abs(numpy_helper.to_array(tensor))
    return values.size == 0 or float(values.max()) <= largest
