"""Seconds per frame and peak memory: PyTorch eager against the plan and a matrix product, interleaved in one run.

    python benchmarks/cpu_clip.py --config release          # seeded weights, T = 12, 256x256
    python benchmarks/cpu_clip.py --config edge
    python benchmarks/cpu_clip.py --config edge --plan runtime/data/edge.plan [--check | --record]

Each side runs in processes of its own, taking turns; medians are reported. The correctness gate comes first: no figure
is printed unless both sides agree to 80 dB. Flow is included on both sides. `--plan` names an exported plan of the same
weights and sizes, whose export passed that gate. Numbers depend on the machine; read the ratios: to eager, and to the
arithmetic that a float32 matrix product reaches in the same minutes. The share of it can pass 1, because Winograd
products need fewer operations than are counted.

`--threads 1` gives both sides one thread, and counts seconds of the processor instead of the clock: on a busy machine
they are what can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.ratios import judge, peak_megabytes, sgemm_gigaflops  # noqa: E402

SIDES = ("eager", "plan", "sgemm")


def main() -> None:
    """Export, compare, then measure the sides in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=["edge", "release"], default="release")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--plan", type=Path, help="an exported plan of the same configuration and sizes")
    parser.add_argument("--check", action="store_true", help="fail where a ratio is worse than its record")
    parser.add_argument("--record", action="store_true", help="make what is measured the record")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(_measure(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.plan is None:
            options.plan = Path(folder) / "benchmark.plan"
            _export(options)
        results: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        environment = {**os.environ, **{f"{name}_NUM_THREADS": str(options.threads) for name in ("OMP", "OPENBLAS")}}
        for _ in range(options.rounds):
            for side, runs in results.items():
                command = [sys.executable, __file__, "--side", side, "--plan", str(options.plan)]
                for name in ("config", "frames", "size", "threads"):
                    command += [f"--{name}", str(getattr(options, name))]
                done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
                runs.append(json.loads(done.stdout))
    medians = {
        side: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for side, runs in results.items()
    }
    size = f"{options.size}x{options.size}"
    print(f"{options.config}, T = {options.frames}, {size}, threads {options.threads}, median of {options.rounds} runs")
    for side in ("eager", "plan"):
        values = medians[side]
        print(f"{side:6} {values['seconds_per_frame']:8.3f} s per frame, peak RSS {values['peak_rss_mb']:7.0f} MB")
    ratio = statistics.median(
        eager["seconds_per_frame"] / plan["seconds_per_frame"]
        for eager, plan in zip(results["eager"], results["plan"], strict=True)
    )
    speed = 2 * medians["eager"]["giga_macs"] / medians["plan"]["seconds_per_frame"]
    share = speed / medians["sgemm"]["gigaflops"]
    print(f"the plan is {ratio:.2f} times as fast as PyTorch eager")
    print(f"and does {speed:.0f} GFLOP/s, {share:.2f} of a matrix product's {medians['sgemm']['gigaflops']:.0f}")
    name = f"{options.config} {size}" + (", 1 thread" if options.threads == 1 else "")
    measured = {f"eager / plan, {name}": ratio, f"share of sgemm, {name}": share}
    judge(measured, check_them=options.check, record_them=options.record)


def _networks(options: argparse.Namespace):
    from bsst.reference.checkpoint import load_networks
    from tests.networks import seeded

    return seeded(options.config) if options.config == "release" else load_networks()


def _export(options: argparse.Namespace) -> None:
    """Export with the comparison against the reference switched on: it refuses below 80 dB."""
    from bsst.export.export_plan import export_plan
    from bsst.export.stage import Geometry

    size = (options.size, options.size)
    geometry = Geometry(frames=options.frames, tile=size, flow_size=size)
    manifest = export_plan(options.plan, _networks(options), geometry, progress=lambda s: print(s, file=sys.stderr))
    print(f"gate passed: {manifest.parity['clip']:.0f} dB between the plan and PyTorch", file=sys.stderr)


def _measure(options: argparse.Namespace) -> dict[str, float]:
    """One warm-up and one timed clip of one side."""
    if options.side == "sgemm":
        return {"gigaflops": sgemm_gigaflops(clock=_clock(options))}
    rng = np.random.default_rng(0)
    clip = rng.random((options.frames, 3, options.size, options.size), dtype=np.float32)
    run, counted = _plan_side(options, clip) if options.side == "plan" else _eager_side(options, clip)
    run()
    clock = _clock(options)
    started = clock()
    run()
    seconds = clock() - started
    return {"seconds_per_frame": seconds / options.frames, "peak_rss_mb": peak_megabytes(), "giga_macs": counted()}


def _clock(options: argparse.Namespace):
    return time.process_time if options.threads == 1 else time.perf_counter


def _plan_side(options: argparse.Namespace, clip: np.ndarray):
    from bsst.plan.archive import open_plan
    from bsst.runtime.network.network import load_network
    from bsst.runtime.one_clip import restore_clip

    plan = open_plan(options.plan).with_tile((options.size, options.size))
    network = load_network(plan, threads=options.threads, in_flight=1)
    return (lambda: restore_clip(network, clip)), (lambda: 0.0)


def _eager_side(options: argparse.Namespace, clip: np.ndarray):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from bsst.reference.raft import quarter_flow

    torch.set_num_threads(options.threads)
    networks = _networks(options)
    tensor = torch.from_numpy(clip)

    def run() -> None:
        with torch.inference_mode():
            forward, backward = quarter_flow(networks.raft, tensor)
            networks.network(tensor[None], backward[None], forward[None])

    def counted() -> float:
        """Multiply-adds per frame, in units of 10^9, counted after the timed run."""
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops() / 2 / options.frames / 1e9

    return run, counted


if __name__ == "__main__":
    main()
