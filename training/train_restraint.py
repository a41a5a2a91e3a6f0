"""Train the restraint alone on recorded outputs of the rest of the network; minutes on one core.

    python -m bsst.training.train_restraint --data DIR --run RUN --minutes 30

Reads DIR/outputs (`outputs.py`), also those written while it runs. Writes RUN/restraint.safetensors (averaged weights)
and RUN/restraint.jsonl (log). What a frame loses against its input counts nearly twice: sharp pictures are to be left
alone.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bsst.config import EDGE
from bsst.reference.compact import make_network
from bsst.training.batches import VISIBLE_DB
from bsst.training.cache import BRIEF_FROM, ENLARGED_FROM
from bsst.training.outputs import Outputs, load_outputs

__all__ = ["Recordings", "log_error", "train_restraint"]

SHARES = {
    "real": (5.0, 1.0),
    "sim": (6.0, 1.2),
    "enlarged": (1.5, 1.2),
    "brief": (3.5, 1.4),
}
"""How often each source is drawn, in relation to the others: clips with visible blur, and the others."""
FRAMES, CROP = 5, 128
"""Frames of a batch, each of another clip; height and width."""
FLOOR, HARM_FLOOR = 2e-4, 2e-5
"""Added to mean squared errors inside the logarithms: a gain counts less and less on frames better than 37 dB, where
nobody sees it, a loss on frames better than 47 dB. With one floor at 47 dB the nearly sharp frames ruled: all shares
shrank, and on most real clips the best factor on the whole change was 2 to 8."""
HARM = 0.8
"""Weight of what a frame loses against its input."""
AVERAGE, CLIP_NORM, WARM_UP = 0.995, 1.0, 100
LOG_EVERY = 120.0


class Recordings:
    """Recorded outputs by source, held in memory; `refresh` reads those written since."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.groups: dict[tuple[str, bool], list[Outputs]] = defaultdict(list)
        self._known: set[Path] = set()
        self.refresh()

    def refresh(self) -> None:
        """Read new clips."""
        for path in sorted(self.folder.glob("*[0-9].npz")):
            if path in self._known:
                continue
            self._known.add(path)
            clip = load_outputs(path)
            source = _source(path.stem)
            error = (clip.blurry.float() - clip.sharp.float()).square().mean()
            self.groups[source, bool(error < 255**2 / 10 ** (VISIBLE_DB / 10))].append(clip)

    def draw(self, rng: np.random.Generator, frames: int, crop: int) -> list[Tensor]:
        """Blurry, sharp (N, 3, crop, crop), residual, decoded and moving of N frames at random."""
        groups = [group for group in self.groups if self.groups[group]]
        shares = np.array([SHARES[source][faint] for source, faint in groups])
        samples = []
        for _ in range(frames):
            clips = self.groups[groups[rng.choice(len(groups), p=shares / shares.sum())]]
            samples.append(_sample(clips[rng.integers(len(clips))], rng, crop))
        return [torch.stack(tensors) for tensors in zip(*samples, strict=True)]


def _source(name: str) -> str:
    if name.startswith("real"):
        return "real"
    number = int(name.removeprefix("sim"))
    return "brief" if number >= BRIEF_FROM else "enlarged" if number >= ENLARGED_FROM else "sim"


def _sample(clip: Outputs, rng: np.random.Generator, crop: int) -> list[Tensor]:
    t = int(rng.integers(len(clip.blurry)))
    top, left = (4 * int(rng.integers((n - crop) // 4 + 1)) for n in clip.blurry.shape[2:])

    def cut(tensor: Tensor, scale: int) -> Tensor:
        y, x, n = top // scale, left // scale, crop // scale
        return tensor[t, :, y : y + n, x : x + n].float()

    colours = torch.from_numpy(rng.permutation(3) if rng.random() < 0.3 else np.arange(3))
    images = [cut(clip.blurry, 1)[colours] / 255, cut(clip.sharp, 1)[colours] / 255, cut(clip.residual, 1)[colours]]
    return [*images, cut(clip.decoded, 2), cut(clip.moving, 4)]


def log_error(error: Tensor, floor: float) -> Tensor:
    """log(mean squared error + floor) of each image (N, 3, H, W)."""
    return torch.log(error.square().mean((1, 2, 3)) + floor)


def train_restraint(
    data: Path, run: Path, minutes: float, learning_rate: float, seed: int, start: Path | None = None
) -> None:
    """Train until the minutes have passed, from nothing or from the weights of another run."""
    run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = make_network(EDGE)
    module = net.restraint
    if start is not None:
        net.load_state_dict(load_file(start), strict=False)
    # One learning rate suits weights whose inputs are of one size; saved weights contain the sizes.
    scales = module.input_scales
    with torch.no_grad():
        module.first.weight.div_(scales)
    recordings = Recordings(data / "outputs")
    average = copy.deepcopy(module).requires_grad_(False)
    module.first.register_forward_pre_hook(lambda _, inputs: (inputs[0] * scales,))
    optimiser = torch.optim.AdamW(module.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    began, logged, step = time.monotonic(), 0.0, 0
    gains: list[tuple[float, float]] = []
    done = False
    while not done:
        seconds = time.monotonic() - began
        progress = min(seconds / 60 / minutes, 1.0)
        done = progress >= 1
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * min(1, (step + 1) / WARM_UP) * _late_cosine(progress)
        blurry, sharp, residual, decoded, moving = recordings.draw(rng, FRAMES, CROP)
        restored = blurry + net.restrain(residual, decoded, blurry, moving)
        before, after = (log_error(frames - sharp, HARM_FLOOR) for frames in (blurry, restored))
        loss = log_error(restored - sharp, FLOOR).mean() + HARM * F.relu(after - before).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), CLIP_NORM)
        optimiser.step()
        step += 1
        with torch.no_grad():
            decay = min(AVERAGE, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1 - decay)
            share = F.interpolate(moving[:, :1], scale_factor=4, mode="bilinear", align_corners=False)
            unrestrained = log_error(blurry + share * residual - sharp, HARM_FLOOR)
            gains.append((float((before - after).mean()), float((before - unrestrained).mean())))
        if seconds - logged > LOG_EVERY or done:
            logged = seconds
            gained, without = 10 / math.log(10) * np.mean(gains, 0)
            clips = {f"{source}{' faint' if faint else ''}": len(c) for (source, faint), c in recordings.groups.items()}
            entry = {"step": step, "minutes": seconds / 60, "gain": gained, "gain_without": without, "clips": clips}
            print(json.dumps(entry), flush=True)
            with (run / "restraint.jsonl").open("a") as log:
                log.write(json.dumps(entry) + "\n")
            tensors = {f"restraint.{name}": tensor for name, tensor in average.state_dict().items()}
            tensors["restraint.first.weight"] = tensors["restraint.first.weight"] * scales
            save_file(tensors, run / "restraint.safetensors")
            gains = []
            recordings.refresh()


def _late_cosine(progress: float) -> float:
    return 1.0 if progress < 0.4 else 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (progress - 0.4) / 0.6))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=Path, help="weights of another run to begin with")
    torch.set_num_threads(1)
    train_restraint(**vars(parser.parse_args()))
