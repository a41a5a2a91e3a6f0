"""Blur-aware propagation: guided deformable alignment and one recurrent step (specification section 9)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bsst.config import NetworkConfig
from bsst.plugins.flow_warp import flow_warp
from bsst.plugins.modulated_deform_conv import modulated_deform_conv
from bsst.reference.layers import GatedBlock, conv3x3

__all__ = ["DeformableAlignment", "make_backbone", "offset_head", "propagation_step"]


def offset_head(inputs: int, hidden: int, groups: int) -> nn.Sequential:
    """Four convolutions that predict two offsets and one mask logit for each of 9 taps of each group."""
    return nn.Sequential(
        conv3x3(inputs, hidden),
        nn.LeakyReLU(0.1),
        conv3x3(hidden, hidden),
        nn.LeakyReLU(0.1),
        conv3x3(hidden, hidden),
        nn.LeakyReLU(0.1),
        conv3x3(hidden, 27 * groups),
    )


class DeformableAlignment(nn.Module):
    """Deformable convolution over the two previous states, steered by flow and sharpness."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        channels = config.channels
        self.groups = config.offset_groups
        self.offset_range = config.offset_range
        self.gate_inconsistent = config.gate_inconsistent
        self.state_limit = config.state_limit
        self.weight = nn.Parameter(torch.empty(channels, 2 * channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.conv_offset = offset_head(3 * channels + 9, config.offset_channels, config.offset_groups)

    def forward(self, state1: Tensor, state2: Tensor, reference: Tensor, motion: Tensor) -> Tensor:
        """Align both previous states to the current frame.

        Args:
            state1: output of this branch one step earlier, (N, C, H, W).
            state2: output two steps earlier, same shape.
            reference: features of the current frame from the branch before, same shape.
            motion: `branch_motion` of the current frame, (N, 10, H, W).

        Returns:
            (N, C, H, W).
        """
        condition = motion[:, :9]
        warped_sharp1, warped_sharp2 = motion[:, 0:1], motion[:, 2:3]
        valid1, valid2 = motion[:, 3:4], motion[:, 4:5]
        flow1, flow2 = motion[:, 5:7], motion[:, 7:9]

        warped1, warped2 = flow_warp(state1, flow1), flow_warp(state2, flow2)
        raw = self.conv_offset(torch.cat((warped1, reference, warped2, condition), 1))
        offset1, offset2, logits = (9 * self.groups * x for x in (0, 1, 2))
        size = 9 * self.groups

        def steer(start: int, flow: Tensor) -> Tensor:
            learned = self.offset_range * torch.tanh(raw[:, start : start + size])
            return learned + flow.flip(1).repeat(1, size // 2, 1, 1)  # offsets are (dy, dx), flow is (x, y)

        def weigh(start: int, sharp: Tensor, valid: Tensor) -> Tensor:
            weight = torch.sigmoid(raw[:, start : start + size // 2] + 0.1 * (2 * sharp * valid - 1))
            return weight * valid if self.gate_inconsistent else weight

        offset = torch.cat((steer(offset1, flow1), steer(offset2, flow2)), 1)
        mask = torch.cat((weigh(logits, warped_sharp1, valid1), weigh(logits + size // 2, warped_sharp2, valid2)), 1)
        states = torch.cat((state1, state2), 1)
        return modulated_deform_conv(states, offset, mask, self.weight, self.bias, offset_groups=self.groups)


def make_backbone(channels: int, inputs: int) -> nn.Sequential:
    """Fusion of the aligned state with all earlier features of the frame."""
    return nn.Sequential(conv3x3(inputs * channels, channels), nn.LeakyReLU(0.1), GatedBlock(channels, 3))


def propagation_step(
    align: DeformableAlignment,
    backbone: nn.Module,
    state1: Tensor,
    state2: Tensor,
    features: tuple[Tensor, ...],
    motion: Tensor,
) -> Tensor:
    """One frame of one branch.

    Args:
        align: alignment of the branch.
        backbone: fusion of the branch.
        state1: output one step earlier, (N, C, H, W); ignored where motion says that there is none.
        state2: output two steps earlier, same shape; zeros in the first two steps.
        features: encoder features of the frame, then its features from every finished branch, each (N, C, H, W).
        motion: `branch_motion` of the frame, (N, 10, H, W).

    Returns:
        Output of the branch at this frame, (N, C, H, W).
    """
    aligned = align(state1, state2, features[-1], motion) * motion[:, 9:10]
    fused: Tensor = backbone(torch.cat((*features, aligned), 1))
    state = aligned + fused
    return state if align.state_limit is None else state.clamp(-align.state_limit, align.state_limit)
