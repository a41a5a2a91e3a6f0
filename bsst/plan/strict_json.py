"""JSON to frozen dataclasses without forgiveness: every field present, none unknown, every type exact.

A plan crosses machines and versions; a field that is silently ignored or coerced would run the wrong network.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from bsst.errors import PlanError
from bsst.text import shortened

__all__ = ["canonical_json", "from_json", "parse_json"]

T = TypeVar("T")

LARGEST_INTEGER = 2**63


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: equal values give equal bytes.

    Raises:
        PlanError: the value holds something that JSON cannot carry exactly (a set, NaN, infinity).
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise PlanError(
            f"expected plain finite JSON values, got {shortened(error)}; convert the value before storing it"
        ) from error


def parse_json(text: bytes, where: str) -> Any:
    """Parse UTF-8 JSON; duplicate keys, NaN and infinities are refused.

    Raises:
        PlanError: naming `where` and what is wrong.
    """
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise PlanError(
            f"{where}: expected UTF-8 JSON, got {shortened(error)}; copy or export the plan again"
        ) from error


def from_json(cls: type[T], data: Any, where: str) -> T:
    """Build the dataclass `cls` from parsed JSON.

    Understands str, int, float, bool, Literal, tuples, dict[str, X], Any, unions with None and nested dataclasses.

    Raises:
        PlanError: a field is missing, unknown, or of another type; the message names its path from `where`.
    """
    return _decode(cls, data, where)


def _decode(kind: Any, data: Any, where: str) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return data
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, data, where)
    if origin is Literal:
        if data not in args or isinstance(data, bool) != isinstance(args[0], bool):
            raise _wrong(where, "one of " + ", ".join(map(str, args)), data)
        return data
    if origin in (Union, types.UnionType):
        return None if data is None else _decode(next(arg for arg in args if arg is not type(None)), data, where)
    if origin is tuple:
        return _decode_tuple(args, data, where)
    if origin is dict:
        if not isinstance(data, dict):
            raise _wrong(where, "an object", data)
        return {key: _decode(args[1], value, f"{where}.{shortened(key)}") for key, value in data.items()}
    if kind is int and type(data) is int and abs(data) > LARGEST_INTEGER:
        raise _wrong(where, f"an integer of at most {LARGEST_INTEGER}", data)
    if kind is float:
        if (
            isinstance(data, bool)
            or not isinstance(data, int | float)
            or abs(data) > LARGEST_INTEGER
            or not math.isfinite(data)
        ):
            raise _wrong(where, "a finite number", data)
        return float(data)
    if type(data) is not kind:
        raise _wrong(where, kind.__name__, data)
    if kind is str and not data.isprintable():  # control characters would reach terminals, lone surrogates no file
        raise _wrong(where, "printable text", data)
    return data


def _decode_dataclass(cls: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise _wrong(where, "an object", data)
    hints = get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    missing, unknown = sorted(set(names) - set(data)), sorted(set(data) - set(names))
    if missing or unknown:
        raise PlanError(
            f"{where}: expected exactly the fields {', '.join(names)}, got missing: {', '.join(missing) or 'none'}, "
            f"unknown: {shortened(', '.join(unknown) or 'none')}; use the version of bsst that wrote the plan, "
            "or export it again"
        )
    return cls(**{name: _decode(hints[name], data[name], f"{where}.{name}") for name in names})


def _decode_tuple(args: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise _wrong(where, "a list", data)
    if len(args) == 2 and args[1] is Ellipsis:
        args = (args[0],) * len(data)
    if len(data) != len(args):
        raise _wrong(where, f"{len(args)} values", data)
    return tuple(_decode(kind, value, f"{where}[{i}]") for i, (kind, value) in enumerate(zip(args, data, strict=True)))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError(f"a key stated twice among {sorted(key for key, _ in pairs)}")
    return result


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"the constant {name}")


def _wrong(where: str, expected: str, got: Any) -> PlanError:
    # An integer of thousands of digits has no repr.
    shown = "an integer without bounds" if isinstance(got, int) and abs(got) > 2**64 else ascii(got)[:80]
    return PlanError(f"{where}: expected {expected}, got {shown}; export the plan again")
