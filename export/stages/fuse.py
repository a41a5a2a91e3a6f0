"""Stage `fuse`, once per clip: encoder and branch features -> reconstruction features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bsst.export.stage import Geometry, Stage
from bsst.reference.bsstnet import BSSTNet

__all__ = ["fuse_stage"]


def fuse_stage(network: BSSTNet, geometry: Geometry) -> Stage:
    """Build the stage; its inputs `feature_<i>` are the encoder features, then every branch."""
    clip = ((geometry.frames, network.config.channels, *geometry.at(4)), torch.float32)
    return Stage(
        name="fuse",
        module=_Fuse(network),
        inputs={f"feature_{index}": clip for index in range(1 + len(network.config.branches))},
        outputs=("reconstruction",),
    )


class _Fuse(nn.Module):
    def __init__(self, network: BSSTNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, *features: Tensor) -> Tensor:
        return self.network.fuse(torch.cat(features, 1)[None])[0]
