"""Modulated deformable convolution (DCNv2); see README.md of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bsst.plugins.modulated_deform_conv.schema import SCHEMA

if TYPE_CHECKING:
    from bsst.plugins.modulated_deform_conv.torch_operator import modulated_deform_conv

__all__ = ["SCHEMA", "modulated_deform_conv"]


def __getattr__(name: str) -> Any:
    """Load torch only where the PyTorch operator is used: a device that rebuilds a plan has none."""
    if name == "modulated_deform_conv":
        from bsst.plugins.modulated_deform_conv.torch_operator import modulated_deform_conv

        return modulated_deform_conv
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
