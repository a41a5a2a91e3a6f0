"""Device memory of a plan, from its manifest alone.

Engines hold their weights. Stages of a clip run one after another, so one scratch area of the size of the largest
serves all of them. Tensors of the clip are allocated once; `live_bytes` is what would remain if every tensor gave its
place back after its last reader.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bsst.engines.manifest import Manifest, TensorSpec
from bsst.runtime.wiring import clip_calls, clip_tensors

__all__ = ["DeviceMemory", "device_memory"]

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int8": 1, "uint8": 1, "bool": 1}


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """Bytes on the device."""

    weight_bytes: int | None
    """Of all engines; None where the compiler does not tell (ONNX Runtime)."""
    scratch_bytes: int | None
    """Of the stage that needs most, shared by all; None where the compiler does not tell."""
    clip_bytes: int
    """Of all tensors of one clip, allocated once."""
    live_bytes: int
    """Largest sum of tensors of one clip that are still needed at one time."""

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
    sizes = {name: _bytes(spec) for name, spec in clip_tensors(manifest).items()}
    weights = [stage.build.get("weight_bytes") for stage in manifest.stages]
    scratch = [stage.build.get("activation_bytes") for stage in manifest.stages]
    return DeviceMemory(
        weight_bytes=None if None in weights else int(sum(filter(None, weights))),
        scratch_bytes=None if None in scratch else int(max(filter(None, scratch), default=0)),
        clip_bytes=sum(sizes.values()),
        live_bytes=_peak(manifest, sizes),
    )


def _bytes(spec: TensorSpec) -> int:
    return math.prod(spec.shape) * _BYTES[spec.dtype]


def _peak(manifest: Manifest, sizes: dict[str, int]) -> int:
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    calls = clip_calls(tuple(manifest.config["branches"]), manifest.frames)
    for step, call in enumerate(calls):
        for view in call.inputs.values():
            first.setdefault(view.tensor, 0)  # read before anything wrote it: the clip itself, its flows, zeros
            last[view.tensor] = step
        for view in call.outputs.values():
            first.setdefault(view.tensor, step)
            last[view.tensor] = step
    return max(sum(sizes[name] for name in sizes if first[name] <= step <= last[name]) for step in range(len(calls)))
