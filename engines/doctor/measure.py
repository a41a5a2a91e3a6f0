"""One plan measured on this machine: against ONNX Runtime on the CPU, and what cannot be known without its device.

Time per stage with and without CUDA graphs, how much of the copies and the next clip overlaps, and device memory.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bsst.plan.archive import open_plan
from bsst.plan.manifest import NVIDIA_TARGETS, Manifest, Precision, Target
from bsst.runtime.devices.base import ITEM_BYTES, DeviceTensor
from bsst.runtime.metrics import float_psnr
from bsst.runtime.network.device_memory import device_memory
from bsst.runtime.network.network import Network
from bsst.runtime.network.wiring import clip_calls
from bsst.runtime.one_clip import clip_flows
from bsst.runtime.sessions.backends import Backend, open_backend

__all__ = ["MINIMUM_PSNR", "Measurement", "measure_target", "restore_tile"]

MINIMUM_PSNR = 50.0
"""Decibels against the CPU below which a target has failed, as for `bsst export --fp16`. It holds for fp32 too, because
TensorRT rounds the factors of fp32 products to TF32, as coarse as fp16, on GPUs that have it."""
_CLIPS = 4
"""Clips per timing."""
_STAGE_SECONDS = 0.1
"""Least time over which a stage is measured."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One target on this machine."""

    target: Target
    """What was built."""
    precision: Precision
    """What it was built in."""
    skipped: str = ""
    """Why it was not run; "" if it was."""
    failed: str = ""
    """Why it failed; "" if it did not."""
    line: str = ""
    """What ran it."""
    build_seconds: float = 0.0
    """Time to make the plan, engines from the cache included."""
    load_seconds: float = 0.0
    """Time to load it."""
    psnr: float = 0.0
    """Restored clip against ONNX Runtime on the CPU, in dB, peak 1."""
    one_by_one: float = 0.0
    """Seconds per clip, each waited for."""
    overlapped: float = 0.0
    """Seconds per clip with two under way."""
    device_bytes: int = 0
    """Device memory that loading and running took, as the driver reports it; 0 on the CPU."""
    predicted_bytes: int | None = None
    """What the plan's manifest says of that, without the libraries' own; None where the compiler does not tell."""
    calls: Mapping[str, int] = field(default_factory=dict)
    """Runs of each stage per clip; once for flow."""
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    """Milliseconds of each stage alone, median."""
    plain_ms: Mapping[str, float] = field(default_factory=dict)
    """The same without CUDA graphs; empty where there are none."""
    graphs: Mapping[str, str] = field(default_factory=dict)
    """Use of CUDA graphs of each stage, or why there are none."""


def restore_tile(path: Path, clip: NDArray[np.float32]) -> NDArray[np.float32]:
    """The top left tile of a clip (T, 3, H, W), as one plan restores it."""
    with _network(path) as (_, network):
        return network.restore(_tile(network, clip), *clip_flows(network, clip))


def measure_target(
    path: Path, clip: NDArray[np.float32], expected: NDArray[np.float32], *, build_seconds: float = 0.0
) -> Measurement:
    """Load, compare and measure one plan.

    Args:
        path: plan.
        clip: (T, 3, H, W) float32 in [0, 1].
        expected: the top left tile of the clip, restored on the CPU.
        build_seconds: copied into the result.

    Raises:
        BsstError: it does not run here.
    """
    manifest = open_plan(path).manifest
    with _free_memory(manifest.target) as free:
        before, started = free(), time.perf_counter()
        with _network(path) as (backend, network):
            load_seconds = time.perf_counter() - started
            flows = clip_flows(network, clip)
            tile = _tile(network, clip)
            got = network.restore(tile, *flows)
            one_by_one, overlapped = _clip_seconds(network, tile, flows)
            device_bytes = before - free()
            stage_ms = _stage_milliseconds(manifest, backend)
            graphs = {name: use() for name, s in backend.sessions.items() if (use := getattr(s, "graph_use", None))}
            # The clip above met most addresses for the first time, and memory still holds it: another clip shows what
            # graphs compute, in both places for a clip.
            launched = [network.restore(1 - tile, *flows) for _ in range(2)] if graphs else []
    plain_ms: dict[str, float] = {}
    same = 200.0
    if graphs:
        plain = open_backend(open_plan(path), graphs=False)
        try:
            plain_ms = _stage_milliseconds(manifest, plain)
            direct = Network(manifest, plain.device, plain.sessions).restore(1 - tile, *flows)
            same = min(float_psnr(direct, other, 1.0) for other in launched)
        finally:
            plain.close()
    figure = float_psnr(expected, got, 1.0)
    failed = "" if figure >= MINIMUM_PSNR else f"expected {MINIMUM_PSNR} dB against the CPU, got {figure:.1f} dB"
    if same < MINIMUM_PSNR:
        failed += f"{failed and '; '}expected {MINIMUM_PSNR} dB of CUDA graphs against plain runs, got {same:.1f} dB"
    return Measurement(
        target=manifest.target,
        precision=manifest.precision,
        failed=failed,
        line=backend.line,
        build_seconds=build_seconds,
        load_seconds=load_seconds,
        psnr=figure,
        one_by_one=one_by_one,
        overlapped=overlapped,
        device_bytes=device_bytes,
        predicted_bytes=device_memory(manifest).total_bytes,
        calls=_calls(manifest),
        stage_ms=stage_ms,
        plain_ms=plain_ms,
        graphs=graphs,
    )


