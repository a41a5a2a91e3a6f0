"""Clips as bytes on the device, and random batches of them without a word from the host."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from bsst.training.batch import Batch

__all__ = ["Pool"]

RECOLOURED = 0.3


@dataclass
class Pool:
    """Clips of one size; the first `real` of them stay, the others are overwritten in turn."""

    blurry: Tensor
    """(count, T, 3, S, S) uint8."""
    sharp: Tensor
    forward: Tensor
    """Flow that the flow network finds, (count, T-1, 2, S/4, S/4) float16."""
    backward: Tensor
    exact_forward: Tensor
    """Exact flow, the same shape; zeros for real clips."""
    exact_backward: Tensor
    real: int
    place: Tensor
    """(at once,) int64: where the next clips go."""

    @staticmethod
    def empty(size: int, real: int, frames: int, side: int, at_once: int, device: torch.device) -> Pool:
        """Space for `size` clips, written `at_once` at a time."""
        blurry, sharp = (torch.zeros(size, frames, 3, side, side, dtype=torch.uint8, device=device) for _ in range(2))
        small = (size, frames - 1, 2, side // 4, side // 4)
        forward, backward, exact_forward, exact_backward = (
            torch.zeros(small, dtype=torch.float16, device=device) for _ in range(4)
        )
        place = real + torch.arange(at_once, device=device)
        return Pool(blurry, sharp, forward, backward, exact_forward, exact_backward, real, place)

    def put(self, at: Tensor, **tensors: Tensor) -> None:
        """Write clips in [0, 1] and flows, by field name, at the given places."""
        for name, tensor in tensors.items():
            field: Tensor = getattr(self, name)
            image = field.dtype == torch.uint8
            field.index_copy_(0, at, (tensor * 255).round().to(torch.uint8) if image else tensor.half())

    def advance(self) -> None:
        """Move on to the next places of simulated clips."""
        self.place.sub_(self.real - len(self.place)).remainder_(len(self.blurry) - self.real).add_(self.real)

    def draw(self, clips: int, frames: int, crop: int, real_share: Tensor | None = None) -> Batch:
        """Random clips, places, mirrors, transposition, direction of time and order of colours.

        Args:
            clips: N.
            frames: clip length of the batch.
            crop: height and width of the batch, a multiple of 4.
            real_share: share of real clips, with found flows, (); by default simulated clips with exact flows alone.
        """
        count, t, _, side, _ = self.blurry.shape
        device = self.blurry.device

        def number(below: int) -> Tensor:
            return torch.randint(below, (clips,), device=device)

        def coin() -> Tensor:
            return torch.rand(clips, device=device) < 0.5

        which = self.real + number(count - self.real)
        if real_share is not None:
            which = torch.where(torch.rand(clips, device=device) < real_share, number(max(self.real, 1)), which)
        start, top, left = number(t - frames + 1), number((side - crop) // 4 + 1), number((side - crop) // 4 + 1)
        upside, mirrored, turned, reverse = coin(), coin(), coin(), coin()
        plain = torch.arange(3, device=device)
        colours = (plain * (1 + number(2))[:, None] + number(3)[:, None]) % 3  # all six orders
        colours = torch.where(torch.rand(clips, 1, device=device) < RECOLOURED, colours, plain)

        def along(first: Tensor, length: int, flipped: Tensor) -> Tensor:
            i = torch.arange(length, device=device)
            return first[:, None] + torch.where(flipped[:, None], length - 1 - i, i)

        def cut(x: Tensor, length: int, channels: Tensor, scale: int) -> Tensor:
            n = crop // scale
            index = (
                which[:, None, None, None, None],
                along(start, length, reverse)[:, :, None, None, None],
                channels[:, None, :, None, None],
                along(top * 4 // scale, n, upside)[:, None, None, :, None],
                along(left * 4 // scale, n, mirrored)[:, None, None, None, :],
            )
            part = x[index].float()
            return torch.where(turned[:, None, None, None, None], part.transpose(3, 4), part)

        blurry, sharp = (cut(x, frames, colours, 1) / 255 for x in (self.blurry, self.sharp))
        axes = torch.arange(2, device=device)
        axes = torch.where(turned[:, None], 1 - axes, axes)
        sign = torch.stack((torch.where(mirrored, -1.0, 1.0), torch.where(upside, -1.0, 1.0)), 1)
        sign = torch.where(turned[:, None], sign.flip(1), sign)[:, None, :, None, None]
        flows = (self.forward, self.backward) if real_share is not None else (self.exact_forward, self.exact_backward)
        forward, backward = (cut(x, frames - 1, axes, 4) * sign for x in flows)
        swap = reverse[:, None, None, None, None]
        return Batch(blurry, sharp, torch.where(swap, backward, forward), torch.where(swap, forward, backward))

    def nbytes(self) -> int:
        """Device memory that the clips take."""
        return sum(t.nbytes for f in fields(self) if isinstance(t := getattr(self, f.name), Tensor))
