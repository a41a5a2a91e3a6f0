"""16-bit arithmetic shown in float32, because ONNX Runtime on a CPU does not show it.

Its CPU kernels are float32: it brackets every float16 node with casts and then removes the pairs of casts between
neighbours, so a chain of float16 nodes runs without one rounding (measured with 1.32, at every optimisation level) and
a comparison against float32 would measure the rounded weights alone; bfloat16 nodes it does not run at all. Here every
half result is rounded to the significant bits of its type by arithmetic that no optimiser removes, and becomes infinite
where float16 would overflow. Subnormal results of float16 (below 6e-5) keep more bits than on a GPU; bfloat16 results
beyond 5e33 become NaN instead of large. Sums inside a product stay float32, as on tensor cores.
Source: T. J. Dekker, "A floating-point technique for extending the available precision", 1971 (splitting).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from bsst.calibration.precision.policy import value_types

__all__ = ["emulate_half"]

_MOVES = frozenset(
    {
        *("Reshape", "Transpose", "Slice", "Concat", "Split", "Gather", "GatherElements", "Squeeze", "Unsqueeze"),
        *("Expand", "Tile", "Pad", "DepthToSpace", "SpaceToDepth", "Identity", "Relu", "Neg", "Abs", "ScatterElements"),
        *("Where", "Max", "Min", "Clip", "Flatten"),
    }
)
"""Results are operands, which are rounded already."""
_SPLITTERS = {TensorProto.FLOAT16: np.float32(2**13 + 1), TensorProto.BFLOAT16: np.float32(2**16 + 1)}
"""Half types; 24 bits less 13 or 16 leave the 11 or 8 significant bits of the type."""
_CONSTANTS = {
    **{f"splitter_{kind}": value for kind, value in _SPLITTERS.items()},
    "float16_overflow": np.float32(65520),  # halfway from the largest to the next power of two: rounds to infinity
    "float16_infinity": np.float32(np.inf),
}


def emulate_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy of a mixed precision graph that computes in float32 what the graph computes in float16 or bfloat16.

    Half inputs and outputs become float32; feed inputs whose values the half type can hold.
    """
    types = value_types(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in _SPLITTERS:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for tensor in graph.initializer:
        if tensor.data_type in _SPLITTERS:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        nodes.extend(_emulated(node, types))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in _CONSTANTS.items() if name in used
    )
    return result


def _emulated(original: NodeProto, types: dict[str, int]) -> list[NodeProto]:
    node = NodeProto()
    node.CopyFrom(original)
    half = [name for name in node.output if types.get(name) in _SPLITTERS]
    if node.op_type == "Cast" and (half or types[node.input[0]] in _SPLITTERS):
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i in _SPLITTERS:
                attribute.i = TensorProto.FLOAT
    elif node.op_type in _MOVES:
        return [node]
    rounding = []
    for position, name in enumerate(original.output):
        if name in half:
            node.output[position] = f"{name}_exact"
            rounding.extend(_round(f"{name}_exact", name, types[name]))
    return [node, *rounding]


def _round(source: str, target: str, kind: int) -> list[NodeProto]:
    """Target = hi part of Dekker's split of the source, infinite beyond float16."""
    steps: list[tuple[str, tuple[str, ...], str]] = [
        ("Mul", (source, f"splitter_{kind}"), "scaled"),
        ("Sub", ("scaled", source), "rest"),
        ("Sub", ("scaled", "rest"), "rounded"),
    ]
    if kind == TensorProto.FLOAT16:
        steps += [
            ("Abs", (source,), "size"),
            ("Less", ("size", "float16_overflow"), "fits"),
            ("Mul", (source, "float16_infinity"), "infinite"),
            ("Where", ("fits", "rounded", "infinite"), "result"),
        ]
    names = {step[2]: f"{target}_{step[2]}" for step in steps} | {steps[-1][2]: target}
    return [
        helper.make_node(op, [names.get(name, name) for name in inputs], [names[output]], name=f"{target}_{output}_op")
        for op, inputs, output in steps
    ]
