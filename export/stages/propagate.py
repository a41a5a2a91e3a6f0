"""Stages `propagate_<branch>`, once per frame in the order of the branch: previous two states -> next state."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bsst.export.stage import Geometry, Stage
from bsst.reference.blur import MOTION_CHANNELS
from bsst.reference.bsstnet import BSSTNet
from bsst.reference.propagation import DeformableAlignment, propagation_step

__all__ = ["propagate_stage"]


def propagate_stage(network: BSSTNet, branch: str, geometry: Geometry) -> Stage:
    """Build the step of one branch; its inputs `feature_<i>` are the encoder features, then every earlier branch."""
    known = 1 + network.config.branches.index(branch)
    state = ((1, network.config.channels, *geometry.at(4)), torch.float32)
    return Stage(
        name=f"propagate_{branch}",
        module=_Propagate(network, branch),
        inputs={
            "state1": state,
            "state2": state,
            "motion": ((1, MOTION_CHANNELS, *geometry.at(4)), torch.float32),
            **{f"feature_{index}": state for index in range(known)},
        },
        outputs=("state",),
    )


class _Propagate(nn.Module):
    def __init__(self, network: BSSTNet, branch: str) -> None:
        super().__init__()
        align = network.deform_align[branch]
        assert isinstance(align, DeformableAlignment)
        self.align = align
        self.backbone = network.backbone[branch]

    def forward(self, state1: Tensor, state2: Tensor, motion: Tensor, *features: Tensor) -> Tensor:
        return propagation_step(self.align, self.backbone, state1, state2, features, motion)
