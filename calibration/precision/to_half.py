"""Graph passes `--fp16` and `--bf16`: float32 graph -> the same with products in 16 bits, coordinates in float32.

Requires: opset 19, one static graph of standard operators (or nodes of `operators`), types known.
Ensures: every convolution and matrix product is half (checked; `FLOAT_PRODUCTS` apart), names, shapes and order of
inputs and outputs stay, and only `half_tensors` among them change their type.

Opset 19 of ONNX has no Conv in bfloat16 (22 does, but from 20 on TensorRT samples grids by the nearest pixel, see
`export/lint.py`), so `onnx.checker` refuses bf16 graphs; TensorRT-RTX 1.7 compiles them for SM 80 and later.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Literal

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from bsst.calibration.precision.policy import PRODUCTS, assign_precision, node_inputs, value_types
from bsst.errors import ExportError
from bsst.plugins.operator_schema import DOMAIN

__all__ = ["HalfType", "feature_tensors", "precision_shares", "to_half"]

HalfType = Literal["float16", "bfloat16"]

FEATURES = re.compile(r"full|half|quarter|state\d?|feature_\d+|reconstruction|attended|decoded")
"""Stage inputs and outputs that hold features; the others hold pixels, flows, motion maps, tables or RAFT features."""

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_KINDS: dict[HalfType, int] = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
FLOAT_PRODUCTS: dict[HalfType, frozenset[str]] = {"float16": frozenset(), "bfloat16": frozenset({"ConvTranspose"})}
"""Products that stay float32. TensorRT-RTX 1.7 refuses transposed convolutions in bfloat16: "Could not infer output
types for operation: deconv"."""
_LARGEST: dict[HalfType, float] = {"float16": 65504.0, "bfloat16": 3.3895313892515355e38}


def feature_tensors(model: onnx.ModelProto) -> frozenset[str]:
    """Inputs and outputs of a stage that may be half, by name."""
    names = (value.name for value in (*model.graph.input, *model.graph.output))
    return frozenset(name for name in names if FEATURES.fullmatch(name))


