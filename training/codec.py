"""Marks of compression on clips, on the device: JPEG-like and H.264-like, neither of them a codec.

JPEG-like: 4:2:0, cosine transform of 8x8 blocks, the standard tables (ITU-T T.81, annex K). H.264-like: the same
transform, quantised with a dead zone, of what is left after a prediction from the last decoded frame along the true
flow.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Codec"]

LUMA = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)
CHROMA = "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99 " + "99 " * 32
ROUND_UP = 0.35
"""Coefficients are rounded up from 1 - this."""


class Codec:
    """Constant tables on a device, and what they are for."""

    def __init__(self, device: torch.device) -> None:
        k, n = torch.arange(8.0)[:, None], torch.arange(8.0)[None]
        basis = torch.cos(math.pi * (2 * n + 1) * k / 16) * 0.5
        basis[0] /= math.sqrt(2)
        luma, chroma = (torch.tensor([float(v) for v in s.split()]).view(8, 8) for s in (LUMA, CHROMA))
        self.basis = basis.to(device)
        self.tables = torch.stack([luma, chroma, chroma]).to(device)
        self.to_ycc = torch.tensor(
            [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], device=device
        )
        self.to_rgb = torch.tensor([[1.0, 0.0, 1.402], [1.0, -0.344136, -0.714136], [1.0, 1.772, 0.0]], device=device)

    def jpeg(self, frames: Tensor, quality: Tensor) -> Tensor:
        """Frames (N, 3, H, W) in [0, 1], H and W multiples of 16, `quality` (N,) from 1 to 100 -> same shape."""
        scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality) / 100
        steps = (self.tables * scale[:, None, None, None]).clamp(1, 255)[:, :, None, None]
        ycc = torch.einsum("ij,njhw->nihw", self.to_ycc, frames * 255)
        luma, chroma = ycc[:, :1] - 128, F.avg_pool2d(ycc[:, 1:], 2)

        def through(plane: Tensor, step: Tensor) -> Tensor:
            return self._pixels(torch.round(self._blocks(plane) / step) * step)

        luma = through(luma, steps[:, :1]) + 128
        chroma = F.interpolate(through(chroma, steps[:, 1:]), scale_factor=2, mode="bilinear")
        return (torch.einsum("ij,njhw->nihw", self.to_rgb, torch.cat((luma, chroma), 1)) / 255).clamp(0, 1)

    def predicted(self, clips: Tensor, forward: Tensor, step: Tensor) -> Tensor:
        """Clips (N, T, 3, S, S), each frame coded from the last decoded one.

        Args:
            clips: values in [0, 1], S a multiple of 8.
            forward: flow of frame t + 1 to t, (N, T-1, 2, S/4, S/4), pixels at 1/4 scale.
            step: quantiser in grey levels, (N,).
        """
        size = 255 / step[:, None, None, None, None, None]
        decoded = [torch.full_like(clips[:, 0], 0.5)]
        for t in range(clips.shape[1]):
            guess = decoded[-1]
            if t:
                flow = 4 * F.interpolate(forward[:, t - 1], scale_factor=4, mode="nearest").round()
                guess = _shifted(guess, flow)
            left = self._blocks(clips[:, t] - guess) * size
            coded = torch.sign(left) * torch.floor(left.abs() + ROUND_UP)
            decoded.append((guess + self._pixels(coded / size)).clamp(0, 1))
        return torch.stack(decoded[1:], 1)

    def _blocks(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> coefficients (N, C, H/8, W/8, 8, 8)."""
        n, c, h, w = x.shape
        tiles = x.reshape(n, c, h // 8, 8, w // 8, 8).permute(0, 1, 2, 4, 3, 5)
        return self.basis @ tiles @ self.basis.T

    def _pixels(self, coefficients: Tensor) -> Tensor:
        n, c, h, w = coefficients.shape[:4]
        tiles = self.basis.T @ coefficients @ self.basis
        return tiles.permute(0, 1, 2, 4, 3, 5).reshape(n, c, 8 * h, 8 * w)


def _shifted(x: Tensor, flow: Tensor) -> Tensor:
    """Backward warp of (N, C, H, W) by a flow in whole pixels, border repeated."""
    h, w = x.shape[2:]
    rows = torch.arange(h, device=x.device)[:, None] + flow[:, 1]
    columns = torch.arange(w, device=x.device) + flow[:, 0]
    grid = torch.stack(((2 * columns + 1) / w - 1, (2 * rows + 1) / h - 1), -1)
    return F.grid_sample(x, grid, mode="nearest", padding_mode="border", align_corners=False)
