"""Blurred clips with exact flow, rendered on the device from a bank of photographs.

The same world as `bsst.training.simulate` (layers under smooth similarity paths, sub-frames averaged in linear light,
the middle one is the truth), written so that a CUDA graph can hold it: every random choice is a tensor, every
alternative is computed and chosen by `where`, and sub-frames are a loop of equal kernels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bsst.training.codec import Codec
from bsst.training.simulate import GAMMA

__all__ = ["Bank", "Clips", "render"]

LAYERS = 3
BLOB = 64
SUBFRAMES = 25
SPEEDS = ((0.05, 2.0), (1.5, 9.0), (4.0, 40.0))
"""Camera speed in pixels per frame of nearly sharp, mildly and heavily blurred clips."""
SHARES = (0.1, 0.35)
"""Of nearly sharp and of mildly blurred clips; the rest is heavy."""
PLACES = 3
"""Places in a photograph that are compared: flat ones teach little."""
BRIEF, ENLARGED = 0.15, 0.2
"""Shares of clips with a short exposure, and of enlarged, smooth pictures that no motion has blurred."""


@dataclass(frozen=True)
class Clips:
    """`blurry`, `sharp`: (N, T, 3, S, S) in [0, 1]; exact flows (N, T-1, 2, S/4, S/4), pixels at 1/4 scale."""

    blurry: Tensor
    sharp: Tensor
    forward: Tensor
    backward: Tensor


class Bank:
    """Photographs of one size in linear light, float16 on their device: `linear` (P, 3, H, W).

    `detail` (P, H/16, W/16) is how much of it there is around a place.

    Args:
        photographs: uint8 (P, 3, H, W).
    """

    def __init__(self, photographs: Tensor) -> None:
        device = photographs.device
        table = (torch.arange(256, device=device, dtype=torch.float32) / 255).pow(GAMMA).half()
        self.linear = torch.cat([table[p.int()][None] for p in photographs])
        self.detail = torch.cat([_detail(p) for p in self.linear])
        # Constants wait here: a copy from the host cannot be captured.
        height, width = photographs.shape[2:]
        self.normal = torch.tensor((2 / width, 2 / height), device=device)
        self.kinds = torch.tensor(SHARES, device=device).cumsum(0)
        self.speeds = torch.tensor(SPEEDS, device=device).log()


def render(bank: Bank, codec: Codec, clips: int, frames: int, size: int) -> Clips:
    """Render a batch of clips of `size` x `size`, a multiple of 16."""
    device = bank.linear.device
    middle = SUBFRAMES // 2

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(clips, *shape, device=device)

    kind = torch.bucketize(torch.rand(clips, device=device), bank.kinds)
    low, high = bank.speeds[kind].unbind(1)
    speed = torch.lerp(low, high, torch.rand(clips, device=device)).exp()
    brief = (torch.rand(clips, device=device) < BRIEF) | ((kind == 0) & (torch.rand(clips, device=device) < 0.5))
    duty = torch.where(brief, uniform(0.02, 0.3), uniform(0.35, 0.95))

    steps = (torch.arange(SUBFRAMES, device=device) - middle) / SUBFRAMES
    times = torch.arange(frames, device=device)[:, None] + 0.5 + duty[:, None, None] * steps  # (N, T, sub)
    camera = _path(times, speed)
    paths = [camera]
    for _ in range(LAYERS - 1):
        own = torch.lerp((0.3 * speed).log(), (1.2 * speed + 1).log(), torch.rand(clips, device=device)).exp()
        paths.append(_compose(camera, _path(times, own)))
    present = torch.rand(clips, LAYERS - 1, device=device) < 0.45
    enlarged = torch.where(torch.rand(clips, device=device) < ENLARGED, uniform(0, math.log(6)).exp(), 1.0)

    count = len(bank.linear)
    pictures, starts, zooms = [], [], []
    blobs: list[Tensor | None] = []
    for index in range(LAYERS):
        picture = torch.randint(count, (clips,), device=device)
        pictures.append(bank.linear.index_select(0, picture).float())
        starts.append(_textured(bank, picture, uniform(-0.38, 0.38, PLACES, 2)))
        mirrored = torch.where(torch.rand(clips, device=device) < 0.5, -1.0, 1.0)
        zooms.append(uniform(0.9, 1.5) / enlarged * mirrored)
        blobs.append(_blob(clips, size, device) * present[:, index - 1, None, None, None] if index else None)

    axis = torch.arange(size, device=device) - (size - 1) / 2
    grid = torch.stack((axis[None, :].expand(size, size), axis[:, None].expand(size, size)), -1)  # x, y

    def where(index: int, s: int) -> Tensor:
        """Positions (N, T, S, S, 2) of output pixels in a layer."""
        a, b, x, y = (paths[index][..., s, i, None, None] for i in range(4))
        gx, gy = grid.unbind(-1)
        return torch.stack((a * gx - b * gy + x, b * gx + a * gy + y), -1)

    def coverage(index: int, at: Tensor) -> Tensor:
        """(N, 1, T * S, S)."""
        blob = blobs[index]
        assert blob is not None
        return F.grid_sample(blob, at.flatten(1, 2) / (1.5 * size), padding_mode="zeros", align_corners=False)

    total = middle_image = None
    for s in range(SUBFRAMES):
        image = None
        for index in range(LAYERS):
            at = where(index, s)
            flip = torch.stack((zooms[index], zooms[index].abs()), 1)[:, None, None, None]
            texture = (at * flip + starts[index][:, None, None, None]) * bank.normal
            colour = F.grid_sample(
                pictures[index], texture.flatten(1, 2), padding_mode="reflection", align_corners=False
            )
            image = colour if image is None else torch.lerp(image, colour, coverage(index, at))
        assert image is not None
        total = image if total is None else total + image
        middle_image = image if s == middle else middle_image
    assert total is not None
    assert middle_image is not None
    gain = uniform(0.6, 1.3)[:, None, None, None]

    def display(linear: Tensor) -> Tensor:
        shown = (linear * gain).clamp(1e-6, 1).pow(1 / GAMMA)
        return shown.unflatten(2, (frames, size)).permute(0, 2, 1, 3, 4)

    sharp, blurry = display(middle_image), display(total / SUBFRAMES)
    positions = [where(index, middle) for index in range(LAYERS)]
    over = [coverage(i, p).unflatten(2, (frames, size))[:, 0] if i else None for i, p in enumerate(positions)]
    forward, backward = _flows(paths, positions, over, grid, middle)

    noise = uniform(0, 0.010)[:, None, None, None, None] * (torch.rand(clips, 1, 1, 1, 1, device=device) < 0.5)
    blurry = (blurry + noise * torch.randn_like(blurry)).clamp(0, 1)
    still = codec.jpeg(blurry.flatten(0, 1), uniform(70, 96).repeat_interleave(frames, output_size=clips * frames))
    moving = codec.predicted(blurry, forward, uniform(math.log(2), math.log(14)).exp())
    choice = torch.rand(clips, 1, 1, 1, 1, device=device)
    blurry = torch.where(choice < 0.25, still.unflatten(0, (clips, frames)), blurry)
    blurry = torch.where(choice > 0.75, moving, blurry)
    return Clips((blurry * 255).round() / 255, (sharp * 255).round() / 255, forward, backward)


def _detail(linear: Tensor) -> Tensor:
    """Picture (3, H, W) in linear light -> mean steps around each place, (1, H/16, W/16)."""
    shown = linear[None, 1:2].float().sqrt()
    steps = F.pad(shown.diff(dim=2).abs(), (0, 0, 0, 1)) + F.pad(shown.diff(dim=3).abs(), (0, 1))
    return F.avg_pool2d(F.avg_pool2d(steps, 16), 7, 1, 3, count_include_pad=False)[0]


def _textured(bank: Bank, picture: Tensor, places: Tensor) -> Tensor:
    """Of places (N, PLACES, 2), x and y as shares of the picture from its centre, the most detailed one in pixels."""
    height, width = bank.detail.shape[1:]
    column, row = ((places[..., 0] + 0.5) * width).long(), ((places[..., 1] + 0.5) * height).long()
    best = bank.detail[picture[:, None], row, column].argmax(1)
    return places[torch.arange(len(places), device=places.device), best] * 2 / bank.normal


def _path(times: Tensor, speed: Tensor) -> Tensor:
    """Similarity transforms over `times` (N, T, sub) as (scale cos, scale sin, x, y): (N, T, sub, 4)."""
    n, device = len(speed), times.device
    speed = speed[:, None, None]

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, *shape, device=device)

    heading, drift = draw(0, 2 * math.pi), draw(0, 1)
    x, y = times * torch.cos(heading) * speed * drift, times * torch.sin(heading) * speed * drift
    angle, zoom = torch.zeros_like(times), torch.zeros_like(times)
    for _ in range(3):
        frequency = draw(0.06, 0.5)
        phase = draw(0, 2 * math.pi, 4)
        turn = 2 * math.pi * frequency[..., None]
        wave = torch.sin(turn * times[..., None] + phase) / turn
        reach = speed * (1.2 - drift)
        x, y = x + wave[..., 0] * reach * draw(0.2, 1), y + wave[..., 1] * reach * draw(0.2, 1)
        angle = angle + wave[..., 2] * speed.clamp_max(12) * draw(0, 0.0012)
        zoom = zoom + wave[..., 3] * speed.clamp_max(12) * draw(0, 0.0010)
    scale = torch.exp(zoom)
    x, y = x - x.mean((1, 2), keepdim=True), y - y.mean((1, 2), keepdim=True)
    return torch.stack((scale * torch.cos(angle), scale * torch.sin(angle), x, y), -1)


def _compose(p: Tensor, q: Tensor) -> Tensor:
    """Transform p after q."""
    a, b, x, y = p.unbind(-1)
    c, d, u, v = q.unbind(-1)
    return torch.stack((a * c - b * d, a * d + b * c, a * u - b * v + x, b * u + a * v + y), -1)


def _blob(clips: int, size: int, device: torch.device) -> Tensor:
    """Coverage textures (N, 1, BLOB, BLOB): ellipses with a noisy edge on a square of three frame sides."""
    axis = torch.linspace(-1.5, 1.5, BLOB, device=device)
    centre = torch.rand(clips, 2, device=device) * 0.6 - 0.3
    radius = 0.12 + 0.28 * torch.rand(clips, 2, device=device)
    x = (axis[None, None, :] - centre[:, 0, None, None]) / radius[:, 0, None, None]
    y = (axis[None, :, None] - centre[:, 1, None, None]) / radius[:, 1, None, None]
    bumps = F.interpolate(torch.randn(clips, 1, 8, 8, device=device), size=(BLOB, BLOB), mode="bilinear")
    return ((1 - torch.hypot(x, y) + 0.25 * bumps[:, 0]) * size / 12).clamp(0, 1)[:, None]


def _flows(
    paths: list[Tensor], positions: list[Tensor], over: list[Tensor | None], grid: Tensor, middle: int
) -> tuple[Tensor, Tensor]:
    """Exact flow of the topmost layer between middle sub-frames, mean of 4x4: (forward, backward)."""

    def flow(source: slice, target: slice) -> Tensor:
        result: Tensor | None = None
        for index, layer in enumerate(paths):
            a, b, x, y = (layer[:, target, middle, i, None, None] for i in range(4))
            px, py = positions[index][:, source, ..., 0] - x, positions[index][:, source, ..., 1] - y
            norm = a * a + b * b
            moved = torch.stack(((a * px + b * py) / norm - grid[..., 0], (a * py - b * px) / norm - grid[..., 1]), 2)
            covered = over[index]
            if covered is None:
                result = moved
            else:
                assert result is not None
                result = torch.where(covered[:, source, None] > 0.5, moved, result)
        assert result is not None
        return F.avg_pool2d(result.flatten(0, 1), 4).unflatten(0, result.shape[:2]) / 4

    return flow(slice(1, None), slice(None, -1)), flow(slice(None, -1), slice(1, None))
