"""Graph pass for WebGPU: convolutions whose channels are divisible by 3 and not by 4 -> with channels of zeros.

The WebGPU provider of ONNX Runtime (1.27) computes a convolution with a kernel larger than 1x1 wrongly where its input
channels are divisible by 3 and not by 4 and are more than 3: with 6, 9, 15, 18, 21, 27, 33, 39, 51 and 117 of them the
error is 20 to 90 % of the largest value; 3, 5, 7, 10, 12, 19, 20 and 24 are right, and so are groups
(microsoft/onnxruntime#29651 describes the same). Products with the added zeros change no result.
Requires: inferable shapes. Ensures: shapes, types and names of all other values stay.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

__all__ = ["pad_channels"]


def pad_channels(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy of the model without such convolutions."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    shapes = _shapes(model)
    stored = {tensor.name: tensor for tensor in graph.initializer}
    padded: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []

    def widened(value: str, missing: int) -> str:
        if value not in padded:
            padded[value] = f"{value}_of_{shapes[value][1] + missing}_channels"
            pads = np.zeros(2 * len(shapes[value]), np.int64)
            pads[len(shapes[value]) + 1] = missing
            if value in stored:
                wide = np.pad(numpy_helper.to_array(stored[value]), pads.reshape(2, -1).T)
                graph.initializer.append(numpy_helper.from_array(wide, padded[value]))
            else:
                graph.initializer.append(numpy_helper.from_array(pads, f"{padded[value]}_pads"))
                nodes.append(helper.make_node("Pad", [value, f"{padded[value]}_pads"], [padded[value]]))
        return padded[value]

    for node in graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if missing := _missing_channels(node, shapes):
            copy.input[0], copy.input[1] = (widened(value, missing) for value in node.input[:2])
        nodes.append(copy)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return result


def _missing_channels(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    """Channels that a convolution lacks to be computed rightly; 0 for all other nodes."""
    if node.op_type != "Conv" or any(a.name == "group" and a.i != 1 for a in node.attribute):
        return 0
    _, channels, *kernel = shapes[node.input[1]]
    wrong = channels > 3 and channels % 3 == 0 and channels % 4 != 0 and max(kernel) > 1
    return -channels % 4 if wrong else 0


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    graph = shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    shapes = {value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in values}
    return shapes | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
