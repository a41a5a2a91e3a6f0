"""Stage `attend`, once per clip: reconstruction features and attention tables -> what the sparse transformer adds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bsst.export.stage import Geometry, Stage
from bsst.reference.bsstnet import BSSTNet
from bsst.reference.selection import WINDOW, Selection

__all__ = ["attend_stage"]


def attend_stage(network: BSSTNet, geometry: Geometry) -> Stage:
    """Build the stage for one clip of a tile."""
    config = network.config
    group = geometry.frames // 4
    height, width = geometry.at(8)
    groups = (height // WINDOW) * (width // WINDOW) * (geometry.frames // group)
    table = ((config.transformer_blocks, groups, group), torch.int32)
    return Stage(
        name="attend",
        module=_Attend(network),
        inputs={
            "reconstruction": ((geometry.frames, config.channels, *geometry.at(4)), torch.float32),
            "query_frames": table,
            "key_frames": table,
            "active": (table[0][:2], torch.int32),
        },
        outputs=("attended",),
    )


class _Attend(nn.Module):
    def __init__(self, network: BSSTNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, reconstruction: Tensor, query_frames: Tensor, key_frames: Tensor, active: Tensor) -> Tensor:
        return self.network.attend(reconstruction, Selection(query_frames, key_frames, active))