def to_half(
    model: onnx.ModelProto,
    dtype: HalfType,
    *,
    half_tensors: Collection[str] = (),
    operators: Mapping[str, tuple[str, ...]] | None = None,
) -> onnx.ModelProto:
    """Copy of the model with features in 16 bits.

    Args:
        model: float32 stage, lowered for its target, with or without Q/DQ pairs.
        dtype: the 16-bit type.
        half_tensors: inputs and outputs that become half, see `feature_tensors`; the others keep their type.
        operators: custom operators left as nodes, node type -> meaning of each input (`feature`, `float32`, `int32`).

    Raises:
        ExportError: a value of unknown type, control flow, or a product whose constants do not fit the type.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    known = dict(operators or {})
    _constants_to_initializers(result.graph)
    _scale_before_product(result.graph)
    types = value_types(result)
    assignment = assign_precision(result, types, half_tensors=half_tensors, operators=known, largest=_LARGEST[dtype])
    rewriter = _Rewriter(result.graph, types, known, _KINDS[dtype])
    kept = {index for index, node in enumerate(result.graph.node) if node.op_type in FLOAT_PRODUCTS[dtype]}
    rewriter.apply(assignment.half - kept, frozenset(half_tensors))
    _refuse_float_products(result, dtype)
    return result


def precision_shares(model: onnx.ModelProto) -> dict[str, float]:
    """Share of convolutions and matrix products (DeformConv and plugins included) of each type, read from the graph.

    A product is int8 where both its operands come out of DequantizeLinear: there a compiler takes the integers.
    """
    types = value_types(model)
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    counts: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in PRODUCTS or node.op_type == "DeformConv" or node.domain == DOMAIN:
            name = str(helper.tensor_dtype_to_np_dtype(types[node.output[0]]))
            name = "int8" if dequantized.issuperset(node.input[:2]) else name
            counts[name] = counts.get(name, 0) + 1
    total = sum(counts.values())
    return {name: count / total for name, count in sorted(counts.items())}


class _Rewriter:
    """One walk over the nodes that gives each operand the type its node asks for."""

    def __init__(
        self, graph: onnx.GraphProto, types: dict[str, int], operators: Mapping[str, tuple[str, ...]], half: int
    ) -> None:
        self.graph = graph
        self.half = half
        self.types = dict(types)
        self.operators = operators
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.nodes: list[NodeProto] = []
        self.casts: dict[tuple[str, int], str] = {}

    def apply(self, half: frozenset[int], half_tensors: frozenset[str]) -> None:
        for value in (*self.graph.input, *self.graph.output):
            if value.name in half_tensors and value.type.tensor_type.elem_type == TensorProto.FLOAT:
                value.type.tensor_type.elem_type = self.half
        for value in self.graph.input:
            self.types[value.name] = value.type.tensor_type.elem_type
        wanted = {value.name: value.type.tensor_type.elem_type for value in self.graph.output}
        for index, node in enumerate(self.graph.node):
            self._node(node, self.half if index in half else TensorProto.FLOAT, wanted)
        used = {name for node in self.nodes for name in node.input} | set(wanted)
        kept = [tensor for tensor in self.constants.values() if tensor.name in used]
        for value in self.graph.value_info:
            if value.type.tensor_type.elem_type in _FLOATS:
                value.type.tensor_type.elem_type = self.types[value.name]
        self._state_types()
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend(kept)

    def _state_types(self) -> None:
        """Type inference of ONNX gives up at a Conv in bfloat16, so the graph says the type of every value itself."""
        stated = {value.name for value in (*self.graph.value_info, *self.graph.output)}
        for name in (name for node in self.nodes for name in node.output if name and name not in stated):
            self.graph.value_info.append(helper.make_tensor_value_info(name, self.types[name], None))

    def _node(self, node: NodeProto, kind: int, wanted: Mapping[str, int]) -> None:
        changeable = set(node_inputs(node))
        meanings = self.operators.get(node.op_type)
        for position, name in enumerate(node.input):
            if name in changeable and self.types.get(name) in _FLOATS:
                own = TensorProto.FLOAT if meanings is not None and meanings[position] == "float32" else kind
                node.input[position] = self._as_type(name, own)
        self.nodes.append(node)
        if node.op_type == "Cast":
            self._retarget_cast(node, kind)
        for position, name in enumerate(node.output):
            if self.types.get(name) not in _FLOATS:
                continue
            self.types[name] = kind
            if name in wanted and wanted[name] != kind:
                # The graph's output keeps its name; what the node computes is renamed and cast into it.
                inner = node.output[position] = f"{name}_{_label(kind)}"
                self.types[inner] = kind
                self.nodes.append(_cast(inner, name, wanted[name]))
                self.casts[name, kind] = inner
                self.types[name] = wanted[name]

    def _retarget_cast(self, node: NodeProto, kind: int) -> None:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i in _FLOATS:
                attribute.i = kind

    def _as_type(self, name: str, kind: int) -> str:
        if self.types[name] == kind:
            return name
        if (name, kind) not in self.casts:
            new = self.casts[name, kind] = f"{name}_{_label(kind)}"
            self.types[new] = kind
            if name in self.constants:
                array = numpy_helper.to_array(self.constants[name]).astype(helper.tensor_dtype_to_np_dtype(kind))
                self.constants[new] = numpy_helper.from_array(array, new)
            else:
                self.nodes.append(_cast(name, new, kind))
        return self.casts[name, kind]


def _label(kind: int) -> str:
    return str(helper.tensor_dtype_to_np_dtype(kind))


def _cast(source: str, target: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=kind)


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    """So that a constant has one form to convert."""
    kept = []
    for node in graph.node:
        value = next((a for a in node.attribute if a.name in ("value", "value_float", "value_floats")), None)
        if node.op_type != "Constant" or value is None:
            kept.append(node)
            continue
        array = (
            numpy_helper.to_array(value.t) if value.name == "value" else np.float32(helper.get_attribute_value(value))
        )
        graph.initializer.append(numpy_helper.from_array(np.asarray(array), node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)


def _scale_before_product(graph: onnx.GraphProto) -> None:
    """MatMul(a, b) / s becomes MatMul(a / s, b): sums over many channels stay within float16's 65504."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    users: dict[str, int] = {}
    for name in (name for node in graph.node for name in node.input):
        users[name] = users.get(name, 0) + 1
    outputs = {value.name for value in graph.output}
    nodes = list(graph.node)
    products = {node.output[0]: (index, node) for index, node in enumerate(nodes) if node.op_type == "MatMul"}
    for index, scale in enumerate(nodes):
        if scale.op_type != "Div" or scale.input[0] not in products or scale.input[1] not in constants:
            continue
        place, product = products[scale.input[0]]
        divisor = numpy_helper.to_array(constants[scale.input[1]])
        if divisor.size != 1 or users[product.output[0]] != 1 or product.output[0] in outputs:
            continue
        scaled = f"{product.input[0]}_scaled_{place}"
        nodes[place] = helper.make_node("Div", [product.input[0], scale.input[1]], [scaled], name=scale.name)
        nodes[index] = helper.make_node("MatMul", [scaled, product.input[1]], list(scale.output), name=product.name)
    del graph.node[:]
    graph.node.extend(nodes)


def _refuse_float_products(model: onnx.ModelProto, dtype: HalfType) -> None:
    types = value_types(model)
    wanted = PRODUCTS - FLOAT_PRODUCTS[dtype]
    left = [n.name for n in model.graph.node if n.op_type in wanted and types[n.output[0]] == TensorProto.FLOAT]
    if left:
        raise ExportError(
            f"expected every convolution and matrix product in {dtype}, got float32 for {', '.join(left[:5])} "
            f"({len(left)} in all), whose constants exceed {_LARGEST[dtype]:g}; export in fp32"
        )
