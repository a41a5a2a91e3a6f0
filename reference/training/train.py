"""Train the edge deblurring network on cached clips with flows already found; stop and resume at any time.

    python -m bsst.reference.training.train --data DIR --run DIR --flow RUN/flow.safetensors --minutes 75

Two phases. Lean: without sparse attention and shift blocks, small crops, so that propagation learns to align.
Full: every stage, crops of whole attention windows; what was left out starts as the identity, so nothing jumps.
Two single-threaded workers beat two threads on layers this small; they average their weights every few steps.
Writes RUN/deblur.pt (state, every checkpoint), RUN/deblur.jsonl (log) and RUN/deblur.safetensors (averaged weights).
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import socket
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, distributed, multiprocessing, nn

from bsst.config import EDGE
from bsst.reference.blur import branch_motion
from bsst.reference.bsstnet import BSSTNet, direction_of
from bsst.reference.training.batches import Batch, Pool, draw
from bsst.reference.training.evaluate import Example, example, gain, gain_alone
from bsst.reference.training.flows import flow_network, frames_of
from bsst.reference.training.initialise import initialise
from bsst.reference.training.real import VALIDATION_CLIPS, fixed_clip
from bsst.reference.training.simulate import Kind

__all__ = ["run_stages", "train"]

LEARNING_RATE, WARM_UP, CLIP_NORM = 6e-4, 300, 10.0
FLOOR = 5e-5
"""Added to the mean squared error inside the logarithm: frames better than 43 dB count less and less."""
REAL_SHARE = (0.15, 0.4)
"""Share of real clips at first and after `STRONG_UNTIL`."""
STRONG_UNTIL = 0.35
"""Share of the run without near-sharp simulated clips: they teach restraint, not alignment."""
LEAN_UNTIL = 0.75
"""Share of the run spent in the lean phase."""
LEAN = {"clips": 2, "frames": 4, "crop": 72}
FULL = {"clips": 1, "frames": 5, "crop": 128}
"""Samples of each worker in the two phases."""
AUXILIARY = 0.3
"""Weight of the loss on the propagated features at the start; it fades to zero over the lean phase."""
AVERAGE = 0.998
CHECK_EVERY = 300.0
"""Seconds between checkpoints."""
SYNCHRONISE_EVERY = 25
"""Steps that each worker takes alone before the weights of all workers are averaged (local SGD)."""


def run_stages(net: BSSTNet, batch: Batch, *, full: bool) -> tuple[Tensor, list[Tensor]]:
    """Forward pass with or without attention and shift blocks.

    Returns:
        Restored clip (N, T, 3, H, W) and the features [encoder, branches ..., reconstruction], each (N, T, C, h, w).
    """
    clip = batch.blurry.shape[:2]
    skip, half, quarter = net.encode(batch.blurry.flatten(0, 1))
    sharp, backward, forward, selections = net.refine(batch.backward, batch.forward)
    features = [quarter.unflatten(0, clip)]
    for branch in net.config.branches:
        motion = branch_motion(sharp, backward, forward, direction_of(branch))
        features.append(net.propagate(branch, features, motion))
    reconstruction = net.fuse(torch.cat(features, 2))
    if full:
        attended = torch.stack([net.attend(x, s) for x, s in zip(reconstruction, selections, strict=True)])
        decoded = net.decode(reconstruction, attended, half.unflatten(0, clip))
    else:
        config, net.config = net.config, replace(net.config, shift_blocks=0)
        decoded = net.decode(reconstruction, torch.zeros_like(reconstruction), half.unflatten(0, clip))
        net.config = config
    restored = net.restore(decoded.flatten(0, 1), skip, batch.blurry.flatten(0, 1)).unflatten(0, clip)
    return restored, [*features, reconstruction]


class Heads(nn.Module):
    """Linear read-out of the blur's residual from the features of each branch; used in training only."""

    def __init__(self, channels: int, branches: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(channels, 48, 1) for _ in range(branches))

    def loss(self, features: list[Tensor], batch: Batch) -> Tensor:
        """Logarithmic error of sharp - blurry, space to depth by 4."""
        target = F.pixel_unshuffle((batch.sharp - batch.blurry).flatten(0, 1), 4)
        errors = [(h(f.flatten(0, 1)).float() - target) for h, f in zip(self.heads, features, strict=True)]
        return torch.stack([_log_error(e) for e in errors]).mean()


def _log_error(error: Tensor) -> Tensor:
    """Mean over frames of log(mean squared error + FLOOR); `error` is (frames, C, H, W)."""
    return torch.log(error.square().mean(dim=(1, 2, 3)) + FLOOR).mean()


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


