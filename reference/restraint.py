"""How far the network's change is trusted, place by place; not part of the released network.

A blurred edge and a smooth picture look alike to a decoder that sees a few pixels around it. This small network sees
some sixty, with the motion and the change itself, and says which share of it each pixel gets, and what is missing.
Motion takes detail away along its path only, so it is told how much detail there is along and across (`evidence`).
How long a frame was exposed is the same everywhere in it, so means over the whole tile are told to every pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MOTION_LIMIT", "Restraint", "kept_share", "evidence"]

MOTION_LIMIT = 40.0
"""Flows are clamped to it, in pixels at 1/4 scale."""
DILATIONS = (1, 2, 4, 2, 1)
TOLD_AFTER = 2
"""Index of the layer after which means over the tile are told to every pixel."""
FRAME, RESIDUAL, DECODED, MOTION, EVIDENCE = 2.0, 20.0, 2.37, 0.3, 0.7
STEPS = (1, 2, 4)
"""Half the distances, in pixels at 1/2 scale, over which differences are taken; one of 2 pixels comes before them."""
EVIDENCE_CHANNELS = 2 * (1 + len(STEPS))
GREY_LEVELS = 64.0
"""Grey values are scaled to it, so that half precision holds their squares."""
FAINT = 0.05
"""Mean square of differences that noise alone may cause, in grey levels."""
MOVING = (0.3, 0.8)
"""Lengths of the two flows together, in pixels at 1/4 scale, from which a place counts for the detail, and in full."""
LEAST_MOVING = 0.02
"""Share of a frame that moves, below which its change counts as if so much did."""
LARGEST_SHARE = 2.0
CORRECTION = 0.1


class Restraint(nn.Module):
    """Weighs and corrects a residual; leaves it alone until trained.

    Args:
        channels: width.
        decoded: channels of the decoder features.
        detail: detail of a frame up to which all of its change is dropped, and from which none is.
    """

    def __init__(self, channels: int, decoded: int, detail: tuple[float, float] | None = None) -> None:
        super().__init__()
        self.detail = detail
        self.first = nn.Conv2d(12 + 12 + decoded + 4 + EVIDENCE_CHANNELS, channels, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=d, dilation=d) for d in DILATIONS)
        self.seen = nn.Conv2d(channels, 2 * channels, 1)
        self.told = nn.Conv2d(2 * channels, channels, 1)
        self.last = nn.Conv2d(channels, 16, 3, padding=1)
        for layer in (self.told, self.last):
            nn.init.zeros_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        self.strength = nn.Parameter(torch.ones(()))
        with torch.no_grad():
            self.first.weight.mul_(self.input_scales)

    @property
    def input_scales(self) -> Tensor:
        """(1, inputs, 1, 1): inputs times these have a standard deviation near 1."""
        known = [FRAME] * 12 + [RESIDUAL] * 12, [MOTION] * 4 + [EVIDENCE] * EVIDENCE_CHANNELS
        decoded = self.first.in_channels - sum(map(len, known))
        return torch.tensor(known[0] + [DECODED] * decoded + known[1])[None, :, None, None]

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
        known = F.pixel_unshuffle(frames - 0.5, 2), F.pixel_unshuffle(residual, 2), decoded
        found = evidence(frames, motion)
        x = torch.cat((*known, motion, found), 1)
        x = F.leaky_relu(self.first(x), 0.1)
        for index, layer in enumerate(self.body):
            x = x + 0.5 * F.leaky_relu(layer(x), 0.1)
            if index == TOLD_AFTER:
                x = x + self.told(F.leaky_relu(self.seen(x), 0.1).mean((2, 3), keepdim=True))
        share, correction = self.last(x).split((4, 12), 1)
        share = LARGEST_SHARE * torch.sigmoid(F.pixel_shuffle(share, 2))
        change = self.strength * (share * residual + CORRECTION * F.pixel_shuffle(correction, 2))
        if self.detail is None:
            return change
        low, high = self.detail
        return change * ((self.detail_of(found, motion) - low) / (high - low)).clamp(0, 1)

    @staticmethod
    def detail_of(found: Tensor, motion: Tensor) -> Tensor:
        """Mean detail of what moves: `evidence` and the flows at 1/2 scale -> (B, 1, 1, 1); 0 where nothing does."""
        level = found[:, 1::2].mean(1, keepdim=True)
        speed = motion.square().sum(1, keepdim=True).sqrt()
        weight = level * ((speed - MOVING[0]) / (MOVING[1] - MOVING[0])).clamp(0, 1)
        return (weight * level).mean((2, 3), keepdim=True) / (weight.mean((2, 3), keepdim=True) + 1e-3)


def evidence(frames: Tensor, motion: Tensor) -> Tensor:
    """How much detail a neighbourhood has along its motion and across it: what tells motion blur from smoothness.

    Args:
        frames: (B, 3, H, W), RGB in [0, 1].
        motion: flow to the previous frame and to the next one (B, 4, H/2, W/2).

    Returns:
        (B, 8, H/2, W/2): for differences over 2, 4, 8 and 16 pixels, with a = log(1 + mean square / `FAINT`) along the
        motion and b the same across it, a - b and (a + b) / 2; both vanish where nothing moves.
    """
    full = GREY_LEVELS * frames.mean(1, keepdim=True)
    half = F.avg_pool2d(full, 2)
    way = motion[:, 2:] - motion[:, :2]
    way = way / (way.square().sum(1, keepdim=True) + 0.01).sqrt()
    finest = _squares(full, F.interpolate(way, scale_factor=2, mode="nearest"), 1)
    squares = torch.cat((F.avg_pool2d(finest, 2), *(_squares(half, way, n) for n in STEPS)), 1)
    # One pool of eight maps: ONNX Runtime has no fast one for two, and took half of the stage for four of them.
    levels = (F.avg_pool2d(squares, 9, 1, 4, count_include_pad=False) / FAINT + 1).log()
    along, across = levels.unflatten(1, (1 + len(STEPS), 2)).unbind(2)
    return torch.stack((along - across, 0.5 * (along + across)), 2).flatten(1, 2)


def kept_share(frames: Tensor, change: Tensor, moved: Tensor, fine: tuple[float, float], sure: float) -> Tensor:
    """Share of a frame's change that is kept: all where there is fine detail, else the less the fainter it is.

    A picture that was enlarged, or is out of focus, has no detail from one pixel to the next; nor has one after strong
    blur, but removing that is a large change.

    Args:
        frames: (B, 3, H, W), RGB in [0, 1].
        change: what would be added to them, same shape.
        moved: how far each place counts, (B, 1, H, W) in [0, 1].
        fine: finest detail up to which a faint change is dropped, and from which any is kept, in grey levels of 255.
        sure: change of which half is kept without fine detail, in grey levels of 255.

    Returns:
        (B, 1, 1, 1) in [0, 1].
    """
    grey = GREY_LEVELS * frames.mean(1, keepdim=True)
    finest = (grey[:, :, 1:-1, 1:-1] - F.avg_pool2d(grey, 3, 1)).square()
    inner = moved[:, :, 1:-1, 1:-1]
    detail = (finest * inner).mean((2, 3), keepdim=True) / (inner.mean((2, 3), keepdim=True) + 1e-3)
    low, high = (GREY_LEVELS / 255 * level for level in fine)
    moving = moved.mean((2, 3), keepdim=True).clamp_min(LEAST_MOVING)
    power = (GREY_LEVELS * change).square().mean((1, 2, 3), keepdim=True) / moving
    large = power.square() / (power.square() + (GREY_LEVELS / 255 * sure) ** 4)
    return torch.maximum(((detail.sqrt() - low) / (high - low)).clamp(0, 1), large)


def _squares(grey: Tensor, way: Tensor, n: int) -> Tensor:
    """Squared differences of grey (B, 1, H, W) over 2 n pixels along unit vectors (B, 2, H, W) and across them."""
    x, y = way.split(1, 1)
    padded = F.pad(grey, (n, n, n, n), mode="replicate")
    dx = padded[:, :, n:-n, 2 * n :] - padded[:, :, n:-n, : -2 * n]
    dy = padded[:, :, 2 * n :, n:-n] - padded[:, :, : -2 * n, n:-n]
    return torch.cat((x * dx + y * dy, x * dy - y * dx), 1).square()
