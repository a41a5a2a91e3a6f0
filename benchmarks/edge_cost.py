"""What the packaged network costs: arithmetic, bytes, frames per second on this CPU.

    python benchmarks/edge_cost.py [--threads 2] [--rounds 3]

Arithmetic is counted in the PyTorch reference while it runs: convolutions and matrix products, flow included. Speed is
that of `deblur_frames` on the demo clip, cropped to 256x256 and enlarged to 1280x720, without reading or writing video;
sizes take turns and medians are reported. The gate is the parity with PyTorch that the plan carries.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from bsst.plan.archive import open_plan
from bsst.reference.checkpoint import load_networks
from bsst.reference.raft import quarter_flow
from bsst.runtime.network.network import DEFAULT_PLAN, load_network
from bsst.runtime.restore import deblur_frames
from bsst.runtime.video.reader import VideoReader

ROOT = Path(__file__).parents[1]
GATE_DB = 80
SIZES = {"256x256": (256, 256), "1280x720": (720, 1280)}


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


def main() -> None:
    """Gate, count, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    manifest = open_plan(DEFAULT_PLAN).manifest
    parity = manifest.parity["clip"]
    if not parity >= GATE_DB:
        raise SystemExit(f"expected a plan within {GATE_DB} dB of PyTorch, got {parity} dB; run `make plan`")
    torch.set_num_threads(options.threads)
    network = load_network(threads=options.threads)
    seconds: dict[str, list[float]] = {name: [] for name in SIZES}
    for _ in range(options.rounds):
        for name, size in SIZES.items():
            frames = frames_of(size, manifest.frames)
            started = time.perf_counter()
            for _ in deblur_frames(frames, network):
                pass
            seconds[name].append((time.perf_counter() - started) / len(frames))
    print(f"parity with PyTorch {parity:.0f} dB, plan {DEFAULT_PLAN.stat().st_size / 1e6:.1f} MB")
    print(f"{giga_macs(manifest.frames, 256):.2f} GMAC per 256x256 frame (T = {manifest.frames}, flow included)")
    for name, values in seconds.items():
        print(f"{name}: {1 / statistics.median(values):.2f} frames per second with {options.threads} threads")


if __name__ == "__main__":
    main()
