"""From a sparse window attention in ONNX to the node that TensorRT runs: the same inputs, other attributes."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx.helper

from bsst.plugins.sparse_window_attention.geometry import Geometry

__all__ = ["PLUGIN_NAME", "plugin_nodes"]

PLUGIN_NAME = "BsstSparseWindowAttentionFused"


def plugin_nodes(
    node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[list[onnx.NodeProto], tuple[int, ...]]:
    """Nodes that replace `node`, the plugin among them without its attributes, and the numbers of its geometry.

    Args:
        node: operator of `schema.SCHEMA`.
        shapes: static shapes of its inputs by name.
    """
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    query, key, query_frames = (shapes[node.input[index]] for index in (0, 1, 3))
    geometry = Geometry(
        heads=attributes["heads"],
        head_channels=query[3] // attributes["heads"],
        window=attributes["window"],
        pooled=key[1] - query[1] * query[2],
        group_frames=query_frames[1],
        expandable_groups=attributes["expandable_groups"],
    )
    plugin = onnx.helper.make_node(PLUGIN_NAME, node.input, node.output, domain=node.domain)
    return [plugin], geometry.numbers
