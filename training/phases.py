"""Forward pass and losses of the phases of training."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsst.reference.blur import branch_motion
from bsst.reference.bsstnet import BSSTNet, direction_of
from bsst.reference.raft import halve
from bsst.training.batches import Batch

__all__ = ["Heads", "Phase", "log_error", "losses", "run_stages"]

FLOOR = 5e-5
"""Added to the mean squared error inside the logarithm: frames better than 43 dB count less and less."""

Phase = Literal["align", "lean", "full"]


def run_stages(net: BSSTNet, batch: Batch, phase: Phase) -> tuple[Tensor, list[Tensor]]:
    """Forward pass of a phase.

    Returns:
        Restored clip (N, T, 3, H, W), the blurry one in the align phase, and the features [encoder, branches ...,
        reconstruction], each (N, T, C, h, w).
    """
    clip = batch.blurry.shape[:2]
    skip, half, quarter = net.encode(batch.blurry.flatten(0, 1))
    blur, backward, forward = net.refine(batch.backward, batch.forward)
    features = [quarter.unflatten(0, clip)]
    for branch in net.config.branches:
        motion = branch_motion(1 - blur, backward, forward, direction_of(branch), net.config.flow_limit)
        features.append(net.propagate(branch, features, motion))
    reconstruction = net.fuse(torch.cat(features, 2))
    features.append(reconstruction)
    if phase == "align":
        return batch.blurry, features
    if phase == "full":
        attended = torch.stack([net.attend(x, s) for x, s in zip(reconstruction, net.select(blur), strict=True)])
        decoded = net.decode(reconstruction, attended, half.unflatten(0, clip))
    else:
        decoded = net.decode(reconstruction, torch.zeros_like(reconstruction), half.unflatten(0, clip))
    moving = net.moving(backward, forward)
    moving = None if moving is None else moving.flatten(0, 1)
    restored = net.restore(decoded.flatten(0, 1), skip, batch.blurry.flatten(0, 1), moving).unflatten(0, clip)
    return restored, features


def losses(
    net: BSSTNet, heads: Heads, batch: Batch, phase: Phase, auxiliary: float
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """What a phase minimises, with `auxiliary` times the heads' loss in the lean phase.

    Returns:
        Total, logarithmic error of the restored clip, features of `run_stages`.
    """
    restored, features = run_stages(net, batch, phase)
    loss = log_error((restored.float() - batch.sharp).flatten(0, 1))
    if phase == "align":
        return heads.loss(features[1:], batch), loss, features
    if phase == "lean":
        return loss + auxiliary * heads.loss(features[1:], batch), loss, features
    return loss, loss, features


class Heads(nn.Module):
    """Linear read-out of the blur's residual at 1/2 scale from features at 1/4 scale; used in training only.

    They start at zero: from random weights the quickest way to a small residual is to shrink all features.
    """

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(channels, 12, 1) for _ in range(count))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def loss(self, features: list[Tensor], batch: Batch) -> Tensor:
        """Mean over the heads of the logarithmic error of sharp - blurry."""
        return torch.stack([log_error(e) for e in self._errors(features, batch)]).mean()

    @torch.no_grad()
    def gain(self, features: list[Tensor], batch: Batch) -> float:
        """Gain of the last head in dB over a residual of zero."""
        error = self._errors(features, batch)[-1].square().mean(dim=(1, 2, 3))
        return float((10 * torch.log10((_residual(batch).square().mean(dim=(1, 2, 3)) + 1e-6) / (error + 1e-6))).mean())

    def _errors(self, features: list[Tensor], batch: Batch) -> list[Tensor]:
        target = _residual(batch)
        return [h(f.flatten(0, 1)).float() - target for h, f in zip(self.heads, features, strict=True)]


def _residual(batch: Batch) -> Tensor:
    return F.pixel_unshuffle(halve((batch.sharp - batch.blurry).flatten(0, 1)), 2)


def log_error(error: Tensor) -> Tensor:
    """Mean over frames of log(mean squared error + FLOOR); `error` is (frames, C, H, W)."""
    return torch.log(error.square().mean(dim=(1, 2, 3)) + FLOOR).mean()