def train(data: Path, run: Path, flow: Path, *, minutes: float, workers: int, seed: int, half_precision: bool) -> None:
    """Train until `minutes` of wall time, earlier runs included, have passed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    options = _Options(data, run, flow, minutes, workers, seed, half_precision, address)
    multiprocessing.spawn(_work, (options,), nprocs=workers)  # type: ignore[attr-defined, no-untyped-call]


@dataclass(frozen=True)
class _Options:
    data: Path
    run: Path
    flow: Path
    minutes: float
    workers: int
    seed: int
    half_precision: bool
    address: str


def _work(rank: int, options: _Options) -> None:
    """One worker: the same weights and decisions in all of them, other samples in each; worker 0 keeps the books."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=options.address, rank=rank, world_size=options.workers, timeout=timedelta(hours=1)
    )
    torch.manual_seed(options.seed)
    real, simulated = (Pool(options.data / "flowed" / kind / "train") for kind in ("real", "sim"))
    net = BSSTNet(EDGE)
    initialise(net)
    heads = Heads(EDGE.channels, len(EDGE.branches))
    parameters = [*net.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.999), weight_decay=0.0)
    average = copy.deepcopy(net).eval().requires_grad_(False)
    modules: dict[str, Any] = {"net": net, "heads": heads, "average": average, "optimiser": optimiser}
    step, seconds = 0, 0.0
    state = options.run / "deblur.pt"
    if state.exists():
        saved = torch.load(state, weights_only=True)
        for name, module in modules.items():
            module.load_state_dict(saved[name])
        step, seconds = saved["step"], saved["seconds"]
    rng = np.random.default_rng((options.seed, step, rank))
    examples = validation(options.data, options.flow) if rank == 0 else []
    start, last = time.monotonic() - seconds, seconds
    history: list[tuple[float, float]] = []

    while True:
        progress = min(seconds / (60 * options.minutes), 1.0)
        full = progress >= LEAN_UNTIL
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / WARM_UP) * _late_cosine(progress)
        batch = _batch(real, simulated, rng, progress < STRONG_UNTIL, **(FULL if full else LEAN))
        with torch.autocast("cpu", torch.bfloat16, enabled=options.half_precision):
            restored, features = run_stages(net, batch, full=full)
            loss = _log_error((restored.float() - batch.sharp).flatten(0, 1))
            faded = AUXILIARY * max(0.0, 1 - progress / LEAN_UNTIL)
            total = loss + faded * heads.loss(features[1:-1], batch) if faded else loss
        identity = _log_error((batch.blurry - batch.sharp).flatten(0, 1))
        optimiser.zero_grad()
        total.backward()
        norm = float(nn.utils.clip_grad_norm_(parameters, CLIP_NORM))
        if math.isfinite(norm):
            optimiser.step()
        step += 1
        decay = min(AVERAGE, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 1 - decay)
        history.append((loss.item() - identity.item(), norm))
        if step % SYNCHRONISE_EVERY:
            continue
        seconds = _synchronise(parameters, time.monotonic() - start)
        done = seconds >= 60 * options.minutes
        if seconds - last < CHECK_EVERY and not done and step != 4 * SYNCHRONISE_EVERY:
            continue
        last = seconds
        if rank == 0:
            gained, norms = np.asarray(history).T
            entry = {
                "step": step,
                "minutes": round(seconds / 60, 2),
                "full": full,
                "train_gain": round(float(-gained.mean()) * 10 / math.log(10), 4),
                "gradient_norm": round(float(np.median(norms)), 4),
                **check(average, examples),
                "feature_std": [round(float(f.detach().float().std()), 4) for f in features],
                "gradients": gradient_norms(net),
                "clips": [len(real.names), len(simulated.names)],
            }
            print(json.dumps(entry), flush=True)
            with (options.run / "deblur.jsonl").open("a") as log:
                log.write(json.dumps(entry) + "\n")
            saved = {name: module.state_dict() for name, module in modules.items()}
            torch.save({**saved, "step": step, "seconds": seconds}, state.with_suffix(".tmp"))
            state.with_suffix(".tmp").rename(state)
            save_file(average.state_dict(), options.run / "deblur.safetensors")
        history = []
        if done:
            return
        real.refresh()
        simulated.refresh()


@torch.no_grad()
def _synchronise(parameters: list[nn.Parameter], seconds: float) -> float:
    """Average the weights, and the clocks, over the workers."""
    flat = torch.cat([*(p.flatten() for p in parameters), torch.tensor([seconds])])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    *parts, clock = flat.split([*(p.numel() for p in parameters), 1])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.copy_(part.view_as(parameter))
    return float(clock)


def _batch(
    real: Pool, simulated: Pool, rng: np.random.Generator, early: bool, *, clips: int, frames: int, crop: int
) -> Batch:
    share = REAL_SHARE[0 if early else 1]
    kinds: tuple[Kind, ...] | None = ("heavy", "mild") if early else None
    chosen = [real.pick(rng) if rng.random() < share else simulated.pick(rng, kinds) for _ in range(clips)]
    return draw(chosen, rng, frames=frames, crop=crop)


def _late_cosine(progress: float) -> float:
    return 1.0 if progress < 0.3 else 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - 0.3) / 0.7))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--flow", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=75)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--half-precision", action="store_true", help="bfloat16 convolutions (AVX512-BF16 or newer)")
    arguments = parser.parse_args()
    options = {name: getattr(arguments, name) for name in ("minutes", "workers", "seed", "half_precision")}
    arguments.run.mkdir(parents=True, exist_ok=True)
    train(arguments.data, arguments.run, arguments.flow, **options)
