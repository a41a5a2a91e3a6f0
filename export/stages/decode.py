"""Stage `decode`, once per clip: reconstruction, attention and skip features -> decoder features at 1/2 scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bsst.export.stage import Geometry, Stage
from bsst.reference.bsstnet import BSSTNet

__all__ = ["decode_stage"]


def decode_stage(network: BSSTNet, geometry: Geometry) -> Stage:
    """Build the stage for one clip of a tile."""
    config = network.config
    quarter = ((geometry.frames, config.channels, *geometry.at(4)), torch.float32)
    half = ((geometry.frames, config.half_channels, *geometry.at(2)), torch.float32)
    return Stage(
        name="decode",
        module=_Decode(network),
        inputs={"reconstruction": quarter, "attended": quarter, "half": half},
        outputs=("decoded",),
    )


class _Decode(nn.Module):
    def __init__(self, network: BSSTNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, reconstruction: Tensor, attended: Tensor, half: Tensor) -> Tensor:
        return self.network.decode(reconstruction[None], attended[None], half[None])[0]
