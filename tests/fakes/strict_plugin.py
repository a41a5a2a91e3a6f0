"""A stand-in for `tensorrt.plugin` that refuses what the real package refuses, where that is not installed.

`play` asks a registered plugin what the builder asks: types and shapes, autotuning, and the launch of the kernel, in
the order and with the argument passing of the real one. Written from the rules of TensorRT 11.1; where the real
package would go wrong silently, this one raises.
"""

from __future__ import annotations

import inspect
import itertools
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tensorrt.native import DataType, PluginField, PluginFieldType, get_plugin_registry

__all__ = [
    "AutoTuneCombination",
    "KernelLaunchParams",
    "ShapeExpr",
    "ShapeExprs",
    "SymExprs",
    "SymInt32",
    "SymIntExprs",
    "TensorDesc",
    "aot_impl",
    "autotune",
    "cdiv",
    "from_shape_expr",
    "play",
    "register",
]

RESERVED_NAMESPACES = ("", "trt", "tensorrt", "std")
RESERVED_ATTRIBUTES = ("outputs", "stream", "tactic")
BUILTIN_ATTRIBUTES = (int, float, bytes, bool, str)
ARRAY_ATTRIBUTES = (np.int8, np.int16, np.int32, np.int64, np.float16, np.float32, np.float64, np.bool_)


class SymIntExpr:
    """Symbolic integer; `None` is a fake one, met while only types are known. No reflected operators exist."""

    def __init__(self, value: Any = None) -> None:
        if isinstance(value, SymIntExpr):
            self.value = value.value
        elif value is None or type(value) is int:
            self.value = value
        else:
            raise TypeError(f"expected int or symbolic integer, got {type(value)}")  # real: silently no expression

    def _apply(self, function: Callable[[int, int], int], other: Any) -> Any:
        other = SymIntExpr(other)
        known = self.value is not None and other.value is not None
        return type(self)(function(self.value, other.value) if known else None)

    def __add__(self, other: Any) -> Any:
        return self._apply(lambda a, b: a + b, other)

    def __sub__(self, other: Any) -> Any:
        return self._apply(lambda a, b: a - b, other)

    def __mul__(self, other: Any) -> Any:
        return self._apply(lambda a, b: a * b, other)

    def __floordiv__(self, other: Any) -> Any:
        return self._apply(lambda a, b: a // b, other)

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> Any:
        return self._apply(lambda a, b: int(a == b), other)

    def __int__(self) -> int:
        raise TypeError("a symbolic integer has no value here")

    __bool__ = __index__ = __int__


class SymInt32(SymIntExpr):
    def __call__(self) -> int:
        if self.value is None:
            raise RuntimeError("expression was made where no shapes are known")
        return self.value


class ShapeExpr(SymInt32):
    pass


class SymExprs:
    kind: type = SymIntExpr

    def __init__(self, length: int) -> None:
        self.items: list[Any] = [None] * length

    @classmethod
    def from_tuple(cls, items: Sequence[Any]) -> Any:
        made = cls(len(items))
        made.items = [item if isinstance(item, cls.kind) else cls.kind(item) for item in items]
        return made

    def __getitem__(self, index: int) -> Any:
        return self.items[index]

    def __setitem__(self, index: int, value: Any) -> None:
        self.items[index] = value if isinstance(value, self.kind) else self.kind(value)

    def __len__(self) -> int:
        return len(self.items)


class SymIntExprs(SymExprs):
    pass


class ShapeExprs(SymExprs):
    kind = ShapeExpr


class TensorDesc:
    """Inputs are immutable."""

    def __init__(self, shape_expr: ShapeExprs, dtype: DataType) -> None:
        self.__dict__.update(shape_expr=shape_expr, dtype=dtype)

    def __setattr__(self, name: str, value: Any) -> None:
        raise ValueError("Cannot modify immutable TensorDesc properties")


class KernelLaunchParams:
    FIELDS = ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "shared_mem")

    def __init__(self, **values: Any) -> None:
        for name in self.FIELDS:
            setattr(self, name, values.get(name, 0 if name == "shared_mem" else 1))

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.FIELDS:
            raise AttributeError(f"KernelLaunchParams object has no attribute '{name}'")
        self.__dict__[name] = SymInt32(value)