def _tile(network: Network, clip: NDArray[np.float32]) -> NDArray[np.float32]:
    return clip[:, :, : network.tile[0], : network.tile[1]]


@contextmanager
def _network(path: Path) -> Iterator[tuple[Backend, Network]]:
    plan = open_plan(path)
    backend = open_backend(plan)
    try:
        yield backend, Network(plan.manifest, backend.device, backend.sessions, in_flight=2)
    finally:
        backend.close()


def _clip_seconds(
    network: Network, tile: NDArray[np.float32], flows: tuple[NDArray[np.float32], ...]
) -> tuple[float, float]:
    """Seconds per clip: (each waited for, two under way)."""
    for _ in range(2):  # clocks rise, graphs are captured for both sets of buffers
        pending = [network.submit(tile, *flows), network.submit(tile, *flows)]
        for clip in pending:
            clip.result()
    started = time.perf_counter()
    for _ in range(_CLIPS):
        network.restore(tile, *flows)
    alone = time.perf_counter() - started
    started = time.perf_counter()
    pending = [network.submit(tile, *flows)]
    for _ in range(_CLIPS - 1):
        pending.append(network.submit(tile, *flows))
        pending.pop(0).result()
    pending[0].result()
    return alone / _CLIPS, (time.perf_counter() - started) / _CLIPS


def _stage_milliseconds(manifest: Manifest, backend: Backend) -> dict[str, float]:
    device = backend.device
    stream = device.stream("selftest")
    results = {}
    for stage in manifest.stages:
        tensors = {}
        for spec in (*stage.inputs, *stage.outputs):
            nbytes = int(np.prod(spec.shape, dtype=np.int64)) * ITEM_BYTES[spec.dtype]
            tensors[spec.name] = DeviceTensor(device.allocate(nbytes), spec.dtype, spec.shape)
        for spec in stage.inputs:
            zeros = device.host_array(spec.shape, spec.dtype)
            zeros[...] = 0
            stream.upload(zeros, tensors[spec.name])
            stream.synchronize()
        inputs, outputs = ({spec.name: tensors[spec.name] for spec in side} for side in (stage.inputs, stage.outputs))
        for _ in range(3):
            backend.sessions[stage.name].enqueue(inputs, outputs, stream)
        stream.synchronize()
        turns: list[float] = []
        while not turns or sum(turns) < _STAGE_SECONDS:
            started = time.perf_counter()
            for _ in range(4):
                backend.sessions[stage.name].enqueue(inputs, outputs, stream)
            stream.synchronize()
            turns.append(time.perf_counter() - started)
        results[stage.name] = 1000 * statistics.median(turns) / 4
    return results


def _calls(manifest: Manifest) -> dict[str, int]:
    counts = Counter(call.stage for call in clip_calls(manifest))
    return {stage.name: counts.get(stage.name, 1) for stage in manifest.stages}


@contextmanager
def _free_memory(target: Target) -> Iterator[Callable[[], int]]:
    """How many bytes of the GPU are free; a device of its own keeps the context alive meanwhile."""
    if target not in NVIDIA_TARGETS:
        yield lambda: 0
        return
    from bsst.runtime.devices.cuda import CudaDevice

    with CudaDevice() as device:
        yield lambda: device.memory()[0]
