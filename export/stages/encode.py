"""Stage `encode`, once per frame: frame -> features at full (compact networks: 1/2), 1/2 and 1/4 resolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bsst.export.stage import Geometry, Stage
from bsst.reference.bsstnet import BSSTNet

__all__ = ["encode_stage"]


def encode_stage(network: BSSTNet, geometry: Geometry) -> Stage:
    """Build the stage for one frame of a tile."""
    return Stage(
        name="encode",
        module=_Encode(network),
        inputs={"frame": ((1, 3, *geometry.tile), torch.float32)},
        outputs=("full", "half", "quarter"),
    )


class _Encode(nn.Module):
    def __init__(self, network: BSSTNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.network.encode(frame)
