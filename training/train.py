"""Train the edge deblurring network on cached clips with flows already found; stop and resume at any time.

    python -m bsst.training.train --data DIR --run DIR --flow RUN/flow.safetensors --minutes 75
    python -m bsst.training.train ... --run NEW --start OLD/deblur.pt --phase-ends 0 0.5 --minutes 120
    python -m bsst.training.train ... --device cuda --half-precision --minutes 600

Three phases. Align: encoder, propagation and reconstruction alone, read out by linear heads at 1/4 scale, with some
frames robbed of their detail, so that only aligned neighbours can bring it back. Lean: the decoder too, but neither
sparse attention nor shift blocks. Full: every stage; what was left out starts as the identity, so nothing jumps.
On a CPU, two single-threaded workers beat two threads on layers this small; they average their weights every few steps.
A GPU takes one worker and samples as many times larger as `--scale` says.
`--start` takes up the state of an earlier run, or packaged weights, under a new clock and schedule.
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
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, multiprocessing, nn

from bsst.config import EDGE
from bsst.reference.checkpoint import RAFT_PREFIX
from bsst.reference.compact import make_network
from bsst.training.batches import Batch, Pool, draw
from bsst.training.checks import check, check_heads, gradient_norms, validation
from bsst.training.evaluate import Example
from bsst.training.initialise import initialise
from bsst.training.phases import Heads, Phase, log_error, losses
from bsst.training.simulate import Kind
from bsst.training.update import Update

__all__ = ["TrainOptions", "train"]

WARM_UP = 200
REAL_SHARE = (0.15, 0.4)
"""Share of real clips at first and later: from the end of the first third of the lean phase, or at once in a run that
leaves out the align phase. At first there are no near-sharp simulated clips either: they teach restraint, not
alignment."""
PHASE_ENDS = (0.25, 0.85)
"""Ends of the align and the lean phase, as shares of the run."""
ALIGN = {"clips": 2, "frames": 5, "crop": 96}
LEAN = {"clips": 2, "frames": 5, "crop": 80}
FULL = {"clips": 1, "frames": 5, "crop": 128}
"""Samples of each worker in the three phases."""
AUXILIARY = 0.3
"""Weight of the heads' loss when the lean phase starts; it fades to zero over that phase."""
ROBBED = 0.5
"""Share of samples that lose the detail of one frame; it fades to zero over the first two phases."""
AVERAGE = 0.998
CHECK_EVERY = 200.0
"""Seconds between checkpoints."""
SYNCHRONISE_EVERY = 25
"""Steps that each worker takes alone before the weights of all workers are averaged (local SGD)."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What one run trains on, and how."""

    data: Path
    """Folder of the clips with their flows."""
    run: Path
    """State, log and weights; a state found here is resumed."""
    flow: Path
    """Weights of the flow network, for the validation clips."""
    minutes: float = 75
    """Length of the schedule in wall time, stops excluded."""
    phase_ends: tuple[float, float] = PHASE_ENDS
    """Ends of the align and the lean phase, as shares of the run."""
    start: Path | None = None
    """State (.pt) or weights (.safetensors) of another run to begin with."""
    learning_rate: float = 8e-4
    """Of AdamW, before its cosine decay."""
    workers: int = 2
    """Processes; 1 on a GPU."""
    seed: int = 1
    """Of every random choice."""
    half_precision: bool = False
    """bfloat16 convolutions."""
    device: str = "cpu"
    """Where the network trains, "cpu" or "cuda"."""
    scale: int = 1
    """Factor on the clips of a batch."""


