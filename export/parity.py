"""Comparison of exported stages with the reference, on the tensors that really reach them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bsst.errors import ExportError
from bsst.plan.manifest import Manifest
from bsst.runtime.devices.base import Array
from bsst.runtime.devices.host import HostSession
from bsst.runtime.metrics import float_psnr
from bsst.runtime.network.network import host_network
from bsst.runtime.one_clip import restore_clip

if TYPE_CHECKING:  # torch is needed by `measure_parity` alone
    from bsst.export.stage import Stage

__all__ = ["MINIMUM_PSNR", "measure_parity"]

MINIMUM_PSNR = {"fp32": 80.0}
"""Decibels below which an export is refused, by precision."""


def measure_parity(
    manifest: Manifest,
    stages: tuple[Stage, ...],
    sessions: Mapping[str, HostSession],
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
    expected = restore_clip(host_network(manifest, truth), clip)
    figures: dict[str, float] = {}
    for name, session in sessions.items():
        outputs: dict[str, Array] = {key: np.zeros_like(value) for key, value in truth[name].last_outputs.items()}
        session.run(truth[name].last_inputs, outputs)
        figures[name] = min(_agreement(name, truth[name].last_outputs[key], outputs[key]) for key in outputs)
    got = restore_clip(host_network(manifest, sessions), clip)
    whole = float_psnr(expected, got, 1.0)
    minimum = MINIMUM_PSNR.get(manifest.precision, 0.0)
    for name, figure in (*figures.items(), ("the whole clip", whole)):
        if not figure >= minimum:
            raise ExportError(
                f"{name}: expected at least {minimum} dB against the reference, got {figure:.1f} dB; "
                "report this with the checkpoint's name"
            )
    return {"stages": figures, "clip": whole}


def _agreement(stage: str, expected: Array, got: Array) -> float:
    if np.issubdtype(expected.dtype, np.integer):
        if not np.array_equal(expected, got):
            raise ExportError(
                f"stage {stage}: expected identical integer tables, got {np.count_nonzero(expected != got)} of "
                f"{expected.size} entries different; report this with the checkpoint's name"
            )
        return 200.0
    return float_psnr(expected, got, float(np.abs(expected).max()) or 1.0)
