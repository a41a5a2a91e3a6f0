"""What the network without its restraint makes of training clips, computed once: the restraint trains on it alone.

    python -m bsst.training.outputs --data DIR [--weights FILE]

writes DIR/outputs/<sim|real>NNNNNN.npz: a crop of 128x128 of each clip, its residual, decoder features and motion.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bsst.reference.bsstnet import BSSTNet
from bsst.reference.checkpoint import EDGE_WEIGHTS, load_networks
from bsst.reference.raft import RAFT, quarter_flow
from bsst.training.cache import load
from bsst.training.flows import frames_of

__all__ = ["Outputs", "Recording", "load_outputs", "outputs_of", "write_outputs"]

FRAMES, SIZE = 7, 128


@dataclass(frozen=True)
class Outputs:
    """One clip: `blurry`, `sharp` (T, 3, H, W) uint8; `residual` (T, 3, H, W), `decoded` (T, D, H/2, W/2) and `moving`
    (T, 5, H/4, W/4) float16, see `BSSTNet.restrain`.
    """

    blurry: Tensor
    sharp: Tensor
    residual: Tensor
    decoded: Tensor
    moving: Tensor


class Recording(BSSTNet):
    """Keeps what the restraint would be given."""

    def restore(self, decoded: Tensor, full: Tensor, frames: Tensor, moving: Tensor | None = None) -> Tensor:
        """As the network does, without the restraint."""
        restored = super().restore(decoded, full, frames)
        self.recorded = restored - frames, decoded, moving
        return restored


@torch.no_grad()
def outputs_of(net: BSSTNet, raft: RAFT, blurry: Tensor, sharp: Tensor, top: int = 0, left: int = 0) -> Outputs:
    """Run the network on a crop of a clip (T, 3, H, W) uint8; the flow is found on the whole frame.

    Args:
        net: the network; `Recording` is made of it.
        raft: its flow network.
        blurry: the clip.
        sharp: its ground truth.
        top: first row of the crop, a multiple of 4.
        left: its first column, likewise.
    """
    recording = Recording(net.config).eval()
    recording.load_state_dict(net.state_dict())
    forward, backward = quarter_flow(raft, blurry / 255)
    at = slice(top, top + SIZE), slice(left, left + SIZE)
    quarter = tuple(slice(s.start // 4, s.stop // 4) for s in at)
    blurry, sharp = blurry[:, :, *at], sharp[:, :, *at]
    recording(blurry[None] / 255, backward[None, :, :, *quarter], forward[None, :, :, *quarter])
    residual, decoded, moving = (t[: len(blurry)].half() for t in recording.recorded if t is not None)
    return Outputs(blurry, sharp, residual, decoded, moving)


def write_outputs(data: Path, weights: Path) -> None:
    """Process every cached training clip that has no outputs yet."""
    networks = load_networks(weights)
    folder = data / "outputs"
    folder.mkdir(exist_ok=True)
    for kind in ("real", "sim"):
        for path in sorted((data / kind / "train").glob("??????.npz")):
            target = folder / f"{kind}{path.stem}.npz"
            if target.exists():
                continue
            clip = load(path)
            rng = np.random.default_rng(int(path.stem))
            top, left = (4 * int(rng.integers((n - SIZE) // 4 + 1)) for n in clip.blurry.shape[1:3])
            blurry, sharp = ((frames_of(a[:FRAMES]) * 255).byte() for a in (clip.blurry, clip.sharp))
            outputs = outputs_of(networks.network, networks.raft, blurry, sharp, top, left)
            temporary = target.with_suffix(".tmp.npz")
            np.savez(temporary, **{f.name: getattr(outputs, f.name).numpy() for f in fields(outputs)})
            temporary.rename(target)


def load_outputs(path: Path) -> Outputs:
    """Read what `write_outputs` wrote."""
    with np.load(path) as arrays:
        return Outputs(**{f.name: torch.from_numpy(arrays[f.name]) for f in fields(Outputs)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=EDGE_WEIGHTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    write_outputs(arguments.data, arguments.weights)
