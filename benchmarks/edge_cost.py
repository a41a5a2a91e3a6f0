"""What the packaged network costs: arithmetic, bytes, frames per second on this CPU, pixels computed twice.

    python benchmarks/edge_cost.py [--threads 2] [--rounds 3] [--full-hd] [--check]

Arithmetic is counted in the PyTorch reference while it runs: convolutions and matrix products, flow included. Speed is
that of `deblur_frames` on the demo clip, as it is (320x192, 28 frames), cropped to 256x256 and enlarged to 1280x720 and
1920x1080, one window each, without reading or writing video; sizes and a float32 matrix product take turns and medians
are reported. Pixels computed are those of all tiles and windows as a multiple of the video's own, for a long video and
for the demo clip. The gate is the parity with PyTorch that the plan carries.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.ratios import check, sgemm_gigaflops
from bsst.plan.archive import open_plan
from bsst.reference.checkpoint import load_networks
from bsst.reference.raft import quarter_flow
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


def giga_macs(frames: int, size: int) -> float:
    """Multiply-adds of one frame of a window, in units of 10^9."""
    networks = load_networks(ROOT / "reference" / "weights" / "edge.safetensors")
    clip = torch.rand(frames, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        forward, backward = quarter_flow(networks.raft, clip)
        networks.network(clip[None], backward[None], forward[None])
    return counter.get_total_flops() / 2 / frames / 1e9


def frames_of(size: tuple[int, int], count: int) -> list[np.ndarray]:
    """First frames of the demo clip, enlarged to cover (height, width) and cropped."""
    with VideoReader(ROOT / "tests" / "data" / "city_blurry.mp4") as reader:
        frames = [frame.rgb for frame, _ in zip(reader, range(count), strict=False)]
    height, width = frames[0].shape[1:]
    factor = max(size[0] / height, size[1] / width)
    scaled = [F.interpolate(torch.from_numpy(f)[None], scale_factor=factor, mode="bicubic")[0] for f in frames]
    return [f[:, : size[0], : size[1]].clamp(0, 1).numpy() for f in scaled]


def computed(size: tuple[int, int], frames: int) -> float:
    """Pixels that the packaged plan restores of a video, as a multiple of its own."""
    manifest = fitting_plan(open_plan(DEFAULT_PLAN), *size).manifest
    ratio = plan_workload(manifest, frames=frames, height=size[0], width=size[1]).computed
    assert ratio is not None
    return ratio


def main() -> None:
    """Gate, count, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--full-hd", action="store_true", help="1920x1080 too: minutes more")
    parser.add_argument("--check", action="store_true", help="fail where a ratio is worse than its record")
    options = parser.parse_args()
    plan = open_plan(DEFAULT_PLAN)
    parity = plan.manifest.parity["clip"]
    if not parity >= GATE_DB:
        raise SystemExit(f"expected a plan within {GATE_DB} dB of PyTorch, got {parity} dB; run `make plan`")
    torch.set_num_threads(options.threads)
    length, sizes = plan.manifest.frames, SIZES | (FULL_HD if options.full_hd else {})
    seconds: dict[str, list[float]] = {name: [] for name in sizes}
    products = []
    for _ in range(options.rounds):
        for name, size in sizes.items():
            frames = frames_of(size, length)
            with load_network(fitting_plan(plan, *size), threads=options.threads) as network:
                started = time.perf_counter()
                for _ in deblur_frames(frames, network):
                    pass
                seconds[name].append((time.perf_counter() - started) / len(frames))
        products.append(sgemm_gigaflops())
    sgemm, macs = statistics.median(products), giga_macs(length, 256)
    print(f"parity with PyTorch {parity:.0f} dB, plan {DEFAULT_PLAN.stat().st_size / 1e6:.1f} MB")
    print(f"{macs:.2f} GMAC per 256x256 frame (T = {length}, flow included); a matrix product {sgemm:.0f} GFLOP/s")
    measured = {}
    for name, values in seconds.items():
        (height, width), fps = sizes[name], 1 / statistics.median(values)
        useful = 2 * macs * height * width / 256**2 * fps
        measured[f"useful share of sgemm, {name}"] = useful / sgemm
        measured[f"pixels, {name}"] = computed(sizes[name], LONG)
        print(
            f"{name}: {fps:.2f} frames per second with {options.threads} threads; arithmetic of the video's own pixels "
            f"is {useful / sgemm:.2f} of a matrix product; {computed(sizes[name], LONG):.2f} times its pixels computed"
        )
    measured["pixels, demo"] = computed(DEMO, DEMO_FRAMES)
    print(f"demo clip: {measured['pixels, demo']:.2f} times its pixels computed")
    if options.check and (worse := check(measured)):
        raise SystemExit("\n".join(worse))


if __name__ == "__main__":
    main()
