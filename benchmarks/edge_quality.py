"""Gain of the edge weights over their blurry input, on clips that training never saw.

    python benchmarks/edge_quality.py --data DIR [--weights FILE] [--json FILE]

DIR as filled by `make train-edge` (sources, interpolated footage, held-out simulated clips). Real clips: 12 frames in
one window, as deployed; simulated: 8 frames of 128x128. Gains are dB of PSNR at 8 bits, mean over frames; negative
gains are losses. "zero flow" sets all flows to zero; "alone" replaces the other frames by copies of the frame itself.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from bsst.config import EDGE
from bsst.reference.bsstnet import BSSTNet
from bsst.reference.compact import make_network
from bsst.reference.raft import RAFT
from bsst.training.cache import load
from bsst.training.evaluate import Example, example, frames_of, gain, gain_alone, psnr
from bsst.training.real import FRESH_CLIPS, HELD_CLIPS, VALIDATION_CLIPS, fixed_clip

DEFAULT_WEIGHTS = Path(__file__).parents[1] / "reference" / "weights" / "edge.safetensors"


def load_networks(weights: Path) -> tuple[BSSTNet, RAFT]:
    tensors = load_file(weights)
    net, raft = make_network(EDGE).eval(), RAFT(EDGE.raft).eval()
    net.load_state_dict({name: v for name, v in tensors.items() if not name.startswith("raft.")})
    raft.load_state_dict({name.removeprefix("raft."): v for name, v in tensors.items() if name.startswith("raft.")})
    return net, raft


def real_examples(data: Path, raft: RAFT, *, split: str) -> list[Example]:
    clips = {"held": HELD_CLIPS, "fresh": FRESH_CLIPS, "validation": VALIDATION_CLIPS}[split]
    return [example(name, *map(frames_of, fixed_clip(data, clip)), raft) for name, clip in clips.items()]


def simulated_examples(data: Path, raft: RAFT) -> list[Example]:
    clips = [(path.name, load(path)) for path in sorted((data / "sim" / "held").glob("??????.npz"))]
    return [example(name, frames_of(clip.blurry), frames_of(clip.sharp), raft) for name, clip in clips]


def measure(net: BSSTNet, clip: Example) -> dict[str, float]:
    return {
        "input": float(psnr(clip.blurry, clip.sharp).mean()),
        "gain": gain(net, clip),
        "zero_flow": gain(net, clip, zero_flow=True),
        "alone": gain_alone(net, clip, step=2),
    }


def report(title: str, rows: dict[str, dict[str, float]]) -> None:
    print(f"\n{title}\n{'clip':16} {'input dB':>9} {'gain':>8} {'zero flow':>10} {'alone':>8}")
    means = {
        key: float(np.mean([row[key] for row in rows.values()])) for key in ("input", "gain", "zero_flow", "alone")
    }
    for name, row in {**rows, "mean": means}.items():
        print(f"{name:16} {row['input']:9.2f} {row['gain']:+8.3f} {row['zero_flow']:+10.3f} {row['alone']:+8.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    parser.add_argument("--split", choices=("held", "fresh", "validation"), default="held")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    net, raft = load_networks(arguments.weights)
    real = {clip.name: measure(net, clip) for clip in real_examples(arguments.data, raft, split=arguments.split)}
    report(f"real clips ({arguments.split}), T = 12", real)
    results = {"real": real}
    if arguments.split == "held":
        results["simulated"] = {clip.name: measure(net, clip) for clip in simulated_examples(arguments.data, raft)}
        report("simulated clips (held-out), T = 8", results["simulated"])
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
