"""Stage `refine`, once per clip: RAFT flows -> motion maps of both directions and the tables of sparse attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bsst.export.stage import Geometry, Stage
from bsst.reference.blur import branch_motion
from bsst.reference.bsstnet import BSSTNet

__all__ = ["refine_stage"]


def refine_stage(network: BSSTNet, geometry: Geometry) -> Stage:
    """Build the stage for the flows of one clip of a tile."""
    flows = ((geometry.frames - 1, 2, *geometry.at(4)), torch.float32)
    moving = () if network.config.still_motion is None else ("moving",)
    return Stage(
        name="refine",
        module=_Refine(network),
        inputs={"backward": flows, "forward": flows},
        outputs=("motion_backward", "motion_forward", "query_frames", "key_frames", "active", *moving),
    )


class _Refine(nn.Module):
    def __init__(self, network: BSSTNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, backward: Tensor, forward: Tensor) -> tuple[Tensor, ...]:
        blur, backward, forward = self.network.refine(backward[None], forward[None])
        sharp, (selection,) = 1 - blur, self.network.select(blur)
        moving = self.network.moving(backward, forward)
        return (
            branch_motion(sharp, backward, forward, "backward", self.network.config.flow_limit)[0],
            branch_motion(sharp, backward, forward, "forward", self.network.config.flow_limit)[0],
            selection.query_frames,
            selection.key_frames,
            selection.active,
            *(() if moving is None else (moving[0],)),
        )
