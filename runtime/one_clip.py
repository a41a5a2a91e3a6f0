"""One clip through a network."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bsst.runtime.network.network import Network

__all__ = ["Flows", "clip_flows", "moving_texture", "restore_clip", "restore_crop"]

Flows = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Backward and forward flow, see `Network.restore`."""


def moving_texture(frames: int, height: int, width: int) -> NDArray[np.float32]:
    """Reproducible clip of a drifting texture with a faster patch in front, (T, 3, H, W) in [0, 1]."""
    rng = np.random.default_rng(0)
    waves = [
        (rng.uniform(-0.3, 0.3, 2), rng.uniform(0, 2 * np.pi, 3), rng.uniform(0.2, 1), rng.uniform(-2, 2, 2))
        for _ in range(16)
    ]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    clip = np.zeros((frames, 3, height, width), np.float32)
    for t in range(frames):
        patch = np.hypot(x - width / 2 - 6 * t, y - height / 2) < min(height, width) / 5
        for (ky, kx), phase, weight, (vy, vx) in waves:
            angle = ky * (y - vy * t) + kx * (x - vx * t - 8 * t * patch)
            clip[t] += weight * np.sin(angle[None] + phase[:, None, None])
    low, high = clip.min(), clip.max()
    return (clip - low) / (high - low)


def restore_clip(network: Network, clip: NDArray[np.float32]) -> NDArray[np.float32]:
    """Flows of the top left area of a clip, then restoration of its top left tile."""
    return restore_crop(network, clip, clip_flows(network, clip))


def restore_crop(network: Network, clip: NDArray[np.float32], flows: Flows) -> NDArray[np.float32]:
    """Restoration of the top left tile of a clip with given flows of that tile."""
    height, width = network.tile
    return network.restore(clip[:, :, :height, :width], *flows)


def clip_flows(network: Network, clip: NDArray[np.float32]) -> Flows:
    """Flows of the top left area of a clip, cut or extended to the top left tile."""
    (flow_h, flow_w), (tile_h, tile_w) = network.flow_size, network.tile
    features = [network.features(frame[:, :flow_h, :flow_w]) for frame in clip]
    pairs = [network.flow(a, b) for a, b in zip(features, features[1:], strict=False)]
    crop = (slice(None), slice(None), slice(tile_h // 4), slice(tile_w // 4))
    backward, forward = (_fit(np.stack(flows), tile_h // 4, tile_w // 4)[crop] for flows in zip(*pairs, strict=True))
    return backward, forward


def _fit(flow: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Repeat the border of a flow that is smaller than the tile."""
    grow = [(0, 0), (0, 0), (0, max(0, height - flow.shape[2])), (0, max(0, width - flow.shape[3]))]
    return np.pad(flow, grow, mode="edge")