def train(options: TrainOptions) -> None:
    """Train until the minutes of the options have passed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    options.run.mkdir(parents=True, exist_ok=True)
    workers = options.workers if options.device == "cpu" else 1
    multiprocessing.spawn(_work, (workers, address, options), nprocs=workers)  # type: ignore[attr-defined, no-untyped-call]


def _work(rank: int, workers: int, address: str, options: TrainOptions) -> None:
    """One worker: the same weights and decisions in all of them, other samples in each; worker 0 keeps the books."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=address, rank=rank, world_size=workers, timeout=timedelta(hours=1)
    )
    torch.manual_seed(options.seed)
    real, simulated = (Pool(options.data / "flowed" / kind / "train") for kind in ("real", "sim"))
    net = make_network(EDGE)
    initialise(net)
    net.to(options.device)
    heads = Heads(EDGE.channels, len(EDGE.branches) + 1).to(options.device)
    parameters = [*net.parameters(), *heads.parameters()]
    update = Update(parameters, options.learning_rate)
    optimiser = update.optimiser
    average = copy.deepcopy(net).eval().requires_grad_(False)
    modules: dict[str, Any] = {"net": net, "heads": heads, "average": average}
    step, seconds = 0, 0.0
    state = options.run / "deblur.pt"
    known = state if state.exists() else options.start
    if known is not None and known.suffix == ".safetensors":
        weights = {k: v for k, v in load_file(known).items() if not k.startswith(RAFT_PREFIX)}
        net.load_state_dict(weights)
        average.load_state_dict(weights)
    elif known is not None:
        saved = torch.load(known, weights_only=True, map_location=options.device)
        for name, module in modules.items():
            module.load_state_dict(saved[name])
        update.load(saved["optimiser"])
        step, seconds = saved["step"], saved["seconds"] if known == state else 0.0
    rng = np.random.default_rng((options.seed, step, rank))
    examples = validation(options.data, options.flow) if rank == 0 else []
    examples = [on_device(options.device, example) for example in examples]
    start, last = time.monotonic() - seconds, seconds
    before, first = "", step
    align_until, lean_until = options.phase_ends
    strong_until = align_until + (lean_until - align_until) / 3 if align_until else 0.0

    while True:
        progress = min(seconds / (60 * options.minutes), 1.0)
        phase: Phase = "align" if progress < align_until else "lean" if progress < lean_until else "full"
        if phase != before:
            before, first = phase, step
        for group in optimiser.param_groups:
            group["lr"] = options.learning_rate * min(1, (step - first + 1) / WARM_UP) * _late_cosine(progress)
        samples = {"align": ALIGN, "lean": LEAN, "full": FULL}[phase]
        samples = {**samples, "clips": samples["clips"] * options.scale}
        batch = _batch(real, simulated, rng, progress < strong_until, **samples)
        batch = _rob(batch, rng, ROBBED * max(0.0, 1 - progress / lean_until) if lean_until else 0.0)
        batch = on_device(options.device, batch)
        with torch.autocast(options.device, torch.bfloat16, enabled=options.half_precision):
            faded = AUXILIARY * (lean_until - progress) / (lean_until - align_until) if phase == "lean" else 0.0
            total, loss, features = losses(net, heads, batch, phase, faded)
        update(total, loss - log_error((batch.blurry - batch.sharp).flatten(0, 1)))
        step += 1
        decay = min(AVERAGE, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 1 - decay)
        if step % SYNCHRONISE_EVERY:
            continue
        seconds = _synchronise(parameters, time.monotonic() - start)
        done = seconds >= 60 * options.minutes
        if seconds - last < CHECK_EVERY and not done and step != 4 * SYNCHRONISE_EVERY:
            continue
        last = seconds
        gained, norms = update.history().T
        if rank == 0:
            entry = {
                "step": step,
                "minutes": round(seconds / 60, 2),
                "phase": phase,
                "train_gain": round(float(-gained.mean()) * 10 / math.log(10), 4),
                "gradient_norm": round(float(np.median(norms)), 4),
                **check_heads(average, heads, examples),
                **(check(average, examples) if phase != "align" else {}),
                "feature_std": [round(float(f.detach().float().std()), 4) for f in features],
                "gradients": gradient_norms(net),
                "clips": [len(real.names), len(simulated.names)],
            }
            print(json.dumps(entry), flush=True)
            with (options.run / "deblur.jsonl").open("a") as log:
                log.write(json.dumps(entry) + "\n")
            saved = {name: module.state_dict() for name, module in modules.items()}
            saved["optimiser"] = optimiser.state_dict()
            torch.save({**saved, "step": step, "seconds": seconds}, state.with_suffix(".tmp"))
            state.with_suffix(".tmp").rename(state)
            save_file(average.state_dict(), options.run / "deblur.safetensors")
        if done:
            return
        real.refresh()
        simulated.refresh()


@torch.no_grad()
def _synchronise(parameters: list[nn.Parameter], seconds: float) -> float:
    """Average the weights, and the clocks, over the workers."""
    if distributed.get_world_size() == 1:
        return seconds
    flat = torch.cat([*(p.flatten() for p in parameters), torch.tensor([seconds])])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    *parts, clock = flat.split([*(p.numel() for p in parameters), 1])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.copy_(part.view_as(parameter))
    return float(clock)


Tensors = TypeVar("Tensors", Batch, Example)


def on_device(device: str, tensors: Tensors) -> Tensors:
    """Move the clips and flows of a batch or an example; the host does not wait until they have arrived on a GPU."""
    moved: dict[str, Any] = {}
    for name in ("blurry", "sharp", "forward", "backward"):
        tensor: Tensor = getattr(tensors, name)
        # Only from pinned memory does a copy run beside the host.
        moved[name] = tensor.pin_memory().to(device, non_blocking=True) if device == "cuda" else tensor.to(device)
    return replace(tensors, **moved)


def _batch(
    real: Pool, simulated: Pool, rng: np.random.Generator, early: bool, *, clips: int, frames: int, crop: int
) -> Batch:
    share = REAL_SHARE[0 if early else 1]
    kinds: tuple[Kind, ...] | None = ("heavy", "mild") if early else None
    chosen = [real.pick(rng) if rng.random() < share else simulated.pick(rng, kinds) for _ in range(clips)]
    return draw(chosen, rng, frames=frames, crop=crop)


def _rob(batch: Batch, rng: np.random.Generator, share: float) -> Batch:
    """Take the detail from one frame of some samples."""
    blurry = batch.blurry.clone()
    for sample in blurry:
        if rng.random() < share:
            t = int(rng.integers(len(sample)))
            sample[t] = F.interpolate(F.avg_pool2d(sample[t : t + 1], 4), scale_factor=4, mode="bilinear")[0]
    return replace(batch, blurry=blurry)


def _late_cosine(progress: float) -> float:
    return 1.0 if progress < 0.45 else 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - 0.45) / 0.55))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--flow", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=75)
    parser.add_argument("--phase-ends", type=float, nargs=2, default=PHASE_ENDS)
    parser.add_argument("--start", type=Path, help="state or weights of an earlier run to begin with")
    parser.add_argument("--learning-rate", type=float, default=8e-4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--half-precision", action="store_true", help="bfloat16 convolutions (AVX512-BF16 or newer)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--scale", type=int, default=1, help="factor on the clips of a batch")
    train(TrainOptions(**vars(parser.parse_args())))
