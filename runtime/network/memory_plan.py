"""Where each tensor of a clip lies: planned once from lifetimes, before anything runs.

All calls of a clip run on one stream, in the order of the wiring. A tensor is needed from the call that first writes it
to the call that last reads it, and its bytes belong to others before and after. Tensors that every call addresses frame
by frame are placed frame by frame. What is copied from or to the host is not shared: its life does not end with a call.

Source: Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", MLSys 2020 workshop,
arXiv:2001.03288, algorithm "greedy by size" for offset calculation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from bsst.plan.manifest import Manifest, TensorSpec
from bsst.runtime.devices.base import ITEM_BYTES
from bsst.runtime.network.wiring import View, clip_calls, clip_tensors

__all__ = ["INPUTS", "OUTPUT", "ZEROS", "ClipMemory", "Lifetime", "greedy_by_size", "plan_clip", "tensor_bytes"]

ALIGNMENT = 256
INPUTS = ("frames", "backward", "forward")
"""Tensors of a clip that the host fills."""
OUTPUT = "sharp"
"""The tensor of a clip that the host reads."""
ZEROS = "zero_state"
"""Filled once and never written again."""

_Key = TypeVar("_Key")


@dataclass(frozen=True)
class Lifetime:
    """Bytes that are needed from step `first` to step `last`, both inclusive."""

    nbytes: int
    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class ClipMemory:
    """Memory of one clip of one tile; sizes are multiples of 256 bytes."""

    tensors: Mapping[str, TensorSpec]
    """Every tensor of the clip."""
    offsets: Mapping[View, int]
    """Where in the workspace each shared tensor begins, whole or frame by frame; `zero_state` included."""
    workspace_bytes: int
    """Size of the workspace; one serves any number of clips, because they follow each other on one stream."""
    live_bytes: int
    """Lower bound of `workspace_bytes`: the largest sum of bytes that are needed at the same time."""
    transfer_bytes: int
    """Inputs and output of one clip, on the device and once more on the host; each clip in flight has its own."""


def plan_clip(manifest: Manifest) -> ClipMemory:
    """Place the tensors of a clip.

    Raises:
        PlanError: the stages do not fit the network of the manifest.
    """
    tensors = clip_tensors(manifest)
    lifetimes = _lifetimes(manifest, tensors)
    offsets = greedy_by_size(lifetimes)
    return ClipMemory(
        tensors=tensors,
        offsets=offsets,
        workspace_bytes=max(offsets[view] + life.nbytes for view, life in lifetimes.items()),
        live_bytes=_largest_sum(lifetimes.values()),
        transfer_bytes=sum(tensor_bytes(tensors[name]) for name in (*INPUTS, OUTPUT)),
    )


def greedy_by_size(lifetimes: Mapping[_Key, Lifetime]) -> dict[_Key, int]:
    """Offsets at which no two lifetimes share a byte at one step.

    The largest go first, of equal ones those that live on the longest, each into the tightest gap.
    """
    offsets: dict[_Key, int] = {}
    for item, life in sorted(lifetimes.items(), key=lambda pair: (-pair[1].nbytes, -pair[1].last)):
        taken = sorted(
            (offsets[other], offsets[other] + lifetimes[other].nbytes)
            for other in offsets
            if life.first <= lifetimes[other].last and lifetimes[other].first <= life.last
        )
        end, best, tightest = 0, None, math.inf
        for start, stop in taken:
            if life.nbytes <= start - end < tightest:
                best, tightest = end, start - end
            end = max(end, stop)
        offsets[item] = end if best is None else best
    return offsets


def tensor_bytes(spec: TensorSpec) -> int:
    """Size of a tensor, rounded up so that the next one is aligned."""
    return -(-math.prod(spec.shape) * ITEM_BYTES[spec.dtype] // ALIGNMENT) * ALIGNMENT


def _lifetimes(manifest: Manifest, tensors: Mapping[str, TensorSpec]) -> dict[View, Lifetime]:
    calls = clip_calls(manifest)
    steps: dict[View, list[int]] = {View(ZEROS): [0, len(calls) - 1]}
    for step, call in enumerate(calls):
        for view in (*call.inputs.values(), *call.outputs.values()):
            if view.tensor not in (*INPUTS, OUTPUT):
                steps.setdefault(view, []).append(step)
    for view in [view for view in steps if view.frame is None]:  # used as a whole somewhere: placed as a whole
        for part in [part for part in steps if part.tensor == view.tensor and part != view]:
            steps[view] += steps.pop(part)
    return {view: Lifetime(_view_bytes(tensors[view.tensor], view), min(at), max(at)) for view, at in steps.items()}


def _view_bytes(spec: TensorSpec, view: View) -> int:
    shape = spec.shape if view.frame is None else (1, *spec.shape[1:])
    return tensor_bytes(TensorSpec(name=spec.name, dtype=spec.dtype, shape=shape))


def _largest_sum(lifetimes: Iterable[Lifetime]) -> int:
    lives = list(lifetimes)
    return max(sum(a.nbytes for a in lives if a.first <= step <= a.last) for step in {a.first for a in lives})
