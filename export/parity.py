"""Comparison of exported stages with the reference, on the tensors that really reach them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bsst.engines.manifest import Manifest
from bsst.errors import ExportError
from bsst.runtime.network import Network
from bsst.runtime.session import Array, Session

if TYPE_CHECKING:  # torch is needed by `measure_parity` alone
    from bsst.export.stage import Stage

__all__ = ["MINIMUM_PSNR", "measure_parity", "moving_texture", "psnr", "restore_clip"]

MINIMUM_PSNR = {"fp32": 80.0}
"""Decibels below which an export is refused, by precision."""


def measure_parity(
    manifest: Manifest,
    stages: tuple[Stage, ...],
    sessions: Mapping[str, Session],
    clip: NDArray[np.float32],
) -> dict[str, Any]:
    """Run one clip through the reference and through the exported stages.

    Args:
        manifest: sizes and tensors of the stages.
        stages: reference of each stage.
        sessions: exported form of each stage.
        clip: (T, 3, H, W) float32 in [0, 1]; H and W cover both the tile and the flow size.

    Returns:
        `stages`: PSNR in dB of each stage fed with the reference's own inputs, peak = largest reference value;
        `clip`: PSNR of the restored clip, peak 1, all stages exported.

    Raises:
        ExportError: a figure is below `MINIMUM_PSNR`, or integer tables differ.
    """
    from bsst.export.session_torch import TorchSession

    truth = {stage.name: TorchSession(stage) for stage in stages}
    expected = restore_clip(Network(manifest, truth), clip)
    figures = {}
    for name, session in sessions.items():
        outputs: dict[str, Array] = {key: np.zeros_like(value) for key, value in truth[name].last_outputs.items()}
        session.run(truth[name].last_inputs, outputs)
        figures[name] = min(_agreement(name, truth[name].last_outputs[key], outputs[key]) for key in outputs)
    got = restore_clip(Network(manifest, sessions), clip)
    result = {"stages": figures, "clip": psnr(expected, got, 1.0)}
    minimum = MINIMUM_PSNR.get(manifest.precision, 0.0)
    for name, figure in (*figures.items(), ("the whole clip", result["clip"])):
        if not figure >= minimum:
            raise ExportError(
                f"{name}: expected at least {minimum} dB against the reference, got {figure:.1f} dB; "
                "report this with the checkpoint's name"
            )
    return result


def psnr(expected: Array, got: Array, peak: float) -> float:
    """Peak signal-to-noise ratio in dB, at most 200; NaN if either side is not finite."""
    error = float(np.mean(np.square(expected.astype(np.float64) - got)))
    return 10 * float(np.log10(peak**2 / max(error, peak**2 * 1e-20)))


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
    (flow_h, flow_w), (tile_h, tile_w) = network.flow_size, network.tile
    features = [network.features(frame[:, :flow_h, :flow_w]) for frame in clip]
    pairs = [network.flow(a, b) for a, b in zip(features, features[1:], strict=False)]
    crop = (slice(None), slice(None), slice(tile_h // 4), slice(tile_w // 4))
    backward, forward = (_fit(np.stack(flows), tile_h // 4, tile_w // 4)[crop] for flows in zip(*pairs, strict=True))
    return network.restore(clip[:, :, :tile_h, :tile_w], backward, forward)


def _fit(flow: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Repeat the border of a flow that is smaller than the tile."""
    grow = [(0, 0), (0, 0), (0, max(0, height - flow.shape[2])), (0, max(0, width - flow.shape[3]))]
    return np.pad(flow, grow, mode="edge")


def _agreement(stage: str, expected: Array, got: Array) -> float:
    if np.issubdtype(expected.dtype, np.integer):
        if not np.array_equal(expected, got):
            raise ExportError(
                f"stage {stage}: expected identical integer tables, got {np.count_nonzero(expected != got)} of "
                f"{expected.size} entries different; report this with the checkpoint's name"
            )
        return 200.0
    return psnr(expected, got, float(np.abs(expected).max()) or 1.0)
