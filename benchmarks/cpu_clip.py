"""Seconds per frame and peak memory: PyTorch eager against the plan, on the same clip in the same run.

    python benchmarks/cpu_clip.py --config release          # seeded weights, T = 12, 256x256
    python benchmarks/cpu_clip.py --config edge

Each side runs in processes of its own, taking turns; medians are reported. The correctness gate comes first: no figure
is printed unless both sides agree to 80 dB. Flow is included on both sides. Numbers depend on the machine; read the
ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


def main() -> None:
    """Export, compare, then measure both sides in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=["edge", "release"], default="release")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plan", type=Path, help="an exported plan of the same weights and sizes")
    parser.add_argument("--side", choices=["plan", "eager"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(_measure(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.plan is None:
            options.plan = Path(folder) / "benchmark.plan"
            _export(options)
        results: dict[str, list[dict[str, float]]] = {"eager": [], "plan": []}
        for _ in range(options.rounds):
            for side, runs in results.items():
                command = [sys.executable, __file__, "--side", side, "--plan", str(options.plan), "--config"]
                command += [options.config, "--frames", str(options.frames), "--size", str(options.size)]
                runs.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    medians = {
        side: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for side, runs in results.items()
    }
    print(f"{options.config}, T = {options.frames}, {options.size}x{options.size}, median of {options.rounds} runs")
    for side, values in medians.items():
        print(f"{side:6} {values['seconds_per_frame']:8.3f} s per frame, peak RSS {values['peak_rss_mb']:7.0f} MB")
    ratio = medians["eager"]["seconds_per_frame"] / medians["plan"]["seconds_per_frame"]
    print(f"the plan is {ratio:.2f} times as fast as PyTorch eager")


def _networks(options: argparse.Namespace):
    from tests.networks import seeded

    return seeded(options.config)


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
    rng = np.random.default_rng(0)
    clip = rng.random((options.frames, 3, options.size, options.size), dtype=np.float32)
    if options.side == "plan":
        from bsst.runtime.network.network import load_network
        from bsst.runtime.one_clip import restore_clip

        network = load_network(options.plan)
        run = lambda: restore_clip(network, clip)  # noqa: E731
    else:
        import torch

        from bsst.reference.raft import quarter_flow

        networks = _networks(options)
        tensor = torch.from_numpy(clip)

        def run() -> None:
            with torch.inference_mode():
                forward, backward = quarter_flow(networks.raft, tensor)
                networks.network(tensor[None], backward[None], forward[None])

    run()
    started = time.perf_counter()
    run()
    seconds = time.perf_counter() - started
    # Not getrusage: it starts from the size of the process that was forked.
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    return {"seconds_per_frame": seconds / options.frames, "peak_rss_mb": peak}


if __name__ == "__main__":
    main()
