"""Stage `flow`, once per pair of neighbouring frames: RAFT features -> flows in both directions at 1/4 scale.

One pair a call. Eleven pairs in one call, as the reference does it, give the same flows to the last bit on ONNX Runtime
and take the same CPU time for them (`edge`, 256x256), but five times the memory of the stage, and a frame's flow would
come as late as a window's; on GPUs a captured graph already starts all kernels of a pair at once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bsst.export.stage import Geometry, Stage
from bsst.reference.raft import RAFT, halve

__all__ = ["flow_stage"]


def flow_stage(raft: RAFT, geometry: Geometry) -> Stage:
    """Build the stage for frames of `geometry.flow_size`."""
    config = raft.config
    grid = tuple(size // 16 for size in geometry.flow_size)
    widths = (config.feature_channels, config.hidden_channels, config.context_channels)
    return Stage(
        name="flow",
        module=_Flow(raft),
        inputs={
            f"{name}_{frame}": ((1, width, *grid), torch.float32)
            for frame in ("a", "b")
            for name, width in zip(("matching", "hidden", "context"), widths, strict=True)
        },
        outputs=("backward", "forward"),
    )


class _Flow(nn.Module):
    def __init__(self, raft: RAFT) -> None:
        super().__init__()
        self.raft = raft

    def forward(
        self,
        matching_a: Tensor,
        hidden_a: Tensor,
        context_a: Tensor,
        matching_b: Tensor,
        hidden_b: Tensor,
        context_b: Tensor,
    ) -> tuple[Tensor, Tensor]:
        to_b, to_a = self.raft.flow((matching_a, hidden_a, context_a), (matching_b, hidden_b, context_b))
        return halve(to_b) / 2, halve(to_a) / 2
