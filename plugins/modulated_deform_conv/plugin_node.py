"""From a modulated deformable convolution in ONNX to the nodes that TensorRT runs: plugin and transposes around it."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx.helper

from bsst.plugins.modulated_deform_conv.geometry import Geometry

__all__ = ["PLUGIN_NAME", "plugin_nodes"]

PLUGIN_NAME = "BsstModulatedDeformConvChannelsLast"


def plugin_nodes(
    node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[list[onnx.NodeProto], tuple[int, ...]]:
    """Nodes that replace `node`, the plugin among them without its attributes, and the numbers of its geometry.

    Args:
        node: operator of `schema.SCHEMA`.
        shapes: static shapes of its inputs by name.
    """
    x, offset, mask, weight, bias = node.input
    (y,) = node.output
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    outputs, group_channels, kernel_h, kernel_w = shapes[weight]
    geometry = Geometry(
        channels=group_channels * attributes["groups"],
        outputs=outputs,
        kernel_shape=(kernel_h, kernel_w),
        strides=tuple(attributes["strides"]),
        pads=tuple(attributes["pads"][:2]),
        dilations=tuple(attributes["dilations"]),
        groups=attributes["groups"],
        offset_groups=attributes["offset_groups"],
    )
    last = {name: f"{y}.channels_last.{role}" for role, name in {"x": x, "weight": weight, "y": y}.items()}
    nodes = [
        onnx.helper.make_node("Transpose", [x], [last[x]], perm=[0, 2, 3, 1]),
        onnx.helper.make_node("Transpose", [weight], [last[weight]], perm=[2, 3, 1, 0]),
        onnx.helper.make_node(PLUGIN_NAME, [last[x], offset, mask, last[weight], bias], [last[y]], domain=node.domain),
        onnx.helper.make_node("Transpose", [last[y]], [y], perm=[0, 3, 1, 2]),
    ]
    return nodes, geometry.numbers
