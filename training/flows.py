"""Flows that the trained flow network finds on the cached clips, computed once: training sees what deployment sees.

    python -m bsst.training.flows --data DIR --flow RUN/flow.safetensors

writes DIR/flowed/<sim|real>/<split>/NNNNNN.npz, copies of the clips with found flows in place of exact ones.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from bsst.config import EDGE
from bsst.reference.raft import RAFT, quarter_flow
from bsst.training.cache import load, save

__all__ = ["flow_network", "frames_of", "write_flowed"]


def flow_network(weights: Path) -> RAFT:
    """The edge flow network with weights written by `train_flow`."""
    raft = RAFT(EDGE.raft).eval()
    raft.load_state_dict(load_file(weights))
    return raft


def frames_of(video: NDArray[np.uint8]) -> Tensor:
    """(T, H, W, 3) uint8 -> (T, 3, H, W) float32 in [0, 1]."""
    return torch.tensor(video).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def write_flowed(data: Path, weights: Path) -> None:
    """Process every cached clip that has no flowed copy yet."""
    raft = flow_network(weights)
    for kind in ("real/train", "sim/train"):
        for path in sorted((data / kind).glob("??????.npz")):
            target = data / "flowed" / kind / path.name
            if not target.exists():
                clip = load(path)
                forward, backward = (f.numpy().astype(np.float16) for f in quarter_flow(raft, frames_of(clip.blurry)))
                save(replace(clip, forward=forward, backward=backward), target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--flow", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    write_flowed(arguments.data, arguments.flow)
