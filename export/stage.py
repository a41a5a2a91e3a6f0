"""A pipeline stage before tracing: a module, and the name, shape and dtype of everything it takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bsst.config import NetworkConfig
from bsst.errors import UsageError
from bsst.reference.selection import legal_frames

__all__ = ["Geometry", "Stage", "check_geometry", "example_inputs"]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Static sizes of an export."""

    frames: int
    """T, frames of a window."""
    tile: tuple[int, int]
    """(height, width) of a network tile in pixels, multiples of 64."""
    flow_size: tuple[int, int]
    """(height, width) of the area whose flow is computed in one call, in pixels, multiples of 16."""

    def at(self, scale: int) -> tuple[int, int]:
        """(height, width) of the tile at 1/scale."""
        return self.tile[0] // scale, self.tile[1] // scale


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One graph of the plan."""

    name: str
    """Stage name; also the name of its member in the plan."""
    module: nn.Module
    """Takes the inputs positionally, returns one tensor or a tuple."""
    inputs: Mapping[str, tuple[tuple[int, ...], torch.dtype]]
    """Name -> shape and dtype, in the order of the module's arguments."""
    outputs: tuple[str, ...]
    """Names in the order of the module's results."""


def check_geometry(config: NetworkConfig, geometry: Geometry) -> None:
    """Refuse sizes that the network cannot run.

    Raises:
        UsageError: with the nearest sizes that work.
    """
    if not legal_frames(geometry.frames):
        legal = [t for t in range(4, max(geometry.frames, 4) + 5) if legal_frames(t)]
        near = [t for t in legal if t < geometry.frames][-1:] + [t for t in legal if t > geometry.frames][:1]
        raise UsageError(
            f"expected --window 4 to 8, 10 or a multiple of 4, got {geometry.frames}; use {' or '.join(map(str, near))}"
        )
    for option, sizes, multiple, minimum in (
        ("--tile", geometry.tile, config.tile_multiple, config.tile_multiple),
        ("--flow-size", geometry.flow_size, config.raft.frame_multiple, config.raft.frame_minimum),
    ):
        if any(size % multiple or size < minimum for size in sizes):
            up = "x".join(str(max(minimum, -(-size // multiple) * multiple)) for size in sizes)
            raise UsageError(
                f"expected {option} in multiples of {multiple}, at least {minimum}, got {sizes[0]}x{sizes[1]}; use {up}"
            )


def example_inputs(stage: Stage) -> dict[str, Tensor]:
    """Reproducible inputs of the right shape; integers are valid frame indices and flags of zero."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(shape, generator=generator) if dtype.is_floating_point else torch.zeros(shape, dtype=dtype)
        for name, (shape, dtype) in stage.inputs.items()
    }
