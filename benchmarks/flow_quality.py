"""How good the packaged flow is, where the exact one is known: on held-out simulated clips.

    python benchmarks/flow_quality.py --data DATA     # DATA as made by training, see training/README.md

Prints the end-point error by motion, then how near a neighbour that the flow aligns comes to the truth: the sharp frame
before it (PSNR, without what comes from outside the frame), and what an oracle would gain that takes, for each 8x8
block, the best of the blurry frame itself and its two aligned blurry neighbours. Flows are measured at 1/4 scale,
pictures at full scale.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from edge_quality import DEFAULT_WEIGHTS, load_networks
from torch import Tensor

from bsst.plugins.flow_warp import flow_warp
from bsst.reference.raft import quarter_flow
from bsst.training.cache import kind_of, load
from bsst.training.evaluate import frames_of, psnr

BINS = (0, 0.25, 1, 2, 4, 8, np.inf)
BLOCK = 8


@torch.no_grad()
def main() -> None:
    """Measure every clip with the flow found and with the exact one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    torch.set_num_threads(1)
    raft = load_networks(DEFAULT_WEIGHTS)[1]
    motions, errors = [], []
    results: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for path in sorted((data / "sim" / "held").glob("??????.npz")):
        clip = load(path)
        blurry, sharp = frames_of(clip.blurry), frames_of(clip.sharp)
        exact = tuple(torch.from_numpy(flow).float() for flow in (clip.forward, clip.backward))
        found = tuple(flow[: len(blurry) - 1] for flow in quarter_flow(raft, blurry))
        for a, b in zip(exact, found, strict=True):
            motions.append(a.norm(dim=1).flatten())
            errors.append((a - b).norm(dim=1).flatten())
        for way, flows in (("exact", exact), ("found", found), ("none", tuple(0 * flow for flow in exact))):
            inside = _aligned(torch.ones_like(sharp), *exact)[1] > 0.99
            warped = torch.where(inside, _aligned(sharp, *flows)[1], sharp)[1:]
            results[kind_of(int(path.stem)), way].append(
                (float(psnr(warped, sharp[1:]).mean()), _oracle_gain(blurry, sharp, flows))
            )
    motion, error = torch.cat(motions), torch.cat(errors)
    print(f"motion, pixels at 1/4 scale: mean {motion.mean():.2f}; end-point error: mean {error.mean():.3f}")
    for low, high in zip(BINS, BINS[1:], strict=False):
        inside = (motion >= low) & (motion < high)
        print(f"  {low:4} to {high:4}: {inside.float().mean():6.1%} of places, error {error[inside].mean():.3f}, "
              f"median {error[inside].median():.3f}")  # fmt: skip
    print(f"{'kind':8} {'flow':6} {'sharp neighbour, dB':>20} {'oracle gain, dB':>16}")
    for (kind, way), rows in sorted(results.items()):
        warped, gain = np.mean(rows, 0)
        print(f"{kind:8} {way:6} {warped:20.2f} {gain:+16.2f}")


def _aligned(frames: Tensor, forward: Tensor, backward: Tensor) -> list[Tensor]:
    """Frames (T, 3, H, W) -> themselves, the frame before and the frame after; a missing one is the frame itself."""
    to_previous, to_next = (4 * F.interpolate(f, scale_factor=4, mode="bilinear") for f in (forward, backward))
    before = torch.cat((frames[:1], flow_warp(frames[:-1], to_previous)))
    after = torch.cat((flow_warp(frames[1:], to_next), frames[-1:]))
    return [frames, before, after]


def _oracle_gain(blurry: Tensor, sharp: Tensor, flows: tuple[Tensor, Tensor]) -> float:
    candidates = torch.stack(_aligned(blurry, *flows))
    error = F.avg_pool2d((candidates - sharp).square().mean(2), BLOCK)
    choice = error.argmin(0).repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)
    best = candidates.gather(0, choice[None, :, None].expand(1, -1, *candidates.shape[2:]))[0]
    return float((psnr(best, sharp) - psnr(blurry, sharp)).mean())


if __name__ == "__main__":
    main()
