"""Two plans in turns on the clip of the city: processor and wall-clock seconds, and their ratio.

    python benchmarks/two_plans.py NEW.plan OLD.plan [--rounds 5] [--size 256x256]

Medians over the rounds; who begins changes every round. Without reading or writing video. The gate is the parity with
PyTorch that each plan carries.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from bsst.plan.archive import open_plan
from bsst.runtime.network.network import load_network
from bsst.runtime.restore import deblur_frames
from bsst.runtime.video.reader import VideoReader

CLIP = Path(__file__).parents[1] / "tests" / "data" / "city_blurry.mp4"
GATE_DB = 80


def main() -> None:
    """Run both and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plans", type=Path, nargs=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", default="256x256", help="height x width; the clip is mirrored where it is smaller")
    arguments = parser.parse_args()
    height, width = map(int, arguments.size.split("x"))
    with VideoReader(CLIP) as reader:
        clip = np.stack([frame.rgb for frame in reader])
    grow = [(0, 0), (0, 0), (0, max(0, height - clip.shape[2])), (0, max(0, width - clip.shape[3]))]
    clip = np.pad(clip, grow, mode="reflect")[:, :, :height, :width]
    seconds: dict[Path, list[tuple[float, float]]] = {path: [] for path in arguments.plans}
    networks = {}
    for path in arguments.plans:
        parity = open_plan(path).manifest.parity["clip"]
        if not parity >= GATE_DB:
            sys.exit(f"{path}: expected a plan within {GATE_DB} dB of PyTorch, got {parity} dB")
        networks[path] = load_network(path, size=(height, width))
    for turn in range(arguments.rounds + 1):  # the first warms up
        for path in arguments.plans[:: 1 if turn % 2 else -1]:
            processor, wall = time.process_time(), time.perf_counter()
            for _ in deblur_frames(clip, networks[path]):
                pass
            seconds[path].append((time.process_time() - processor, time.perf_counter() - wall))
    medians = {}
    for path, pairs in seconds.items():
        medians[path] = [statistics.median(kind) / len(clip) for kind in zip(*pairs[1:], strict=True)]
        print(f"{path}: {medians[path][0]:.3f} processor, {medians[path][1]:.3f} wall-clock seconds per frame")
    new, old = (medians[path] for path in arguments.plans)
    print(f"first over second: {new[0] / old[0]:.3f} of processor time, {new[1] / old[1]:.3f} of wall-clock time")
    for network in networks.values():
        network.close()


if __name__ == "__main__":
    main()
