"""Stage `flow_features`, once per frame: frame -> matching features, hidden state and context of RAFT."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bsst.export.stage import Geometry, Stage
from bsst.reference.raft import RAFT, halve

__all__ = ["flow_features_stage"]


def flow_features_stage(raft: RAFT, geometry: Geometry) -> Stage:
    """Build the stage for frames of `geometry.flow_size`."""
    return Stage(
        name="flow_features",
        module=_FlowFeatures(raft),
        inputs={"frame": ((1, 3, *geometry.flow_size), torch.float32)},
        outputs=("matching", "hidden", "context"),
    )


class _FlowFeatures(nn.Module):
    def __init__(self, raft: RAFT) -> None:
        super().__init__()
        self.raft = raft

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.raft.features(halve(frame))
