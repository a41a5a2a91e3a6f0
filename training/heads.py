"""Linear read-outs that tie features to the blur while the network is young."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsst.reference.raft import halve
from bsst.training.batch import Batch

__all__ = ["Heads"]

FLOOR = 5e-5
"""Added to the mean squared error inside the logarithm: frames better than 43 dB count less and less."""


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
        return torch.stack([_log_error(e) for e in self._errors(features, batch)]).mean()

    def _errors(self, features: list[Tensor], batch: Batch) -> list[Tensor]:
        target = _residual(batch)
        return [h(f.flatten(0, 1)).float() - target for h, f in zip(self.heads, features, strict=True)]


def _residual(batch: Batch) -> Tensor:
    return F.pixel_unshuffle(halve((batch.sharp - batch.blurry).flatten(0, 1)), 2)


def _log_error(error: Tensor) -> Tensor:
    """Mean over frames of log(mean squared error + FLOOR); `error` is (frames, C, H, W)."""
    return torch.log(error.square().mean(dim=(1, 2, 3)) + FLOOR).mean()
