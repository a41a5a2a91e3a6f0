"""What a job will take, before it runs: windows, tiles, memory and time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bsst.errors import OutOfMemoryError
from bsst.plan.manifest import Manifest
from bsst.runtime.frames.tiles import flow_grid, tile_grid
from bsst.runtime.frames.windows import window_by_window, window_count
from bsst.runtime.network.device_memory import device_memory
from bsst.runtime.network.memory_plan import plan_clip, tensor_bytes
from bsst.runtime.network.network import Network
from bsst.system import peak_bytes

__all__ = [
    "CODEC_FRAMES",
    "Measured",
    "Need",
    "Workload",
    "choose_in_flight",
    "job_bytes",
    "measure",
    "need_bytes",
    "plan_workload",
    "require_memory",
]

CODEC_FRAMES = 8
"""Frames in float32 that take as much as a decoder, x264, and what is computed between their planes and RGB."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """How a plan cuts up a video."""

    frames: int | None
    """Frames that the file announces; None when unknown."""
    windows: int | None
    """Windows of T frames, more where there are hard cuts; None when the frames are unknown."""
    tiles: int
    """Tiles of a window."""
    flow_tiles: int
    """Areas of a frame that flow is computed on."""
    frame_bytes: int
    """A padded frame, float32."""
    computed: float | None
    """Pixels that the network restores, as a multiple of the video's own: what tiles, padding and windows share is
    computed again. None when the frames are unknown."""
    stride: int
    """Frames from one window to the next."""
    first: int
    """Frames that the first window waits for."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes, without engines and decoders; on a CPU all of it is memory of the process."""

    device: int
    """Tensors of clips and flow on the device, planned."""
    copies: int
    """Arrays of the host that a device of another memory copies from and to."""
    frames: int
    """Frames of the windows under way on the host, at most."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Clips of one tile, on this machine."""

    features_seconds: float
    flow_seconds: float
    clip_seconds: float
    """Of one clip in each lane, side by side."""
    peak_bytes: int
    """Memory that the process had taken at most when one clip was done."""
    lanes: int = 1
    """Clips that ran side by side."""
    lane_bytes: int = 0
    """What one clip added to the memory of the process; a second lane adds as much."""

    def seconds(self, work: Workload) -> float | None:
        """The network's time for a workload, without decoding and encoding; None when the frames are unknown."""
        if work.frames is None or work.windows is None:
            return None
        flow = work.flow_tiles * (work.frames * self.features_seconds + (work.frames - 1) * self.flow_seconds)
        # Flow shares the lanes' cores; until the first window is full it has none beside it but flow of other areas.
        alone = flow * min(work.first / work.frames, 1) / min(self.lanes, work.flow_tiles)
        shared = flow * max(1 - work.first / work.frames, 0) / self.lanes
        return alone + shared + -(-work.windows * work.tiles // self.lanes) * self.clip_seconds


def plan_workload(
    manifest: Manifest,
    *,
    frames: int | None,
    height: int,
    width: int,
    window_overlap: int | None = None,
    tile_overlap: int | None = None,
) -> Workload:
    """Cut up a video as `deblur_frames` does.

    Args:
        manifest: of the plan.
        frames: number of frames; None when unknown.
        height: of a frame.
        width: of a frame.
        window_overlap: see `deblur_frames`.
        tile_overlap: see `deblur_frames`.

    Raises:
        UsageError: overlaps that do not fit the plan.
    """
    shared = manifest.window_overlap if window_overlap is None else window_overlap
    overlap = manifest.tile_overlap if tile_overlap is None else tile_overlap
    grid = tile_grid(height, width, tile=manifest.tile, overlap=overlap)
    windows = window_count(frames or 1, length=manifest.frames, overlap=shared)
    return Workload(
        frames=frames,
        windows=None if frames is None else windows,
        tiles=len(grid),
        flow_tiles=len(flow_grid(grid.padded, size=manifest.flow_size, overlap=overlap)),
        frame_bytes=12 * grid.padded[0] * grid.padded[1],
        computed=None
        if not frames
        else windows * manifest.frames * len(grid) * math.prod(manifest.tile) / (frames * height * width),
        stride=manifest.frames - shared,
        first=manifest.frames,
    )


def need_bytes(manifest: Manifest, work: Workload, *, in_flight: int, lanes: int = 1) -> Need:
    """Memory of a job.

    Args:
        manifest: of the plan.
        work: the job.
        in_flight: clips under way at once.
        lanes: clips that run side by side.
    """
    clip, features = plan_clip(manifest), manifest.stage("flow_features")
    flows = min(lanes, in_flight) * sum(map(tensor_bytes, manifest.stage("flow").outputs))
    transfer = in_flight * clip.transfer_bytes + sum(map(tensor_bytes, features.inputs)) + flows
    # Sources: the windows in flight, in threads one that is filled, and a few in between. Results: a window, in threads
    # one that is blended and one that the caller has.
    if in_flight == 1 or manifest.target == "cpu" and window_by_window(tiles=work.tiles, in_flight=in_flight):
        frames = 2 * manifest.frames + 2
    else:
        frames = 3 * manifest.frames + in_flight * work.stride + 3
    return Need(
        device=min(lanes, in_flight) * clip.workspace_bytes
        + transfer
        + 2 * work.flow_tiles * sum(map(tensor_bytes, features.outputs)),
        copies=transfer,
        frames=frames * work.frame_bytes,
    )


def require_memory(
    manifest: Manifest,
    work: Workload,
    *,
    in_flight: int,
    lanes: int,
    on_gpu: bool,
    free: int,
    most: int,
    processes: int = 1,
) -> str:
    """Compare what a job takes with what the machine has, before it begins.

    Args:
        manifest: of the plan.
        work: the job.
        in_flight: clips under way at once.
        lanes: clips that run side by side.
        on_gpu: the tensors of clips lie elsewhere.
        free: bytes that processes may take now.
        most: bytes that they could take if nothing else ran.
        processes: workers on this machine that do the same side by side.

    Returns:
        A warning where the job may take more than is free, with the option that fits; "" otherwise.

    Raises:
        OutOfMemoryError: the frames and tensors that are needed at once in any case are more than the machine has.
    """

    def of_process(count: int) -> int:
        need = need_bytes(manifest, work, in_flight=count, lanes=min(lanes, count))
        return need.frames + (need.copies if on_gpu else need.device)

    known = manifest.frames if work.frames is None else min(manifest.frames, work.frames)
    alone = need_bytes(manifest, work, in_flight=1)
    least = of_process(1) - alone.frames + 2 * known * work.frame_bytes
    total = processes * of_process(in_flight)
    if total <= free and least <= most:
        return ""
    if in_flight > 1 and processes * of_process(1) <= free:
        remedy = "use --in-flight 1"
    elif workers := free // of_process(in_flight):
        remedy = f"use {workers} in place of {processes} workers"
    elif of_process(1) <= free:
        remedy = "use one worker and --in-flight 1"
    else:
        remedy = _smaller(manifest, work, alone.copies if on_gpu else alone.device, free)
    if least > most:
        raise OutOfMemoryError(f"expected {least / 1e6:.0f} MB for the frames and tensors of one window, this machine "
                               f"has {most / 1e6:.0f} MB; {remedy}")  # fmt: skip
    wanted = f"up to {total / 1e6:.0f} MB may be needed besides the engines"
    return f"{wanted}, {free / 1e6:.0f} MB are free; {remedy}"


def measure(network: Network) -> Measured:
    """Restore a clip of noise, then one in each lane, which takes twice as long as a clip takes."""
    generator = np.random.default_rng(0)
    frame = generator.random((3, *network.flow_size), dtype=np.float32)
    height, width = network.tile
    clip = generator.random((network.frames, 3, height, width), dtype=np.float32)
    still = np.zeros((network.frames - 1, 2, height // 4, width // 4), np.float32)
    before = peak_bytes()
    features = network.features(frame)
    network.flow(features, features)  # the first run of a stage allocates
    network.restore(clip, still, still)
    peak = peak_bytes()
    times = [time.perf_counter()]
    network.flow(features, features)
    times.append(time.perf_counter())
    network.flow(network.features(frame), features)
    times.append(time.perf_counter())
    for restored in [network.submit(clip, still, still) for _ in range(network.lanes)]:
        restored.result()
    times.append(time.perf_counter())
    flow, both, side_by_side = map(float, np.diff(times))
    return Measured(
        features_seconds=max(both - flow, 0),
        flow_seconds=flow,
        clip_seconds=side_by_side,
        peak_bytes=peak,
        lanes=network.lanes,
        lane_bytes=peak - before,
    )


def job_bytes(measured: Measured, manifest: Manifest, work: Workload, *, in_flight: int) -> int:
    """Memory that the process will take at most on a CPU, engines, decoder and encoder included.

    Args:
        measured: with the threads of the job.
        manifest: of the plan.
        work: the job.
        in_flight: clips under way at once.
    """
    need, one = (need_bytes(manifest, work, in_flight=n) for n in (in_flight, 1))
    lanes = max(1, min(in_flight, measured.lanes))
    further = need.device - one.device
    codecs = CODEC_FRAMES * work.frame_bytes
    return measured.peak_bytes + need.frames + codecs + further + (lanes - 1) * measured.lane_bytes


def choose_in_flight(manifest: Manifest, work: Workload, *, limit: int, wanted: int, measured: Measured | None) -> int:
    """As many clips in flight as fit into the memory of whatever runs the plan.

    Args:
        manifest: of the plan.
        work: the job.
        limit: bytes of the process on a CPU, of the GPU elsewhere.
        wanted: the most that are worth having.
        measured: where engines do not tell what they take (ONNX Runtime); None where the manifest tells.

    Raises:
        OutOfMemoryError: not even one fits; the message says which export would.
    """
    engines = device_memory(manifest)

    def total(in_flight: int) -> int:
        need = need_bytes(manifest, work, in_flight=in_flight)
        if measured is None:
            return need.device + (engines.weight_bytes or 0) + (engines.scratch_bytes or 0)
        return job_bytes(measured, manifest, work, in_flight=in_flight)

    for in_flight in range(wanted, 0, -1):
        if total(in_flight) <= limit:
            return in_flight
    options = (option for option, _, share in _smaller_exports(manifest) if share * total(1) <= limit)
    raise OutOfMemoryError(
        f"expected to run within {limit / 1e6:.0f} MB, got {total(1) / 1e6:.0f} MB with one clip in flight; "
        f"by proportion a plan made by bsst export {next(options, '--window 4 --tile 64x64')} comes close"
    )


def _smaller(manifest: Manifest, work: Workload, tensors: int, free: int) -> str:
    """What fits: a plan of fewer frames or smaller tiles, which leaves frames as large, or a smaller video."""
    clip = plan_clip(manifest)
    of_clip = min(tensors, clip.workspace_bytes + clip.transfer_bytes)
    for option, length, share in _smaller_exports(manifest):
        if tensors - of_clip + share * of_clip + (2 * length + 2) * work.frame_bytes <= free:
            return f"scale the video down, or use a plan made by bsst export {option}"
    held = (2 * manifest.frames + 2) * work.frame_bytes
    for part in range(2, 17):
        if tensors + held / part**2 <= free:
            return f"scale the video to 1/{part} of its width and height"
    return "scale the video down and use a plan made by bsst export --window 4 --tile 64x64"


def _smaller_exports(manifest: Manifest) -> Iterator[tuple[str, int, float]]:
    """Options of smaller exports, their frames, and their share of the memory of clips, the largest first."""
    height, width = manifest.tile
    lengths = [t for t in (4, 5, 6, 7, 8, 10, *range(12, manifest.frames, 4)) if t < manifest.frames]
    sides = range(64, min(height, width), 64)
    options = [
        (f"--window {t} --tile {side}x{side}", t, t * side * side / (manifest.frames * height * width))
        for t in (*lengths, manifest.frames)
        for side in sides
    ]
    options += [(f"--window {t} --tile {height}x{width}", t, t / manifest.frames) for t in lengths]
    return iter(sorted(options, key=lambda option: -option[2]))
