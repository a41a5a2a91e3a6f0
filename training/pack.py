"""Write the packaged weights: averaged network, flow network, and the residual's scale chosen on validation clips.

    python -m bsst.training.pack --data DIR --run RUN --flow RUN/flow.safetensors
    python -m bsst.training.pack --restraint RUN/restraint.safetensors --strength 1.15

The second puts a restraint into the weights at --out; the rest stays.
The last convolution is linear and has no bias, so the scale is folded into its weights. Held-out clips play no part.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bsst.config import EDGE
from bsst.reference.bsstnet import BSSTNet
from bsst.reference.compact import make_network
from bsst.reference.raft import RAFT
from bsst.training.evaluate import Example, example, psnr
from bsst.training.flows import flow_network, frames_of
from bsst.training.real import VALIDATION_CLIPS, fixed_clip

__all__ = ["add_restraint", "choose_scale", "pack"]

SCALES = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0, 1.15)
TOLERATED = -0.03
"""Loss in dB on the worst validation clip that a scale may cause."""
INVISIBLE = 45.0
"""Frames count as no better than this many dB: above it, neither gain nor loss can be seen."""


@torch.no_grad()
def choose_scale(net: BSSTNet, examples: list[Example]) -> tuple[float, dict[str, list[float]]]:
    """Scale with the best mean gain among those that harm no clip, else the one with the best worst clip.

    Returns:
        The scale and, by scale, the gain of each example in dB.
    """
    gains: dict[str, list[float]] = {str(scale): [] for scale in SCALES}
    for clip in examples:
        residual = net(clip.blurry, clip.backward, clip.forward) - clip.blurry
        before = psnr(clip.blurry, clip.sharp).clamp_max(INVISIBLE)
        for scale in SCALES:
            after = psnr(clip.blurry + scale * residual, clip.sharp).clamp_max(INVISIBLE)
            gains[str(scale)].append(round(float((after - before).mean()), 4))
    harmless = [scale for scale in SCALES if min(gains[str(scale)]) >= TOLERATED]
    if harmless:
        return max(harmless, key=lambda scale: np.mean(gains[str(scale)])), gains
    return max(SCALES, key=lambda scale: min(gains[str(scale)])), gains


def validation_examples(data: Path, raft: RAFT) -> list[Example]:
    """The validation clips at deployment length."""
    examples = []
    for name, clip in VALIDATION_CLIPS.items():
        blurry, sharp = fixed_clip(data, clip)
        examples.append(example(name, frames_of(blurry), frames_of(sharp), raft))
    return examples


def pack(data: Path, run: Path, flow: Path, out: Path) -> None:
    """Write `out` and print what was chosen."""
    net = make_network(EDGE).eval()
    net.load_state_dict(load_file(run / "deblur.safetensors"))
    raft = flow_network(flow)
    scale, gains = choose_scale(net, validation_examples(data, raft))
    with torch.no_grad():
        net.last_conv.weight.mul_(scale)
    print(json.dumps({"scale": scale, "validation_gains": gains}))
    last = json.loads((run / "deblur.jsonl").read_text().splitlines()[-1])
    metadata = {
        "format": "bsst edge weights 1",
        "config": json.dumps(EDGE.to_json()),
        "label": "small network trained from scratch on a CPU on simulated and real blur; gentle",
        "made_by": "python -m bsst.training (see training/README.md)",
        "deblur_steps": str(last["step"]),
        "deblur_minutes": str(last["minutes"]),
        "residual_scale": str(scale),
        "licence": "MIT",
    }
    tensors = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    tensors |= {f"raft.{name}": tensor.contiguous() for name, tensor in raft.state_dict().items()}
    _write(tensors, metadata, out)


def add_restraint(restraint: Path, out: Path, strength: float = 1.0) -> None:
    """Put the tensors of a trained restraint into the weights at `out`, in place of those that they have.

    Args:
        restraint: what `train_restraint` wrote.
        out: weights of the whole network.
        strength: factor on all that the restraint lets through.
    """
    with safe_open(out, "pt") as known:
        metadata = {**known.metadata(), "config": json.dumps(EDGE.to_json())}
    tensors = {name: tensor for name, tensor in load_file(out).items() if not name.startswith("restraint.")}
    tensors |= load_file(restraint)
    tensors["restraint.strength"] = tensors["restraint.strength"] * strength
    _write(tensors, {**metadata, "restraint_strength": str(strength)}, out)


def _write(tensors: dict[str, torch.Tensor], metadata: dict[str, str], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_suffix(".tmp")
    save_file(tensors, temporary, metadata)
    temporary.rename(out)
    print(f"{out}: {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--flow", type=Path)
    parser.add_argument("--restraint", type=Path, help="only put this restraint into the weights")
    parser.add_argument("--strength", type=float, default=1.0, help="factor on what it lets through")
    parser.add_argument("--out", type=Path, default=Path("reference/weights/edge.safetensors"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.restraint is not None:
        add_restraint(arguments.restraint, arguments.out, arguments.strength)
    elif None in (arguments.data, arguments.run, arguments.flow):
        parser.error("expected --data, --run and --flow, or --restraint")
    else:
        pack(arguments.data, arguments.run, arguments.flow, arguments.out)
