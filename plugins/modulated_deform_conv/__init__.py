"""Modulated deformable convolution (DCNv2); see README.md of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bsst.plugins.lazy import lazy_names
from bsst.plugins.modulated_deform_conv.schema import SCHEMA

if TYPE_CHECKING:
    from bsst.plugins.modulated_deform_conv.onnx_function import cpu, portable
    from bsst.plugins.modulated_deform_conv.torch_operator import modulated_deform_conv
    from bsst.plugins.modulated_deform_conv.trt_plugin import register_tensorrt

__all__ = ["SCHEMA", "cpu", "modulated_deform_conv", "portable", "register_tensorrt"]

__getattr__ = lazy_names(
    __name__,
    {
        "modulated_deform_conv": "torch_operator",
        "cpu": "onnx_function",
        "portable": "onnx_function",
        "register_tensorrt": "trt_plugin",
    },
)
