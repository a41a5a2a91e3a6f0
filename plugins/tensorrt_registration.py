"""Registration of an operator as a TensorRT plugin whose kernel is compiled ahead of time into the engine.

An engine built this way needs neither Python nor a plugin library at run time. TensorRT reads the signatures of the
functions it is given, so they are stated here once, by the rules of its `tensorrt.plugin` package, for all operators:
every argument annotated, none with a default, and a single attribute, because TensorRT passes attributes by position.
Not run here: no TensorRT with plugins is installed; checked against a fake that refuses what the package refuses.
Source: NVIDIA TensorRT documentation, "Adding custom layers: quickly deployable plugins", versions 10.9 to 11.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import GenericAlias
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bsst.errors import MissingDependencyError, UsageError
from bsst.plugins.operator_schema import DOMAIN, OperandSpec
from bsst.plugins.tensorrt_version import check_tensorrt_version

if TYPE_CHECKING:
    from bsst.plugins.triton_compile import CompiledKernel

__all__ = ["ATTRIBUTE", "PluginDefinition", "register_plugin"]

ATTRIBUTE = "geometry"
"""The one attribute of every plugin: what its kernel is specialised to, as a row of integers."""
_ARRAY = npt.NDArray[np.int32]
_TYPES = {"feature": "FP32|FP16", "float32": "FP32", "int32": "INT32"}


@dataclass(frozen=True, kw_only=True)
class PluginDefinition:
    """What TensorRT needs to know about one operator."""

    name: str
    """Plugin name and ONNX node type."""
    inputs: tuple[OperandSpec, ...]
    output: OperandSpec
    output_shape: Callable[[Sequence[Any]], tuple[Any, ...]]
    """From the symbolic shapes of the inputs; they know + - * // with an integer on the right only."""
    sizes: Callable[[Sequence[Any], Any], tuple[Any, ...]]
    """Integer arguments of the kernel, from the symbolic shapes of the inputs and of the output."""
    grid: Callable[[Sequence[int], Any, bool, Callable[[Any, int], Any]], tuple[Any, ...]]
    """Blocks along x, y and z, from (geometry, output shape, half, ceiling division of a symbolic size)."""
    compile_for: Callable[[Sequence[int], bool, int], CompiledKernel]
    """From (geometry, half, compute capability times ten)."""


def register_plugin(definition: PluginDefinition, *, capability: int) -> None:
    """Make `bsst::<name>` known to TensorRT in this process; once, before a graph with it is parsed.

    Args:
        definition: the operator.
        capability: compute capability times ten of the GPU the engine is built for.

    Raises:
        MissingDependencyError: TensorRT or Triton is not installed.
        ModelError: a version of TensorRT that must not be used.
    """
    if importlib.util.find_spec("triton") is None:
        raise MissingDependencyError("triton", "tensorrt", "compiling a TensorRT plugin")
    trt, plugin = _tensorrt()
    name = f"{DOMAIN}::{definition.name}"
    inputs = [(spec.name, plugin.TensorDesc) for spec in definition.inputs]
    attribute = [(ATTRIBUTE, _ARRAY)]
    outputs, tactic = [("outputs", GenericAlias(tuple, (plugin.TensorDesc,)))], [("tactic", int)]
    count = len(inputs)

    @functools.cache
    def compiled(geometry: tuple[int, ...], half: bool) -> CompiledKernel:
        return definition.compile_for(geometry, half, capability)

    def describe(*tensors: Any, geometry: Any) -> Any:
        shape = definition.output_shape([tensor.shape_expr for tensor in tensors])
        return plugin.from_shape_expr(shape, dtype=tensors[0].dtype)

    def choose(*arguments: Any) -> Any:
        kinds = [_TYPES[spec.dtype] for spec in (*definition.inputs, definition.output)]
        return [plugin.AutoTuneCombination(", ".join(kinds), "LINEAR")]

    def implement(*arguments: Any) -> Any:
        tensors, (geometry, made, _tactic) = arguments[:count], arguments[count:]
        numbers = tuple(int(number) for number in geometry)
        if tensors[0].dtype not in (trt.float32, trt.float16):
            raise UsageError(f"expected float32 or float16 for {name}, got {tensors[0].dtype}; cast the features")
        half = tensors[0].dtype == trt.float16
        kernel = compiled(numbers, half)
        launch = plugin.KernelLaunchParams()
        output = made[0].shape_expr
        launch.grid_x, launch.grid_y, launch.grid_z = definition.grid(numbers, output, half, plugin.cdiv)
        launch.block_x = kernel.threads
        launch.shared_mem = kernel.shared_bytes
        sizes = definition.sizes([tensor.shape_expr for tensor in tensors], output)
        extra = plugin.SymIntExprs.from_tuple([plugin.SymInt32(size) for size in sizes])
        return kernel.entry, kernel.ptx, launch, extra

    result = GenericAlias(tuple, (str, str, plugin.KernelLaunchParams, plugin.SymIntExprs))
    plugin.register(name)(_signed(describe, inputs + attribute, plugin.TensorDesc))
    plugin.autotune(name)(
        _signed(choose, inputs + attribute + outputs, GenericAlias(list, (plugin.AutoTuneCombination,)))
    )
    plugin.aot_impl(name)(_signed(implement, inputs + attribute + outputs + tactic, result))


def _tensorrt() -> tuple[Any, Any]:
    try:
        trt = importlib.import_module("tensorrt")
        check_tensorrt_version(trt.__version__, plugins=True)
        return trt, importlib.import_module("tensorrt.plugin")
    except ModuleNotFoundError as error:
        raise MissingDependencyError("tensorrt", "tensorrt", "a TensorRT plugin") from error


def _signed(function: Callable[..., Any], parameters: list[tuple[str, Any]], result: Any) -> Callable[..., Any]:
    """Give a function the signature that TensorRT will read."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind, annotation=annotation) for name, annotation in parameters],
        return_annotation=result,
    )
    return function
