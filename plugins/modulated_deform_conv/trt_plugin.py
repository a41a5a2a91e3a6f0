"""Modulated deformable convolution as a TensorRT plugin; channels last, as its kernel reads them.

The graph pass in `plugin_node.py` transposes around it: TensorRT folds the one of the weight, and merges the ones of
x and y with the layout its convolutions use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bsst.plugins.modulated_deform_conv.geometry import geometry_from_numbers
from bsst.plugins.modulated_deform_conv.plugin_node import PLUGIN_NAME
from bsst.plugins.modulated_deform_conv.schema import SCHEMA
from bsst.plugins.operator_schema import OperandSpec
from bsst.plugins.tensorrt_registration import PluginDefinition, register_plugin

if TYPE_CHECKING:
    from bsst.plugins.triton_compile import CompiledKernel

__all__ = ["PLUGIN", "register_tensorrt"]

_x, _offset, _mask, _weight, _bias = SCHEMA.inputs


def _output_shape(shapes: Sequence[Any]) -> tuple[Any, ...]:
    x, offset, _, _, bias = shapes
    return x[0], offset[2], offset[3], bias[0]


def _sizes(shapes: Sequence[Any], output: Any) -> tuple[Any, ...]:
    x = shapes[0]
    return x[0], x[1], x[2], output[1], output[2]


def _grid(numbers: Sequence[int], output: Any, half: bool, cdiv: Callable[[Any, int], Any]) -> tuple[Any, ...]:
    geometry = geometry_from_numbers(numbers)
    constants = geometry.constants(half=half)
    positions = cdiv(output[0] * output[1] * output[2], constants["BLOCK_POSITIONS"])
    return positions, geometry.groups * constants["OUTPUT_BLOCKS"], 1


def _compile_for(numbers: Sequence[int], half: bool, capability: int) -> CompiledKernel:
    from bsst.plugins.modulated_deform_conv.triton_kernel import compile_for

    return compile_for(geometry_from_numbers(numbers), half=half, capability=capability)


PLUGIN = PluginDefinition(
    name=PLUGIN_NAME,
    inputs=(
        OperandSpec(name=_x.name, dtype=_x.dtype, axes="(N, H, W, C)"),
        _offset,
        _mask,
        OperandSpec(name=_weight.name, dtype=_weight.dtype, axes="(kh, kw, C / groups, O)"),
        _bias,
    ),
    output=OperandSpec(name=SCHEMA.output.name, dtype=SCHEMA.output.dtype, axes="(N, Ho, Wo, O)"),
    output_shape=_output_shape,
    sizes=_sizes,
    grid=_grid,
    compile_for=_compile_for,
)


def register_tensorrt(*, capability: int) -> None:
    """Make this operator alone known to TensorRT in this process (`tensorrt_registration.register_plugin`)."""
    register_plugin(PLUGIN, capability=capability)
