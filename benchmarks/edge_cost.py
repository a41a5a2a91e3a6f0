"""What the packaged network costs: arithmetic, bytes, frames per second and memory on this CPU, pixels computed twice.

    python benchmarks/edge_cost.py [--threads 2] [--rounds 3] [--full-hd] [--check | --record]

Arithmetic is counted in the PyTorch reference while it runs: convolutions and matrix products, flow included. Speed is
that of `deblur_frames` on the demo clip (192x320), its pixels repeated and cropped to 256x256, 1280x720 and 1920x1080,
without reading or writing video: two windows where a window is one tile, so that every lane has a clip, else one. Sizes
run in processes of their own, with a float32 matrix product after each, and take turns; medians are reported. 1920x1080
runs in the first round only, for it takes minutes. Pixels computed are those of all tiles and windows as a multiple of
the video's own, for a long video and for the demo clip. The gate is the parity with PyTorch that the plan carries.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.ratios import judge, peak_megabytes, sgemm_gigaflops
from bsst.plan.archive import open_plan
from bsst.runtime.estimate import plan_workload
from bsst.runtime.frames.fit import fitting_plan
from bsst.runtime.network.network import DEFAULT_PLAN, load_network
from bsst.runtime.restore import deblur_frames
from bsst.runtime.video.reader import VideoReader

ROOT = Path(__file__).parents[1]
GATE_DB = 80
SIZES = {"256x256": (256, 256), "1280x720": (720, 1280)}
FULL_HD = {"1920x1080": (1080, 1920)}
DEMO, DEMO_FRAMES, LONG = (192, 320), 28, 10_000


def giga_macs(frames: int, size: int, threads: int) -> float:
    """Multiply-adds of one frame of a window, in units of 10^9."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from bsst.reference.checkpoint import load_networks
    from bsst.reference.raft import quarter_flow

    torch.set_num_threads(threads)
    networks = load_networks(ROOT / "reference" / "weights" / "edge.safetensors")
    clip = torch.rand(frames, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        forward, backward = quarter_flow(networks.raft, clip)
        networks.network(clip[None], backward[None], forward[None])
    return counter.get_total_flops() / 2 / frames / 1e9


def frames_of(size: tuple[int, int], count: int) -> Iterator[np.ndarray]:
    """First frames of the demo clip, their pixels repeated to cover (height, width), cropped; made when asked for."""
    with VideoReader(ROOT / "tests" / "data" / "city_blurry.mp4") as reader:
        for frame, _ in zip(reader, range(count), strict=False):
            times = max(-(-size[0] // frame.rgb.shape[1]), -(-size[1] // frame.rgb.shape[2]))
            larger = frame.rgb.repeat(times, 1).repeat(times, 2)
            yield np.ascontiguousarray(larger[:, : size[0], : size[1]])


def computed(size: tuple[int, int], frames: int) -> float:
    """Pixels that the packaged plan restores of a video, as a multiple of its own."""
    manifest = fitting_plan(open_plan(DEFAULT_PLAN), *size).manifest
    ratio = plan_workload(manifest, frames=frames, height=size[0], width=size[1]).computed
    assert ratio is not None
    return ratio


def measure(size: tuple[int, int], threads: int) -> dict[str, float]:
    """In this process: seconds per frame, peak memory, and what a matrix product reaches right after."""
    plan = fitting_plan(open_plan(DEFAULT_PLAN), *size)
    length = plan.manifest.frames
    count = 2 * length - plan.manifest.window_overlap if size == plan.manifest.tile else length
    with load_network(plan, threads=threads) as network:
        started = time.perf_counter()
        for _ in deblur_frames(frames_of(size, count), network):
            pass
        seconds = (time.perf_counter() - started) / count
    peak = peak_megabytes()
    return {"seconds_per_frame": seconds, "peak_rss_mb": peak, "gigaflops": sgemm_gigaflops()}


def main() -> None:
    """Gate, count, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--full-hd", action="store_true", help="1920x1080 too: minutes more")
    parser.add_argument("--check", action="store_true", help="fail where a ratio is worse than its record")
    parser.add_argument("--record", action="store_true", help="make what is measured the record")
    parser.add_argument("--size", choices=[*SIZES, *FULL_HD], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.size:
        print(json.dumps(measure((SIZES | FULL_HD)[options.size], options.threads)))
        return
    plan = open_plan(DEFAULT_PLAN)
    parity = plan.manifest.parity["clip"]
    if not parity >= GATE_DB:
        raise SystemExit(f"expected a plan within {GATE_DB} dB of PyTorch, got {parity} dB; run `make plan`")
    sizes = SIZES | (FULL_HD if options.full_hd else {})
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in sizes}
    for turn in range(options.rounds):
        for name in sizes if turn == 0 else SIZES:
            command = [sys.executable, __file__, "--size", name, "--threads", str(options.threads)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            runs[name].append(json.loads(done.stdout))
    macs = giga_macs(plan.manifest.frames, 256, options.threads)
    sgemm = statistics.median(run["gigaflops"] for group in runs.values() for run in group)
    print(f"parity with PyTorch {parity:.0f} dB, plan {DEFAULT_PLAN.stat().st_size / 1e6:.1f} MB")
    print(f"{macs:.2f} GMAC per 256x256 frame (T = {plan.manifest.frames}, flow included); a matrix product "
          f"{sgemm:.0f} GFLOP/s")  # fmt: skip
    measured = {}
    for name, group in runs.items():
        height, width = sizes[name]
        useful = 2 * macs * height * width / 256**2
        # Each run is compared with the product that ran in the same minute.
        share = statistics.median(useful / run["seconds_per_frame"] / run["gigaflops"] for run in group)
        fps = 1 / statistics.median(run["seconds_per_frame"] for run in group)
        measured[f"useful share of sgemm, {name}"] = share
        measured[f"pixels, {name}"] = computed(sizes[name], LONG)
        print(
            f"{name}: {fps:.2f} frames per second with {options.threads} threads, peak memory "
            f"{max(run['peak_rss_mb'] for run in group):.0f} MB, runs: {len(group)}; arithmetic of the video's own "
            f"pixels is {share:.2f} of a matrix product; {measured[f'pixels, {name}']:.2f} times its pixels computed"
        )
    measured["pixels, demo"] = computed(DEMO, DEMO_FRAMES)
    print(f"demo clip: {measured['pixels, demo']:.2f} times its pixels computed")
    judge(measured, check_them=options.check, record_them=options.record)


if __name__ == "__main__":
    main()
