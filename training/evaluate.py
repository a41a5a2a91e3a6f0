"""Gain of the network over its blurry input: flows as found, flows zero, other frames replaced."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bsst.reference.bsstnet import BSSTNet
from bsst.reference.raft import RAFT, quarter_flow

__all__ = ["Example", "example", "frames_of", "gain", "gain_alone", "psnr"]


@dataclass(frozen=True)
class Example:
    """One clip ready for the network: frames (1, T, 3, H, W), flows (1, T-1, 2, H/4, W/4)."""

    name: str
    blurry: Tensor
    sharp: Tensor
    forward: Tensor
    backward: Tensor


def frames_of(video: NDArray[np.uint8]) -> Tensor:
    """(T, H, W, 3) uint8 -> (T, 3, H, W) float32 in [0, 1]."""
    return torch.tensor(video).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def example(name: str, blurry: Tensor, sharp: Tensor, raft: RAFT) -> Example:
    """Compute the flows of a clip (T, 3, H, W)."""
    forward, backward = quarter_flow(raft, blurry)
    return Example(name, blurry[None], sharp[None], forward[None], backward[None])


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """PSNR of each frame in dB at 8-bit precision, images (..., 3, H, W) in [0, 1]; at most 65 dB."""
    difference = a.clamp(0, 1).mul(255).round() - b.mul(255).round()
    error = difference.square().mean(dim=(-3, -2, -1)) / 255**2
    return -10 * torch.log10(error.clamp_min(10**-6.5))


@torch.no_grad()
def gain(net: BSSTNet, clip: Example, *, zero_flow: bool = False, scale: float = 1.0) -> float:
    """Mean over frames of PSNR(output) - PSNR(input) in dB.

    Args:
        net: network, called on the whole clip.
        clip: what to restore.
        zero_flow: replace both flows by zero.
        scale: factor on the residual.
    """
    factor = 0.0 if zero_flow else 1.0
    output = net(clip.blurry, clip.backward * factor, clip.forward * factor)
    output = clip.blurry + scale * (output - clip.blurry)
    return float((psnr(output, clip.sharp) - psnr(clip.blurry, clip.sharp)).mean())


@torch.no_grad()
def gain_alone(net: BSSTNet, clip: Example, *, scale: float = 1.0, step: int = 1) -> float:
    """The gain when every frame is restored from itself alone: all other frames are replaced by copies of it.

    Args:
        net: network, called on a still clip of each frame.
        clip: what to restore.
        scale: factor on the residual.
        step: use every `step`-th frame; 1 = all.
    """
    gains = []
    for t in range(0, clip.blurry.shape[1], step):
        still = clip.blurry[:, t : t + 1].expand(-1, 4, -1, -1, -1)
        flow = torch.zeros_like(clip.forward[:, :1]).expand(-1, 3, -1, -1, -1)
        output = net(still, flow, flow)[:, 1]
        output = clip.blurry[:, t] + scale * (output - clip.blurry[:, t])
        gains.append(psnr(output, clip.sharp[:, t]) - psnr(clip.blurry[:, t], clip.sharp[:, t]))
    return float(torch.stack(gains).mean())
