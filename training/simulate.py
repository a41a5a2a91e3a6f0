"""Simulated exposures: moving photographs averaged in linear light, with exact optical flow.

One or more layers move over a background; every layer is a photograph under a smooth similarity transform.
A frame is the average of sub-frames over its exposure; its ground truth is the middle sub-frame. All paths are
known, so the flow between middle sub-frames is exact except where a layer covers another one.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

__all__ = ["SPEED", "Clip", "Kind", "linear_light", "simulate", "to_bytes"]

Kind = Literal["heavy", "mild", "sharp"]
GAMMA = 2.2
SPEED = {"heavy": (5.0, 26.0), "mild": (1.5, 8.0), "sharp": (0.05, 2.0)}
"""Range of the camera's typical speed in pixels per frame."""


@dataclass(frozen=True)
class Clip:
    """A blurry clip, its ground truth and, when simulated, the exact flow.

    `blurry`, `sharp`: (T, H, W, 3) uint8 RGB. `forward` (frame t+1 -> t), `backward` (frame t -> t+1):
    (T-1, 2, H/4, W/4) float16 in pixels at 1/4 scale.
    """

    blurry: NDArray[np.uint8]
    sharp: NDArray[np.uint8]
    forward: NDArray[np.float16]
    backward: NDArray[np.float16]


def linear_light(picture: NDArray[np.uint8]) -> Tensor:
    """Display values (H, W, 3) uint8 -> linear light (3, H, W) float32 in [0, 1]."""
    return torch.tensor(picture).permute(2, 0, 1).float().div(255).pow(GAMMA)


