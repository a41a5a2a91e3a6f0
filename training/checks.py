"""What training measures at every checkpoint: gains on validation clips with and without motion, gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from bsst.reference.bsstnet import BSSTNet
from bsst.training.batches import Batch, Pool
from bsst.training.evaluate import Example, example, gain, gain_alone
from bsst.training.flows import flow_network, frames_of
from bsst.training.phases import Heads, run_stages
from bsst.training.real import VALIDATION_CLIPS, fixed_clip

__all__ = ["check", "check_heads", "gradient_norms", "validation"]


def validation(data: Path, flow: Path) -> list[Example]:
    """Real clips of the validation shots and simulated ones that training leaves out, small enough to check often."""
    raft = flow_network(flow)
    examples = []
    for name in ("street left", "street right"):
        blurry, sharp = (frames_of(v[:8, :192, :192]) for v in fixed_clip(data, VALIDATION_CLIPS[name]))
        examples.append(example(f"real {name}", blurry, sharp, raft))
    pool = Pool(data / "sim" / "validation")
    for name in pool.names:
        clip = pool.clips[name]
        examples.append(example(f"sim {name}", frames_of(clip.blurry), frames_of(clip.sharp), raft))
    return examples


def check_heads(net: BSSTNet, heads: Heads, examples: list[Example]) -> dict[str, float]:
    """Mean gain in dB of the reconstruction's head at 1/2 scale over the simulated examples, with and without flow."""
    entry = {}
    for name, factor in (("head", 1.0), ("head_zero_flow", 0.0)):
        gains = []
        for e in examples[2:]:
            batch = Batch(e.blurry, e.sharp, e.forward * factor, e.backward * factor)
            with torch.no_grad():
                gains.append(heads.gain(run_stages(net, batch, "align")[1][1:], batch))
        entry[name] = round(float(np.mean(gains)), 4)
    return entry


def check(net: BSSTNet, examples: list[Example]) -> dict[str, Any]:
    """Mean gains in dB over the real and the simulated examples, with and without motion."""
    entry: dict[str, Any] = {}
    for kind in ("real", "sim"):
        chosen = [e for e in examples if e.name.startswith(kind)]
        gains = [gain(net, e) for e in chosen]
        entry[kind] = float(np.mean(gains))
        entry[f"{kind}_each"] = [round(g, 3) for g in gains]
        entry[f"{kind}_zero_flow"] = float(np.mean([gain(net, e, zero_flow=True) for e in chosen]))
        entry[f"{kind}_alone"] = float(np.mean([gain_alone(net, e, step=3) for e in chosen]))
    return entry


def gradient_norms(net: BSSTNet) -> dict[str, float]:
    """Gradient norm of each top-level module."""
    squares: dict[str, float] = {}
    for name, parameter in net.named_parameters():
        if parameter.grad is not None:
            top = name.split(".")[0]
            squares[top] = squares.get(top, 0.0) + float(parameter.grad.square().sum())
    return {name: round(value**0.5, 5) for name, value in squares.items()}
