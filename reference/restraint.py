"""How far the network's change is trusted, place by place; not part of the released network.

A blurred edge and a smooth picture look alike to a decoder that sees a few pixels around it. This small network sees
some sixty, with the motion and the change itself, and says which share of it each pixel gets, and what is missing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MOTION_LIMIT", "Restraint"]

MOTION_LIMIT = 40.0
"""Flows are clamped to it, in pixels at 1/4 scale."""
DILATIONS = (1, 2, 4, 2, 1)
FRAME, RESIDUAL, DECODED, MOTION = 2.0, 20.0, 2.37, 0.3
"""Factors on the first weights: inputs times these have a standard deviation near 1."""
LARGEST_SHARE = 2.0
CORRECTION = 0.1


class Restraint(nn.Module):
    """Weighs and corrects a residual; leaves it alone until trained."""

    def __init__(self, channels: int, decoded: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(12 + 12 + decoded + 4, channels, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=d, dilation=d) for d in DILATIONS)
        self.last = nn.Conv2d(channels, 16, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)
        self.strength = nn.Parameter(torch.ones(()))
        scales = [FRAME] * 12 + [RESIDUAL] * 12 + [DECODED] * decoded + [MOTION] * 4
        with torch.no_grad():
            self.first.weight.mul_(torch.tensor(scales)[None, :, None, None])

    def forward(self, frames: Tensor, residual: Tensor, decoded: Tensor, motion: Tensor) -> Tensor:
        """Share and correct the change of frames.

        Args:
            frames: blurry frames (B, 3, H, W), RGB in [0, 1].
            residual: what would be added to them, same shape.
            decoded: decoder features (B, D, H/2, W/2).
            motion: flow to the previous frame and to the next one (B, 4, H/4, W/4), pixels at 1/4 scale; 0 where there
                is none.

        Returns:
            The residual, up to twice as strong, and corrected; same shape.
        """
        motion = F.interpolate(motion, scale_factor=2, mode="bilinear", align_corners=False)
        x = torch.cat((F.pixel_unshuffle(frames - 0.5, 2), F.pixel_unshuffle(residual, 2), decoded, motion), 1)
        x = F.leaky_relu(self.first(x), 0.1)
        for layer in self.body:
            x = x + 0.5 * F.leaky_relu(layer(x), 0.1)
        share, correction = self.last(x).split((4, 12), 1)
        share = LARGEST_SHARE * torch.sigmoid(F.pixel_shuffle(share, 2))
        return self.strength * (share * residual + CORRECTION * F.pixel_shuffle(correction, 2))