def to_bytes(linear: Tensor, noise: Tensor | None = None) -> NDArray[np.uint8]:
    """Linear light (T, 3, H, W) -> display values (T, H, W, 3) uint8, with `noise` added in display values."""
    display = linear.clamp(0, 1).pow(1 / GAMMA)
    display = display if noise is None else display + noise
    return display.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def simulate(
    pictures: list[Tensor],
    rng: np.random.Generator,
    kind: Kind,
    *,
    frames: int,
    size: int,
) -> Clip:
    """Render one clip.

    Args:
        pictures: linear-light photographs (3, H, W), at least 200 pixels on each side.
        rng: source of every random choice.
        kind: how much blur.
        frames: clip length T.
        size: height and width, a multiple of 16.
    """
    speed = float(np.exp(rng.uniform(*np.log(SPEED[kind]))))
    duty = rng.uniform(0.02, 0.2) if kind == "sharp" and rng.random() < 0.5 else rng.uniform(0.35, 0.95)
    subframes = int(np.clip(2 * round(0.6 * speed * duty) + 5, 7, 27)) | 1
    middle = np.arange(frames) + 0.5
    times = (middle[:, None] + duty * (np.arange(subframes) - subframes // 2) / subframes).ravel()

    camera = _path(rng, times, speed)
    layers = [_Layer(pictures, rng, camera, size, background=True)]
    for _ in range(rng.choice(3, p=[0.35, 0.4, 0.25])):
        own = camera @ _path(rng, times, float(np.exp(rng.uniform(*np.log((0.3 * speed, 1.2 * speed + 1))))))
        layers.append(_Layer(pictures, rng, own, size, background=False))

    image = torch.zeros(len(times), 3, size, size)
    for layer in layers:
        colour, mask = layer.render()
        image = torch.lerp(image, colour, mask)
    image = (image * rng.uniform(0.6, 1.3)).clamp(0, 1)
    exposures = image.view(frames, subframes, 3, size, size)
    sharp, blurry = exposures[:, subframes // 2], exposures.mean(dim=1)

    centre = np.arange(frames) * subframes + subframes // 2
    forward = _flow(layers, centre[1:], centre[:-1])
    backward = _flow(layers, centre[:-1], centre[1:])
    noise = None
    if rng.random() < 0.5:
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        noise = torch.randn(blurry.shape, generator=generator) * rng.uniform(0, 0.010)
    degraded = to_bytes(blurry, noise)
    if rng.random() < 0.35:
        degraded = _jpeg(degraded, int(rng.integers(75, 96)))
    return Clip(degraded, to_bytes(sharp), forward, backward)


class _Layer:
    """A photograph under (times, 3, 3) transforms from output pixels (centred) to picture pixels (centred)."""

    def __init__(
        self,
        pictures: list[Tensor],
        rng: np.random.Generator,
        path: NDArray[np.float64],
        size: int,
        *,
        background: bool,
    ) -> None:
        self.picture = pictures[rng.integers(len(pictures))]
        self.path, self.size = path, size
        if rng.random() < 0.5:
            self.picture = self.picture.flip(2)
        self.start = _textured(self.picture, rng, size // 2)
        self.zoom = rng.uniform(1.0, 1.5)
        self.blob = None if background else _blob(rng, size)

    def render(self) -> tuple[Tensor, Tensor]:
        """Colour (times, 3, size, size) and coverage (times, 1, size, size)."""
        where = self._positions()
        h, w = self.picture.shape[1:]
        grid = (where * self.zoom + torch.tensor(self.start).float()) * torch.tensor([2 / w, 2 / h])
        picture = self.picture.expand(len(grid), -1, -1, -1)
        colour = F.grid_sample(picture, grid, padding_mode="reflection", align_corners=False)
        return colour, self._coverage(where)

    def coverage(self, index: NDArray[np.int64]) -> Tensor:
        return self._coverage(self._positions(index))

    def _positions(self, index: NDArray[np.int64] | None = None) -> Tensor:
        path = torch.from_numpy(self.path if index is None else self.path[index]).float()
        return _pixels(self.size) @ path[:, None, :2, :2].transpose(2, 3) + path[:, None, None, :2, 2]

    def _coverage(self, where: Tensor) -> Tensor:
        if self.blob is None:
            return torch.ones(len(where), 1, 1, 1).expand(-1, -1, self.size, self.size)
        blob = self.blob.expand(len(where), -1, -1, -1)
        return F.grid_sample(blob, where / (1.5 * self.size), padding_mode="zeros", align_corners=False)


def _textured(picture: Tensor, rng: np.random.Generator, reach: int) -> NDArray[np.float64]:
    """Of four random places, the one with the most detail around it; x, y from the picture's centre."""
    h, w = picture.shape[1:]
    places = rng.uniform(-0.38, 0.38, size=(4, 2)) * (w, h)
    detail = []
    for x, y in places + (w / 2, h / 2):
        patch = picture[1, max(int(y) - reach, 0) : int(y) + reach, max(int(x) - reach, 0) : int(x) + reach].sqrt()
        detail.append(float(patch.diff(dim=1).abs().mean() + patch.diff(dim=0).abs().mean()))
    return np.asarray(places[int(np.argmax(detail))])


def _pixels(size: int) -> Tensor:
    axis = torch.arange(size).float() - (size - 1) / 2
    return torch.stack([axis[None, :].expand(size, size), axis[:, None].expand(size, size)], dim=-1)


def _path(rng: np.random.Generator, times: NDArray[np.float64], speed: float) -> NDArray[np.float64]:
    """Smooth similarity transforms (times, 3, 3): drift plus sinusoidal shake, rotation and zoom."""
    heading = rng.uniform(0, 2 * np.pi)
    drift = rng.uniform(0, 1)
    position = np.outer(times, [np.cos(heading), np.sin(heading)]) * speed * drift
    angle, zoom = np.zeros_like(times), np.zeros_like(times)
    for _ in range(3):
        frequency, phase = rng.uniform(0.06, 0.5), rng.uniform(0, 2 * np.pi, size=4)
        wave = np.sin(2 * np.pi * frequency * times[:, None] + phase) / (2 * np.pi * frequency)
        position += wave[:, :2] * speed * (1.2 - drift) * rng.uniform(0.2, 1.0, size=2)
        angle += wave[:, 2] * min(speed, 12) * rng.uniform(0, 0.0012)
        zoom += wave[:, 3] * min(speed, 12) * rng.uniform(0, 0.0010)
    scale = np.exp(zoom)
    path = np.zeros((len(times), 3, 3))
    path[:, 0, 0] = path[:, 1, 1] = scale * np.cos(angle)
    path[:, 1, 0] = scale * np.sin(angle)
    path[:, 0, 1] = -path[:, 1, 0]
    path[:, :2, 2] = position - position.mean(axis=0)
    path[:, 2, 2] = 1
    return path


def _blob(rng: np.random.Generator, size: int) -> Tensor:
    """Coverage of a layer on a square of three frame sides: a noise-perturbed ellipse with a narrow soft edge."""
    n = 192
    axis = np.linspace(-1.5, 1.5, n)
    x, y = axis[None, :], axis[:, None]
    cx, cy, rx, ry = *rng.uniform(-0.3, 0.3, size=2), *rng.uniform(0.12, 0.40, size=2)
    bumps = F.interpolate(torch.from_numpy(rng.standard_normal((1, 1, 12, 12))), size=(n, n), mode="bicubic")
    level = 1 - np.hypot((x - cx) / rx, (y - cy) / ry) + 0.25 * bumps[0, 0].numpy()
    return torch.from_numpy(np.clip(level * size / 12, 0, 1)).float()[None, None]


def _flow(layers: list[_Layer], source: NDArray[np.int64], target: NDArray[np.int64]) -> NDArray[np.float16]:
    """Flow of the topmost layer from sub-frames `source` to `target`, averaged to 1/4 scale."""
    size = layers[0].size
    pixels = _pixels(size)
    flow = torch.zeros(len(source), size, size, 2)
    for layer in layers:
        back = torch.from_numpy(np.linalg.inv(layer.path[target])).float()
        where = layer._positions(source)
        moved = where @ back[:, None, :2, :2].transpose(2, 3) + back[:, None, None, :2, 2]
        flow = torch.where(layer.coverage(source).permute(0, 2, 3, 1) > 0.5, moved - pixels, flow)
    return (F.avg_pool2d(flow.permute(0, 3, 1, 2), 4) / 4).numpy().astype(np.float16)


def _jpeg(frames: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    decoded = []
    for frame in frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
        decoded.append(np.asarray(Image.open(buffer)))
    return np.stack(decoded)
