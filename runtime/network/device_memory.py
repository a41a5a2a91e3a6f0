"""Device memory of a plan, from its manifest alone.

Engines hold their weights. Stages of a clip run one after another, so one scratch area of the size of the largest
serves all of them. Tensors of the clip lie where `bsst.runtime.network.memory_plan` places them, once for all clips.
"""

from __future__ import annotations

from dataclasses import dataclass

from bsst.plan.manifest import Manifest
from bsst.runtime.network.memory_plan import plan_clip

__all__ = ["DeviceMemory", "device_memory"]


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """Bytes on the device."""

    weight_bytes: int | None
    """Of all engines; None where the compiler does not tell (ONNX Runtime)."""
    scratch_bytes: int | None
    """Of the stage that needs most, shared by all; None where the compiler does not tell."""
    clip_bytes: int
    """Of all tensors of one clip as they are placed; every further clip in flight adds its inputs and output."""
    live_bytes: int
    """Lower bound of that: the largest sum of tensors that are needed at one time."""

    @property
    def total_bytes(self) -> int | None:
        """Weights, scratch and tensors; None where the compiler does not tell."""
        if self.weight_bytes is None or self.scratch_bytes is None:
            return None
        return self.weight_bytes + self.scratch_bytes + self.clip_bytes


def device_memory(manifest: Manifest) -> DeviceMemory:
    """Compute what one clip of one tile needs.

    Raises:
        PlanError: the stages do not fit the network of the manifest.
    """
    memory = plan_clip(manifest)
    weights = [stage.build.get("weight_bytes") for stage in manifest.stages]
    scratch = [stage.build.get("activation_bytes") for stage in manifest.stages]
    return DeviceMemory(
        weight_bytes=None if None in weights else int(sum(filter(None, weights))),
        scratch_bytes=None if None in scratch else int(max(filter(None, scratch), default=0)),
        clip_bytes=memory.workspace_bytes + memory.transfer_bytes,
        live_bytes=memory.live_bytes + memory.transfer_bytes,
    )
