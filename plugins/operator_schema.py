"""The form in which an operator states its meaning: names, dtypes, attributes and tolerances, nothing executable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["CAPABILITIES", "DOMAIN", "VERSION", "AttributeSpec", "OperatorSchema", "OperandSpec", "Tolerance"]

DOMAIN = "bsst"
"""ONNX domain, torch.library namespace and TensorRT plugin namespace of every operator."""
VERSION = 1
"""Opset version of the domain; TensorRT's quickly deployable plugins always carry version "1"."""

CAPABILITIES = (80, 86, 87, 89, 90, 120)
"""Compute capabilities times ten that kernels are compiled and checked for; PTX of 90 and 120 runs on no other."""

DType = Literal["feature", "float32", "int32"]


@dataclass(frozen=True, kw_only=True)
class OperandSpec:
    """One input or output."""

    name: str
    """Name in the PyTorch signature, the ONNX function and the TensorRT plugin."""
    dtype: DType
    """`feature` is float32 or float16, the same for all feature tensors of a node; coordinates never are."""
    axes: str
    """Named axes, unit and range."""


@dataclass(frozen=True, kw_only=True)
class AttributeSpec:
    """One static attribute: an integer, or a list of integers."""

    name: str
    length: int | None = None
    """None: a single integer; otherwise the number of integers in the list."""
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Largest accepted deviation from `reference.py`, as a share of the largest absolute reference value."""

    float32: float
    float16: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class OperatorSchema:
    """Everything that all lowerings of one operator share."""

    name: str
    """PyTorch operator `torch.ops.bsst.<name>` and folder."""
    op_type: str
    """ONNX node type and TensorRT plugin name; unlike any standard one, which parsers would take instead."""
    inputs: tuple[OperandSpec, ...]
    output: OperandSpec
    attributes: tuple[AttributeSpec, ...]
    tolerance: Tolerance

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """Attribute names in signature order."""
        return tuple(attribute.name for attribute in self.attributes)
