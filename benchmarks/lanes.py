"""Clips side by side on shares of the cores, against one clip after another on all of them: the choice that is made.

    python benchmarks/lanes.py [--threads 2] [--rounds 5] [--plan runtime/data/edge.plan] [--tile 256x256 ...]

Both ways restore as many clips as there are threads, and flow as many pairs, in one process and in turns; who begins
changes every round. Medians of wall-clock seconds are reported: run it on a quiet machine. Noise is restored, since
arithmetic does not depend on what the frames show; the gate is that both ways give the same values, bit for bit.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from bsst.plan.archive import open_plan
from bsst.runtime.network.network import DEFAULT_PLAN, Network, load_network


def main() -> None:
    """Every shape of tiles of the plan, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plan", type=Path, default=DEFAULT_PLAN)
    parser.add_argument("--tile", action="append", help="height x width")
    options = parser.parse_args()
    plan = open_plan(options.plan)
    tiles = [plan.manifest.tile, *(shape.tile for shape in plan.manifest.shapes)]
    if options.tile:
        tiles = [(int(height), int(width)) for height, width in (tile.split("x") for tile in options.tile)]
    for tile in tiles:
        ways = {
            lanes: load_network(plan.with_tile(tile), threads=options.threads, in_flight=lanes, lanes=lanes)
            for lanes in (1, options.threads)
        }
        for what, work in (("clips", restore), ("pairs of flow, four times over", flow)):
            seconds: dict[int, list[float]] = {lanes: [] for lanes in ways}
            results = {}
            for turn in range(options.rounds + 1):  # the first warms up
                for lanes, network in list(ways.items())[:: 1 if turn % 2 else -1]:
                    started = time.perf_counter()
                    results[lanes] = work(network, options.threads)
                    seconds[lanes].append(time.perf_counter() - started)
            together, apart = results.values()
            if not np.array_equal(together, apart):
                sys.exit(f"{what}, tile {tile}: expected the same values both ways, got others")
            one, several = (statistics.median(values[1:]) for values in seconds.values())
            print(
                f"tile {tile[0]}x{tile[1]}, {options.threads} {what}: {one:.2f} s one after another on "
                f"{options.threads} threads, {several:.2f} s side by side: {one / several:.2f} times as fast",
                flush=True,
            )
        for network in ways.values():
            network.close()


def restore(network: Network, count: int) -> np.ndarray:
    """As many clips as the lanes take at once, until `count` are done."""
    rng = np.random.default_rng(0)
    height, width = network.tile
    clip = rng.random((network.frames, 3, height, width), dtype=np.float32)
    flows = rng.standard_normal((2, network.frames - 1, 2, height // 4, width // 4), dtype=np.float32)
    results = []
    for _ in range(0, count, network.lanes):
        results += [restored.result() for restored in [network.submit(clip, *flows) for _ in range(network.lanes)]]
    return np.stack(results)


def flow(network: Network, count: int) -> np.ndarray:
    """Features of two frames, and a few pairs for each lane."""
    rng = np.random.default_rng(0)
    a, b = (network.features(rng.random((3, *network.flow_size), dtype=np.float32)) for _ in range(2))
    return np.stack([np.stack(pair) for pair in network.flows([(a, b)] * (4 * count))])


if __name__ == "__main__":
    main()
