"""Sparse window attention over fixed index tables; see README.md of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bsst.plugins.sparse_window_attention.schema import SCHEMA

if TYPE_CHECKING:
    from bsst.plugins.sparse_window_attention.torch_operator import sparse_window_attention

__all__ = ["SCHEMA", "sparse_window_attention"]


def __getattr__(name: str) -> Any:
    """Load torch only where the PyTorch operator is used: a device that rebuilds a plan has none."""
    if name == "sparse_window_attention":
        from bsst.plugins.sparse_window_attention.torch_operator import sparse_window_attention

        return sparse_window_attention
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
