"""Graph pass for SM 7.5: grouped convolutions with few channels a group -> wider groups with zeros between them.

TensorRT-RTX 1.7 compiles a convolution with fewer than eight channels a group for SM 7.5 as a gather over index tables
of about 14 bytes per output element, which it stores in the engine: `decode` of `edge` (T = 12, 256x256) becomes a
plan of 390 MB, and `decode` of `release` runs out of the memory of the building machine. Groups of eight channels or
more take the tensor cores and no table: 9 MB. Products with the added zeros change no result.
Requires: weights of convolutions as initializers. Ensures: shapes, types and names of all values stay.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

__all__ = ["LEAST_CHANNELS", "widen_groups"]

LEAST_CHANNELS = 8
"""Input channels of a group for which no table is made."""


def widen_groups(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy of the model whose convolutions have one group or at least `LEAST_CHANNELS` channels in each."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    made: set[str] = set()
    for node in graph.node:
        group = next((a for a in node.attribute if a.name == "group"), None)
        if node.op_type != "Conv" or group is None or group.i == 1 or node.input[1] not in weights:
            continue
        weight = numpy_helper.to_array(weights[node.input[1]])
        joined = _joined_groups(group.i, weight.shape[1])
        if joined == 1:
            continue
        name = f"{node.input[1]}_groups_of_{joined}_of_{group.i}"
        if name not in made:
            graph.initializer.append(numpy_helper.from_array(_with_zeros(weight, group.i, joined), name))
            made.add(name)
        node.input[1] = name
        group.i //= joined
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return result


def _joined_groups(groups: int, channels: int) -> int:
    """How many neighbouring groups become one: the fewest that reach `LEAST_CHANNELS`, or all."""
    return next(n for n in range(1, groups + 1) if groups % n == 0 and (n * channels >= LEAST_CHANNELS or n == groups))


def _with_zeros(weight: NDArray[np.generic], groups: int, joined: int) -> NDArray[np.generic]:
    """(O, C / groups, ...) -> (O, joined * C / groups, ...): outputs keep their own channels."""
    outputs, channels = weight.shape[:2]
    wide = np.zeros((outputs, joined * channels, *weight.shape[2:]), weight.dtype)
    for output in range(outputs):
        first = output // (outputs // groups) % joined * channels
        wide[output, first : first + channels] = weight[output]
    return wide
