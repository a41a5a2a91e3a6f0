"""Sparse window attention as a TensorRT plugin; tensors laid out as in the schema."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bsst.plugins.sparse_window_attention.geometry import geometry_from_numbers
from bsst.plugins.sparse_window_attention.plugin_node import PLUGIN_NAME
from bsst.plugins.sparse_window_attention.schema import SCHEMA
from bsst.plugins.tensorrt_registration import PluginDefinition, register_plugin

if TYPE_CHECKING:
    from bsst.plugins.triton_compile import CompiledKernel

__all__ = ["PLUGIN", "register_tensorrt"]


def _output_shape(shapes: Sequence[Any]) -> tuple[Any, ...]:
    query = shapes[0]
    return query[0], query[1], query[2], query[3]


def _sizes(shapes: Sequence[Any], output: Any) -> tuple[Any, ...]:
    return output[0], output[1], output[2]


def _grid(numbers: Sequence[int], output: Any, half: bool, cdiv: Callable[[Any, int], Any]) -> tuple[Any, ...]:
    geometry = geometry_from_numbers(numbers)
    queries = geometry.group_frames * geometry.window**2
    block = geometry.constants(half=half)["BLOCK_QUERIES"]
    groups = output[0] * output[1] * output[2] // queries
    return -(-queries // block), groups, geometry.heads


def _compile_for(numbers: Sequence[int], half: bool, capability: int) -> CompiledKernel:
    from bsst.plugins.sparse_window_attention.triton_kernel import compile_for

    return compile_for(geometry_from_numbers(numbers), half=half, capability=capability)


PLUGIN = PluginDefinition(
    name=PLUGIN_NAME,
    inputs=SCHEMA.inputs,
    output=SCHEMA.output,
    output_shape=_output_shape,
    sizes=_sizes,
    grid=_grid,
    compile_for=_compile_for,
)


def register_tensorrt(*, capability: int) -> None:
    """Make this operator alone known to TensorRT in this process (`tensorrt_registration.register_plugin`)."""
    register_plugin(PLUGIN, capability=capability)
