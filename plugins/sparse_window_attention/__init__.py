"""Sparse window attention over fixed index tables; see README.md of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bsst.plugins.lazy import lazy_names
from bsst.plugins.sparse_window_attention.schema import SCHEMA

if TYPE_CHECKING:
    from bsst.plugins.sparse_window_attention.onnx_function import portable
    from bsst.plugins.sparse_window_attention.torch_operator import sparse_window_attention
    from bsst.plugins.sparse_window_attention.trt_plugin import register_tensorrt

__all__ = ["SCHEMA", "portable", "register_tensorrt", "sparse_window_attention"]

__getattr__ = lazy_names(
    __name__,
    {"sparse_window_attention": "torch_operator", "portable": "onnx_function", "register_tensorrt": "trt_plugin"},
)
