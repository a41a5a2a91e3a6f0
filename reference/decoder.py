"""Fusion and decoder: grouped spatial-temporal shift at 1/2 scale, then full resolution (specification section 13)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bsst.reference.layers import GatedBlock, GatedFusionBlock, conv3x3

__all__ = ["PixelShuffleUpsample", "ShiftBlock", "SkipUpsample"]

SHIFTS = (
    [(8, 8), (8, 4), (8, 0), (8, -4), (8, -8), (-8, 8), (-8, 4), (-8, 0), (-8, -4), (-8, -8)]
    + [(4, 8), (4, -8), (0, 8), (0, -8), (-4, 8), (-4, -8)]
    + [shift for shift in ((4, 4), (4, 0), (4, -4), (0, 4), (0, -4), (-4, 4), (-4, 0), (-4, -4)) for _ in range(2)]
)
"""(dy, dx) of each of 32 shifted channels; other widths sample this list evenly."""
MARGIN = 8


class SkipUpsample(nn.Module):
    """Bilinear doubling, 1x1 convolution, sum with the skip connection."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.Sequential(nn.Identity(), nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, C, H, W), skip (N, D, 2H, 2W) -> (N, D, 2H, 2W)."""
        # A 1x1 convolution commutes with interpolation; applied first it works on a quarter of the pixels.
        return F.interpolate(self.up[1](x), scale_factor=2, mode="bilinear", align_corners=False) + skip


class PixelShuffleUpsample(nn.Module):
    """3x3 convolution and pixel shuffle by 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.upsample_conv = conv3x3(inputs, 4 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, outputs, 2H, 2W)."""
        return F.pixel_shuffle(self.upsample_conv(x), 2)


class ShiftBlock(nn.Module):
    """Four stages that exchange half of the channels with a neighbouring frame and shift them in space."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("encoder_level1", "encoder_level1_1", "encoder_level1_2", "encoder_level1_3"):
            stage = nn.Sequential(GatedFusionBlock(channels, channels // 2, 5), GatedBlock(channels, 5))
            self.add_module(name, stage)

    def forward(self, x: Tensor) -> Tensor:
        """Clip (N, T, C, H, W) -> same shape; the first and last frame are neighbours."""
        clip, half = x.shape[:2], x.shape[2] // 2
        for index in range(self.stages):
            sent = x[:, :, half:] if self.forwards(index) else x[:, :, :half]
            moved = torch.roll(sent, 1 if self.forwards(index) else -1, 1)
            x = self.exchange(index, x.flatten(0, 1), moved.flatten(0, 1)).unflatten(0, clip)
        return x

    @property
    def stages(self) -> int:
        """Exchanges, one after the other."""
        return len(tuple(self.children()))

    @staticmethod
    def forwards(index: int) -> bool:
        """Whether a stage gives each frame the second half of the one before, and not the first half of the next."""
        return index % 2 == 0

    def exchange(self, index: int, x: Tensor, moved: Tensor) -> Tensor:
        """One stage: frames (B, C, H, W) and what their neighbours send them, (B, C/2, H, W) -> (B, C, H, W)."""
        half = x.shape[1] // 2
        y = torch.cat((moved, x[:, :half]) if self.forwards(index) else (x[:, half:], moved), 1)
        stage = tuple(self.children())[index]
        assert isinstance(stage, nn.Sequential)
        result: Tensor = stage[1](stage[0](y, _shift(moved)))
        return result


def _shift(x: Tensor) -> Tensor:
    """Move each channel of (N, C, H, W) by its own (dy, dx), filling with zeros."""
    if torch.is_grad_enabled() and x.requires_grad and not torch.compiler.is_exporting():
        moved: Tensor = _Shift.apply(x, 1)  # type: ignore[no-untyped-call]
        return moved
    return _moved(x, 1)


class _Shift(torch.autograd.Function):
    """Moving, whose adjoint is moving back; autograd alone would write a whole map of zeros for every slice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sign: int) -> Tensor:
        ctx.sign = sign
        return _moved(x, sign)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Shift.apply(gradient, -ctx.sign), None  # type: ignore[no-untyped-call]


def _moved(x: Tensor, sign: int) -> Tensor:
    channels, height, width = x.shape[1:]
    padded = F.pad(x, [MARGIN] * 4)
    table = [SHIFTS[c * len(SHIFTS) // channels] for c in range(channels)]
    parts = []
    start = 0
    for stop in range(1, channels + 1):
        if stop == channels or table[stop] != table[start]:
            top, left = (MARGIN - sign * step for step in table[start])
            parts.append(padded[:, start:stop, top : top + height, left : left + width])
            start = stop
    return torch.cat(parts, 1)
