"""Stage `restore`, once per frame: decoder features, first features of the encoder and blurry frame -> sharp frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bsst.export.stage import Geometry, Stage
from bsst.reference.bsstnet import BSSTNet

__all__ = ["restore_stage"]


def restore_stage(network: BSSTNet, geometry: Geometry) -> Stage:
    """Build the stage for one frame of a tile."""
    config = network.config
    half = (1, config.half_channels, *geometry.at(2))
    first = half if config.compact else (1, config.full_channels, *geometry.tile)
    channels = 5 if config.restraint_channels else 1
    moving = {} if config.still_motion is None else {"moving": ((1, channels, *geometry.at(4)), torch.float32)}
    return Stage(
        name="restore",
        module=_Restore(network),
        inputs={
            "decoded": (half, torch.float32),
            "full": (first, torch.float32),
            "frame": ((1, 3, *geometry.tile), torch.float32),
            **moving,
        },
        outputs=("sharp",),
    )


class _Restore(nn.Module):
    def __init__(self, network: BSSTNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, decoded: Tensor, full: Tensor, frame: Tensor, moving: Tensor | None = None) -> Tensor:
        return self.network.restore(decoded, full, frame, moving)
