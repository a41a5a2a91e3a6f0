"""Backward warp by a flow; see README.md of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bsst.plugins.flow_warp.schema import SCHEMA
from bsst.plugins.lazy import lazy_names

if TYPE_CHECKING:
    from bsst.plugins.flow_warp.onnx_function import cpu, portable
    from bsst.plugins.flow_warp.torch_operator import flow_warp

__all__ = ["SCHEMA", "cpu", "flow_warp", "portable"]

__getattr__ = lazy_names(
    __name__,
    {"flow_warp": "torch_operator", "cpu": "onnx_function", "portable": "onnx_function"},
)
