"""Graph pass `--int8`: float32 stage and measured ranges -> the same stage with Q/DQ pairs.

Requires: a stage from `plain_graph`, a range for every activation of `int8_sites`.
Ensures: symmetric int8 (zero points are 0, -127 to 127), one scale per activation and per output channel of weights,
biases untouched, names, shapes, types and order of inputs and outputs stay.

Scales are numbers that float16 holds, rounded up, so that `to_half` may follow without changing a value.

Why no quantiser of a library: both known ones were run on stages of `edge` with min-max ranges. Each puts its
pair behind the producer, so that norms, means, pixels and the outputs `full` and `half` of `encode` lose bits too, and
neither can be told to leave them alone. `onnxruntime.quantization.QDQQuantizer` quantises every residual or none, on
both sides of the Add; `nvidia-modelopt` 0.47 quantises means and channel gates as well, calibrates a stage alone, and
wants torch, CUDA libraries, onnx 1.21 and a second onnxruntime (66 packages). What chooses the ranges is ONNX
Runtime's, see `observe.py`.

    PSNR to fp32, one stage in int8, clip of tests/data    this pass   onnxruntime   modelopt
    encode                                                 79.1 dB     75.3 dB       75.3 dB
    restore                                                76.2 dB     75.2 dB       74.2 dB
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from bsst.calibration.precision.int8_placement import cpu_int8_sites, int8_sites
from bsst.errors import ModelError

__all__ = ["to_int8"]

LARGEST = 127
LARGEST_CPU_WEIGHT = 63
"""Without VNNI, x86 adds two products of 8 bits in 16, saturated: an activation of 255 steps (kernels shift it to be
positive) times a weight of 127 loses up to half. Two times 255 times 63 fit, on every processor alike."""
SMALLEST_SCALE = float(np.finfo(np.float16).smallest_subnormal)


def to_int8(
    model: onnx.ModelProto, ranges: Mapping[str, tuple[float, float]], *, stage: str, cpu: bool = False
) -> onnx.ModelProto:
    """Copy of a stage with Q/DQ pairs.

    Args:
        model: float32 stage from `plain_graph`.
        ranges: activation -> (smallest, largest) value to represent; values outside saturate.
        stage: name for messages.
        cpu: pairs where ONNX Runtime's CPU kernels want them instead of TensorRT, see `int8_placement`; a convolution
            whose result has no range, because it was zero everywhere, stays as it is.

    Raises:
        ModelError: an activation without a range.
    """
    sites = cpu_int8_sites(model) if cpu else int8_sites(model)
    zero = {site.node for site in sites if site.result and site.tensor not in ranges}
    sites = tuple(site for site in sites if site.node not in zero)
    if missing := sorted({site.tensor for site in sites if site.axis is None} - set(ranges)):
        raise ModelError(
            f"stage {stage}: expected a range of every quantised activation, got none of {', '.join(missing[:5])}; "
            "run bsst calibrate on this plan with this version of bsst"
        )
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    before: dict[int, list[NodeProto]] = {}
    behind: dict[int, list[NodeProto]] = {}
    for site in sites:
        new = f"{site.tensor}_int8_{site.node}_{'result' if site.result else site.position}"
        if site.axis is None:
            low, high = ranges[site.tensor]
            scale = _scales(np.float32(max(-low, high)))
            exact, rounded = (f"{new}_exact", site.tensor) if site.result else (site.tensor, new)
            nodes = [
                helper.make_node("QuantizeLinear", [exact, f"{new}_scale", f"{new}_zero"], [f"{new}_integers"]),
                helper.make_node("DequantizeLinear", [f"{new}_integers", f"{new}_scale", f"{new}_zero"], [rounded]),
            ]
        else:
            steps = LARGEST_CPU_WEIGHT if cpu else LARGEST
            integers, scale = _quantised(constants[site.tensor], site.axis, steps)
            graph.initializer.append(numpy_helper.from_array(integers, f"{new}_integers"))
            operands = [f"{new}_integers", f"{new}_scale", f"{new}_zero"]
            nodes = [helper.make_node("DequantizeLinear", operands, [new], axis=site.axis)]
        graph.initializer.append(numpy_helper.from_array(scale, f"{new}_scale"))
        graph.initializer.append(numpy_helper.from_array(np.zeros(scale.shape, np.int8), f"{new}_zero"))
        for node in nodes:
            node.name = node.output[0]
        if site.result:
            graph.node[site.node].output[0] = exact
            behind[site.node] = nodes
        else:
            graph.node[site.node].input[site.position] = new
            before.setdefault(site.node, []).extend(nodes)
    _insert(graph, before, behind)
    return result


def _quantised(weights: NDArray[np.float32], axis: int, largest: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weights -> integers of the same shape, and one scale per channel of `axis`."""
    others = tuple(index for index in range(weights.ndim) if index != axis)
    scales = _scales(np.abs(weights).max(axis=others), largest)
    steps = np.rint(weights / np.expand_dims(scales, others))
    return np.clip(steps, -largest, largest).astype(np.int8), scales


def _scales(largest: NDArray[np.float32] | np.float32, steps: int = LARGEST) -> NDArray[np.float32]:
    """Smallest float16 numbers that reach `largest` in so many steps, as float32."""
    exact = np.maximum(np.asarray(largest, np.float32) / steps, np.float32(SMALLEST_SCALE))
    rounded = exact.astype(np.float16)
    return np.where(rounded < exact, np.nextafter(rounded, np.float16(np.inf)), rounded).astype(np.float32)


def _insert(
    graph: onnx.GraphProto, before: Mapping[int, list[NodeProto]], behind: Mapping[int, list[NodeProto]]
) -> None:
    """Put each pair in front of its reader or behind its source; drop weights that nobody reads any more."""
    nodes = [
        new for index, node in enumerate(graph.node) for new in (*before.get(index, ()), node, *behind.get(index, ()))
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
