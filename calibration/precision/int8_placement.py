"""Where Q/DQ pairs stand in a stage: TensorRT's rules, applied by what values mean.

    weights        of a Conv, ConvTranspose or MatMul with constant weights: per output channel
    activations    what such a product reads: per tensor, a pair of its own for every reader
    residual       the other operand of an Add that alone reads a product: it is fused into the product, which then
                   wants all its inputs as integers
    nothing else   no result of a product (its activation is fused behind it), no norm, softmax, mean or matrix product
                   of two activations, no gate computed on one pixel, and no product whose result becomes a pixel, a
                   coordinate or an index

Convolutions of few channels a group stay too: TensorRT-RTX 1.7 compiles them in int8 as gathers over stored index
tables, and `decode` of `edge` took 82 MB of weights instead of 0.18 MB (see `calibration/precision/widen_groups.py`).

ONNX Runtime on a CPU knows another rule: it computes a convolution in integers only where its result becomes integers
too, else it dequantises what it reads and computes in float32, which is slower than without int8. There
(`cpu_int8_sites`) a pair stands behind each Conv as well, and residuals and transposed convolutions stay as they are.

Only the stages below hold such products; flow, its refinement and propagation are never quantised, because their errors
move pixels or grow with every frame.
Source: NVIDIA TensorRT documentation, "Working with Quantized Types", Q/DQ layer-placement recommendations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

import onnx
import onnxscript.optimizer

from bsst.calibration.precision.policy import assign_precision, value_types
from bsst.calibration.precision.to_half import feature_tensors
from bsst.calibration.precision.widen_groups import LEAST_CHANNELS
from bsst.plugins.registry import lower

__all__ = ["INT8_STAGES", "Site", "cpu_int8_sites", "int8_sites", "plain_graph"]

INT8_STAGES = ("encode", "fuse", "attend", "decode", "restore")
"""Stages that may be quantised."""
CHANNEL_AXIS = {"Conv": 0, "ConvTranspose": 1, "MatMul": 1}
"""Axis of the output channels in the weights."""

_FOLD_LIMIT = 1 << 26


@dataclass(frozen=True, kw_only=True)
class Site:
    """One operand of one node that becomes a Q/DQ pair."""

    node: int
    """Index of the node in the graph."""
    position: int
    """Index of the operand."""
    tensor: str
    """Name of the operand."""
    axis: int | None
    """Channel axis of weights; None for an activation."""
    result: bool = False
    """The tensor is what the node gives; `position` means nothing then."""


def plain_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Stage of a `cpu` plan in the form that is calibrated and quantised: standard operators, constant weights.

    Weights that the export left as a reshaped constant become constants here.
    """
    lowered = lower(model)
    onnxscript.optimizer.fold_constants(lowered, input_size_limit=_FOLD_LIMIT, output_size_limit=_FOLD_LIMIT)
    return lowered


def int8_sites(model: onnx.ModelProto) -> tuple[Site, ...]:
    """Operands to quantise, in the order of the graph; empty where nothing may be.

    Args:
        model: float32 stage from `plain_graph`.
    """
    graph = model.graph
    constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    types, shapes = value_types(model), _shapes(model)
    protected = assign_precision(model, types, half_tensors=feature_tensors(model), operators={}).protected
    products = {
        index: node
        for index, node in enumerate(graph.node)
        if node.op_type in CHANNEL_AXIS
        and _is_weight(node, constants)
        and node.input[0] not in constants
        and node.output[0] not in protected
        and not _on_one_pixel(node, shapes)
        and not _in_small_groups(node, constants)
    }
    sites = []
    for index, node in products.items():
        sites.append(Site(node=index, position=0, tensor=node.input[0], axis=None))
        sites.append(Site(node=index, position=1, tensor=node.input[1], axis=CHANNEL_AXIS[node.op_type]))
    made = {node.output[0] for node in products.values()}
    sites.extend(_residuals(graph, made, protected | set(constants)))
    return tuple(sorted(sites, key=lambda site: (site.node, site.position)))


def cpu_int8_sites(model: onnx.ModelProto) -> tuple[Site, ...]:
    """What to quantise where ONNX Runtime's CPU kernels compute; see the module."""
    nodes = model.graph.node
    operands = [site for site in int8_sites(model) if nodes[site.node].op_type in ("Conv", "MatMul")]
    convolutions = dict.fromkeys(site.node for site in operands if nodes[site.node].op_type == "Conv")
    results = [Site(node=n, position=0, tensor=nodes[n].output[0], axis=None, result=True) for n in convolutions]
    return tuple(sorted(operands + results, key=lambda site: (site.node, site.result, site.position)))


def _is_weight(node: onnx.NodeProto, constants: Mapping[str, tuple[int, ...]]) -> bool:
    # A stack of matrices has no single channel axis.
    return node.input[1] in constants and (node.op_type != "MatMul" or len(constants[node.input[1]]) == 2)


def _on_one_pixel(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Channel gates: they scale whole feature maps and cost no time."""
    return node.op_type != "MatMul" and math.prod(shapes[node.output[0]][2:]) == 1


def _in_small_groups(node: onnx.NodeProto, constants: Mapping[str, tuple[int, ...]]) -> bool:
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    rows, columns = constants[node.input[1]][:2]
    return groups > 1 and (columns if node.op_type == "Conv" else rows // groups) < LEAST_CHANNELS


def _residuals(graph: onnx.GraphProto, made: Set[str], excluded: Set[str]) -> Iterator[Site]:
    readers: dict[str, int] = {value.name: 1 for value in graph.output}
    for name in (name for node in graph.node for name in node.input):
        readers[name] = readers.get(name, 0) + 1
    for index, node in enumerate(graph.node):
        if node.op_type != "Add" or node.output[0] in excluded:
            continue
        fused = [position for position, name in enumerate(node.input) if name in made and readers[name] == 1]
        if fused:
            other = 1 - fused[0]
            if node.input[other] not in excluded:
                yield Site(node=index, position=other, tensor=node.input[other], axis=None)


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        value.name: tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
