"""Train the edge flow network on simulated clips with exact flow.

    python -m bsst.training.train_flow --data DIR --run DIR --minutes 15

Writes RUN/flow.pt (resumable state, every two minutes), RUN/flow.jsonl (log) and RUN/flow.safetensors.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bsst.config import EDGE
from bsst.reference.raft import RAFT, FixedBatchNorm, halve
from bsst.training.batches import Batch, Pool, draw

__all__ = ["initialise", "train"]

BATCH, FRAMES, CROP = 4, 3, 128
LEARNING_RATE, WARM_UP, WEIGHT_DECAY = 8e-4, 100, 1e-5
DECAY = 0.8
LARGEST = 25.0
"""Flows longer than this, in pixels at 1/4 scale, are left out of the loss."""


def initialise(raft: RAFT, clip: Tensor) -> None:
    """He initialisation; the fixed batch norm statistics become those of one batch, for stages at unit scale.

    Args:
        raft: network to initialise.
        clip: frames (N, 3, h, w) in [0, 1] on the grid that the network sees.
    """
    for name, module in raft.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear" if "gru" in name else "relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        raft.update_block.flow_head.conv2.weight.mul_(0.05)
        raft.cnet.conv2.weight.mul_(0.5)

    def measure(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(norm, FixedBatchNorm)
        norm.running_mean.copy_(inputs[0].mean(dim=(0, 2, 3)))
        norm.running_var.copy_(inputs[0].var(dim=(0, 2, 3)))

    hooks = [m.register_forward_pre_hook(measure) for m in raft.modules() if isinstance(m, FixedBatchNorm)]
    with torch.no_grad():
        raft.features(clip)
    for hook in hooks:
        hook.remove()


def predictions(raft: RAFT, batch: Batch) -> tuple[list[Tensor], Tensor]:
    """Flow at 1/4 scale after every update and the exact one, each (2N, 2, H/4, W/4): backward, then forward."""
    n, t = batch.blurry.shape[:2]
    fmap, hidden, context = (x.unflatten(0, (n, t)) for x in raft.features(halve(batch.blurry.flatten(0, 1))))
    a, b = ((fmap[:, s].flatten(0, 1), hidden[:, s].flatten(0, 1), context[:, s].flatten(0, 1)) for s in _PAIR)
    found = [halve(raft.upsample(flow, state)) / 2 for flow, state in raft.updates(a, b)]
    return found, torch.cat([batch.backward.flatten(0, 1), batch.forward.flatten(0, 1)])


_PAIR = (slice(None, -1), slice(1, None))


def loss_of(found: list[Tensor], exact: Tensor) -> Tensor:
    """Sum over updates of the decayed mean absolute error."""
    known = (exact.norm(dim=1, keepdim=True) < LARGEST).float()
    errors = [((flow - exact).abs() * known).mean() for flow in found]
    return torch.stack([e * DECAY ** (len(errors) - 1 - k) for k, e in enumerate(errors)]).sum()


@torch.no_grad()
def end_point_error(raft: RAFT, pool: Pool) -> tuple[float, float]:
    """Mean end-point error in pixels at 1/4 scale over held-out clips: found flow, zero flow."""
    raft.eval()
    found, zero = [], []
    for name in pool.names[:12]:
        rng = np.random.default_rng(0)
        flows, exact = predictions(raft, draw([pool.clips[name]], rng, frames=8, crop=128))
        found.append(float((flows[-1] - exact).norm(dim=1).mean()))
        zero.append(float(exact.norm(dim=1).mean()))
    return float(np.mean(found)), float(np.mean(zero))


def train(data: Path, run: Path, minutes: float, threads: int, seed: int) -> None:
    """Train for `minutes` of wall time, resumed ones included, and write the weights."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    run.mkdir(parents=True, exist_ok=True)
    pool, held = Pool(data / "sim" / "train"), Pool(data / "sim" / "held")
    raft = RAFT(EDGE.raft)
    initialise(raft, halve(draw([pool.pick(rng) for _ in range(8)], rng, frames=3, crop=CROP).blurry.flatten(0, 1)))
    optimiser = torch.optim.AdamW(raft.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    step, before = 0, 0.0
    state = run / "flow.pt"
    if state.exists():
        saved = torch.load(state, weights_only=True)
        raft.load_state_dict(saved["raft"])
        optimiser.load_state_dict(saved["optimiser"])
        step, before = saved["step"], saved["seconds"]
        rng = np.random.default_rng(seed + step)

    start, last = time.monotonic(), 0.0
    losses: list[float] = []
    while True:
        seconds = before + time.monotonic() - start
        progress = seconds / (60 * minutes)
        if seconds - last > 150 or progress >= 1:
            last = seconds
            error, zero = end_point_error(raft, held)
            entry = {"step": step, "minutes": seconds / 60, "loss": float(np.mean(losses or [0])), "epe": error}
            print(json.dumps(entry | {"epe_zero_flow": zero, "clips": len(pool.names)}), flush=True)
            with (run / "flow.jsonl").open("a") as log:
                log.write(json.dumps(entry | {"epe_zero_flow": zero}) + "\n")
            losses = []
            saved = {"raft": raft.state_dict(), "optimiser": optimiser.state_dict(), "step": step, "seconds": seconds}
            torch.save(saved, state.with_suffix(".tmp"))
            state.with_suffix(".tmp").rename(state)
            save_file(raft.state_dict(), run / "flow.safetensors")
            pool.refresh()
        if progress >= 1:
            return
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / WARM_UP) * (0.02 + 0.98 * _late_cosine(progress))
        raft.train()
        found, exact = predictions(raft, draw([pool.pick(rng) for _ in range(BATCH)], rng, frames=FRAMES, crop=CROP))
        loss = loss_of(found, exact)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(raft.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
        step += 1


def _late_cosine(progress: float) -> float:
    return 1.0 if progress < 0.4 else 0.5 * (1 + math.cos(math.pi * (progress - 0.4) / 0.6))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    train(arguments.data, arguments.run, arguments.minutes, arguments.threads, arguments.seed)
