"""Backward warp by a flow; see README.md of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bsst.plugins.flow_warp.schema import SCHEMA

if TYPE_CHECKING:
    from bsst.plugins.flow_warp.torch_operator import flow_warp

__all__ = ["SCHEMA", "flow_warp"]


def __getattr__(name: str) -> Any:
    """Load torch only where the PyTorch operator is used: a device that rebuilds a plan has none."""
    if name == "flow_warp":
        from bsst.plugins.flow_warp.torch_operator import flow_warp

        return flow_warp
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