class AutoTuneCombination:
    def __init__(self, io_types: str, layouts: str = "LINEAR", tactics: Sequence[int] | None = None) -> None:
        if layouts != "LINEAR":
            raise ValueError("only LINEAR is written for here")
        kinds = [kind.strip() for kind in io_types.split(",")]
        lengths = {len(kind.split("|")) for kind in kinds if "|" in kind}
        if len(lengths) > 1 or any("|" in kind and "*" in kind for kind in kinds):
            raise ValueError(f"illegal dependent lengths in {io_types}")
        independent = [kind.split("*") for kind in kinds]
        self.combinations = [
            tuple(DataType(choice.split("|")[row] if "|" in choice else choice) for choice in chosen)
            for row in range(lengths.pop() if lengths else 1)
            for chosen in itertools.product(*independent)
        ]


def cdiv(first: Any, second: Any) -> Any:
    if isinstance(first, int) and isinstance(second, int):
        raise ValueError("Both arguments cannot be 'int's")
    return (ShapeExpr(first) if isinstance(first, int) else first)._apply(lambda a, b: -(-a // b), second)


def from_shape_expr(shape: Any, dtype: DataType) -> TensorDesc:
    return TensorDesc(ShapeExprs.from_tuple(shape) if isinstance(shape, tuple) else shape, dtype)


@dataclass
class _Plugin:
    tensors: list[str] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)
    functions: dict[str, Callable[..., Any]] = field(default_factory=dict)


class _Creator:
    plugin_version = "1"

    def __init__(self, name: str, attributes: list[str]) -> None:
        self.name = name
        self.field_names = [PluginField(attribute, b"", PluginFieldType.INT32) for attribute in attributes]


_REGISTRY: dict[str, _Plugin] = {}


def register(plugin_id: str, lazy_register: bool = False) -> Callable[..., Any]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        namespace, name = plugin_id.split("::")
        if "." in plugin_id or namespace in RESERVED_NAMESPACES or plugin_id in _REGISTRY:
            raise ValueError(f"{plugin_id}: dots, reserved or used names are not allowed")
        plugin, signature = _Plugin(), inspect.signature(function)
        for parameter in signature.parameters.values():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise ValueError(f"{parameter.name} is not positional-or-keyword")
            if parameter.annotation is parameter.empty or parameter.default is not parameter.empty:
                raise ValueError(f"{parameter.name} needs an annotation and no default")
            if issubclass(parameter.annotation, TensorDesc):  # raises TypeError on a postponed annotation
                if plugin.attributes:
                    raise ValueError("tensors and attributes cannot be interspersed")
                plugin.tensors.append(parameter.name)
            else:
                if not plugin.tensors or parameter.name in RESERVED_ATTRIBUTES:
                    raise ValueError(f"{parameter.name}: attributes come last and not under a reserved name")
                _check_attribute(parameter.annotation)
                plugin.attributes[parameter.name] = parameter.annotation
        if not issubclass(signature.return_annotation, TensorDesc):
            raise ValueError("one output is annotated as TensorDesc")
        plugin.functions["register"] = function
        _REGISTRY[plugin_id] = plugin
        get_plugin_registry().register_creator(_Creator(name, list(plugin.attributes)), namespace)
        return function

    return decorate


def _check_attribute(annotation: Any) -> None:
    if typing.get_origin(annotation) is np.ndarray:
        annotation = typing.get_args(typing.get_args(annotation)[1])[0]
        if annotation in ARRAY_ATTRIBUTES:
            return
    elif annotation in BUILTIN_ATTRIBUTES:
        return
    raise ValueError(f"{annotation} cannot be serialized")


def _tuple_of_descriptions(annotation: Any) -> bool:
    return typing.get_origin(annotation) is tuple and all(
        issubclass(a, TensorDesc) for a in typing.get_args(annotation)
    )


def _later(role: str, last: list[str], returned: Callable[[Any], bool]) -> Callable[[str], Callable[..., Any]]:
    def decorator(plugin_id: str) -> Callable[..., Any]:
        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            plugin = _REGISTRY[plugin_id]
            signature = inspect.signature(function)
            stated = list(signature.parameters)
            attributes = [name for name in plugin.attributes if name in stated]
            if stated != plugin.tensors + attributes + last:
                raise ValueError(f"{role} has signature {signature}")
            for name, parameter in signature.parameters.items():
                known = plugin.attributes.get(name)
                if known is not None and parameter.annotation is not parameter.empty and parameter.annotation != known:
                    raise ValueError(f"{name} has another annotation than at registration")
                if name == "outputs" and not _tuple_of_descriptions(parameter.annotation):
                    raise ValueError("'outputs' should be of type Tuple[TensorDesc]")
                if name == "tactic" and not issubclass(parameter.annotation, int):
                    raise ValueError("'tactic' input argument should be an int")
            if not returned(signature.return_annotation):
                raise ValueError(f"{role} returns {signature.return_annotation}")
            plugin.functions[role] = function
            return function

        return decorate

    return decorator


def _is_launch(annotation: Any) -> bool:
    args = typing.get_args(annotation)
    if typing.get_origin(annotation) is not tuple or len(args) != 4:
        return False
    names = [set(typing.get_args(a)) or {a} for a in args[:2]]
    return all(n <= {str, bytes} for n in names) and args[2] is KernelLaunchParams and issubclass(args[3], SymExprs)


def _is_combinations(annotation: Any) -> bool:
    return typing.get_origin(annotation) is list and typing.get_args(annotation) == (AutoTuneCombination,)


autotune = _later("autotune", ["outputs"], _is_combinations)
aot_impl = _later("aot_impl", ["outputs", "tactic"], _is_launch)


def play(plugin_id: str, inputs: Sequence[tuple[tuple[int, ...], DataType]], fields: dict[str, Any]) -> dict[str, Any]:
    """Ask one plugin what the builder asks; `fields` are the ONNX attributes that the parser hands over, as arrays."""
    plugin = _REGISTRY[plugin_id]
    if set(fields) - set(plugin.attributes):
        raise AssertionError(f"Unexpected attribute {set(fields) - set(plugin.attributes)}")
    values = {
        name: np.asarray(fields[name]).astype(typing.get_args(typing.get_args(kind)[1])[0])
        for name, kind in plugin.attributes.items()
        if name in fields  # a missing one is only a warning of the parser
    }
    functions = plugin.functions
    fakes = [TensorDesc(ShapeExprs.from_tuple([None] * len(shape)), dtype) for shape, dtype in inputs]
    declared = functions["register"](*fakes, **values)
    known = [TensorDesc(ShapeExprs.from_tuple(shape), dtype) for shape, dtype in inputs]
    output = functions["register"](*known, **values)
    types_used = (*(dtype for _, dtype in inputs), declared.dtype)
    combinations = functions["autotune"](*known, *values.values(), (output,))
    if types_used not in [types for combination in combinations for types in combination.combinations]:
        raise RuntimeError(f"no implementation for {types_used}")
    entry, ptx, launch, extra = functions["aot_impl"](*known, *values.values(), (output,), 0)
    if not isinstance(entry, str | bytes) or not isinstance(ptx, str | bytes):
        raise TypeError("kernel name and PTX must be 'str' or 'bytes'")
    if not isinstance(launch, KernelLaunchParams) or not isinstance(extra, SymExprs):
        raise TypeError("launch parameters and extra arguments are of other types")
    if not all(isinstance(size, SymInt32) for size in extra.items):
        raise TypeError("Extra args must be a 'tensorrt.plugin.SymInt32'")
    return {
        "entry": entry if isinstance(entry, str) else entry.decode(),
        "ptx": ptx if isinstance(ptx, str) else ptx.decode(),
        "grid": (launch.grid_x(), launch.grid_y(), launch.grid_z()),
        "block": (launch.block_x(), launch.block_y(), launch.block_z()),
        "shared_bytes": launch.shared_mem(),
        "sizes": tuple(size() for size in extra.items),
        "output_shape": tuple(size() for size in output.shape_expr.items),
        "types": types_used,
    }
