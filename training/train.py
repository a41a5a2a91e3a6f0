"""Train the flow network, then the deblurring network with its restraint, on one GPU in minutes; a CPU takes days.

    python -m bsst.training.train --data PACK --out RUN --minutes 9.3

PACK holds photo/*.webp, shots/*.mp4 (interpolated shots) and, if there is one, validation.npz (arrays NAME_blurry and
NAME_sharp, (T, H, W, 3) uint8); `bsst.training.datapack` makes it. One JSON line every half minute goes to
RUN/log.jsonl; RUN/flow.safetensors and RUN/deblur.safetensors, averaged weights, are renewed every minute.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bsst.config import EDGE
from bsst.reference.bsstnet import BSSTNet
from bsst.reference.compact import make_network
from bsst.reference.raft import RAFT, halve, quarter_flow
from bsst.training.evaluate import Example, gain
from bsst.training.footage import fill_real, photographs, shots
from bsst.training.initialise import initialise, initialise_flow
from bsst.training.pool import Pool
from bsst.training.render import Bank
from bsst.training.steps import FlowStep, NetworkStep, Refill, captured, flows_of

__all__ = ["Options", "begin", "train"]

WARM_UP = 300
LINE_EVERY, CHECK_EVERY = 30.0, 60.0
AUXILIARY, ROBBED, UNTIL = 0.3, 0.3, 0.45
"""Weight of the heads and share of robbed frames at the start; both are gone after this share of the training."""
FREE = (1.0, 0.3)
"""Weight of the loss before the change is restrained, at the start and from then on: a restraint that has learned that
nothing can be trusted teaches the rest of the network nothing."""
REAL_SHARE = 0.25


@dataclasses.dataclass(frozen=True)
class Options:
    """What to train on, for how long, and in what portions."""

    data: Path
    out: Path
    minutes: float = 9.0
    """Wall time of everything."""
    flow_share: float = 0.3
    """Of the wall time, until the flow network is done."""
    start: Path | None = None
    """Weights of both networks to begin with, as `bsst.training.pack` writes them."""
    rate: float = 7e-4
    flow_rate: float = 8e-4
    clips: int = 16
    frames: int = 6
    crop: int = 128
    flow_clips: int = 32
    side: int = 176
    pool: tuple[int, int] = (1024, 4096)
    """Real clips and simulated clips in memory."""
    at_once: int = 32
    """Clips that are rendered at once."""
    render_share: float = 0.15
    """Of the time that steps take, rendering may take this much more."""
    channels_last: bool = True
    seed: int = 1


class _Log:
    def __init__(self, path: Path) -> None:
        self.began, self.path = time.monotonic(), path

    def seconds(self) -> float:
        return time.monotonic() - self.began

    def say(self, **entry: object) -> None:
        line = json.dumps({"seconds": round(self.seconds(), 1), **entry})
        print(line, flush=True)
        with self.path.open("a") as file:
            file.write(line + "\n")


def train(options: Options) -> None:
    """Train both networks within `options.minutes`."""
    options.out.mkdir(parents=True, exist_ok=True)
    log = _Log(options.out / "log.jsonl")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(options.seed)

    bank = Bank(photographs(options.data / "photo").to(device))
    raft, net = (
        RAFT(EDGE.raft),
        make_network(dataclasses.replace(EDGE, followed_share=None, detail=None, fine_detail=None)),
    )
    initialise(net)
    real, simulated = options.pool
    pool = Pool.empty(real + simulated, real, options.frames + 1, options.side, options.at_once, device)
    raft.to(device)
    if options.start is not None:
        begin(options.start, net, raft)
    else:
        pictures = bank.linear[: options.at_once].float().pow(1 / 2.2)
        initialise_flow(raft, halve(pictures[:, :, : options.side, : options.side]))
    flow_step = FlowStep(raft)
    found = shots(options.data / "shots")
    log.say(what="loaded", photographs=len(bank.linear), shots=len(found))
    fill_real(pool, found, flow_step.average, options.seed)
    refill = Refill(pool, bank, flow_step.average)
    more = captured(refill.work, warm_up=1)
    rendering = _clock(more, max(1, simulated // len(pool.place)))
    log.say(what="filled", render_ms=round(1e3 * rendering, 2), memory_gb=round(pool.nbytes() / 1e9, 2))

    ends = 60 * options.minutes * options.flow_share
    if ends > log.seconds():
        _train_flow(options, log, flow_step, pool, more, rendering, ends)
    _find_flows(pool, flow_step.average)
    clips = validation(options.data / "validation.npz", flow_step.average, device)
    log.say(what="flows found")
    placed: Any = net  # torch does not declare the memory format of `Module.to`
    placed.to(device, memory_format=torch.channels_last if options.channels_last else torch.preserve_format)
    _train_network(options, log, NetworkStep(net), pool, more, rendering, clips)


def begin(weights: Path, net: BSSTNet, raft: RAFT) -> None:
    """Take both networks' weights from one file, in which those of `raft` have its name before theirs."""
    tensors = load_file(weights)
    net.load_state_dict({name: v for name, v in tensors.items() if not name.startswith("raft.")})
    raft.load_state_dict({name.removeprefix("raft."): v for name, v in tensors.items() if name.startswith("raft.")})


def _train_flow(
    options: Options, log: _Log, step: FlowStep, pool: Pool, more: Callable[[], object], rendering: float, ends: float
) -> None:
    work = captured(lambda: step.work(pool, options.flow_clips, 3, options.side))
    begins = log.seconds()
    every = _refill_every(options, log, work, rendering, "flow")
    step.numbers.zero_()
    count, last = 0, log.seconds()
    while True:
        progress = (log.seconds() - begins) / (ends - begins)
        step.set_rate(options.flow_rate * min(1, (count + 1) / WARM_UP) * _late_cosine(progress))
        count = _few_steps(work, more, count, every)
        if log.seconds() - last > LINE_EVERY or progress >= 1:
            last = log.seconds()
            loss, error, norm, _, bad, steps = step.numbers.tolist()
            step.numbers.zero_()
            kept = max(steps - bad, 1)
            log.say(what="flow", steps=count, loss=loss / kept, end_point_error=error / kept, norm=norm / kept, bad=bad)
            save_file(_plain(step.average.state_dict()), options.out / "flow.safetensors")
        if progress >= 1:
            return


@torch.no_grad()
def _find_flows(pool: Pool, raft: RAFT) -> None:
    """Flows of every clip anew."""
    for places in torch.arange(len(pool.blurry), device=pool.blurry.device).split(64):
        forward, backward = flows_of(raft, pool.blurry[places].float() / 255)
        pool.put(places, forward=forward, backward=backward)


def _train_network(
    options: Options,
    log: _Log,
    step: NetworkStep,
    pool: Pool,
    more: Callable[[], object],
    rendering: float,
    clips: list[Example],
) -> None:
    step.real_share.fill_(REAL_SHARE if pool.real else 0.0)
    work = captured(lambda: step.work(pool, options.clips, options.frames, options.crop))
    begins, ends = log.seconds(), 60 * options.minutes
    every = _refill_every(options, log, work, rendering, "network")
    step.numbers.zero_()
    count, last, checked = 0, log.seconds(), log.seconds()
    while True:
        progress = (log.seconds() - begins) / max(ends - begins, 1)
        step.set_rate(options.rate * min(1, (count + 1) / WARM_UP) * _late_cosine(progress))
        early = max(0.0, 1 - progress / UNTIL)
        step.auxiliary.fill_(AUXILIARY * early)
        step.robbed.fill_(ROBBED * early)
        step.free.fill_(FREE[1] + (FREE[0] - FREE[1]) * early)
        count = _few_steps(work, more, count, every)
        if log.seconds() - last > LINE_EVERY or progress >= 1:
            last = log.seconds()
            gained, free, harm, norm, bad, steps = step.numbers.tolist()
            step.numbers.zero_()
            kept, decibels = max(steps - bad, 1), 10 / math.log(10)
            log.say(what="network", steps=count, gain=decibels * gained / kept, gain_free=decibels * free / kept,
                    harm=decibels * harm / kept, norm=norm / kept, bad=bad,
                    pixels=count * options.clips * options.frames * options.crop**2)  # fmt: skip
        if log.seconds() - checked > CHECK_EVERY or progress >= 1:
            checked = log.seconds()
            log.say(what="check", steps=count, **{c.name: round(gain(step.average, c), 4) for c in clips})
            save_file(step.weights(), options.out / "deblur.safetensors")
        if progress >= 1:
            torch.save(_plain(step.net.state_dict()), options.out / "last.pt")
            return


def validation(path: Path, raft: RAFT, device: torch.device) -> list[Example]:
    """Clips to watch, with their flows; none where there is no file."""
    if not path.exists():
        return []
    arrays, clips = np.load(path), []
    for name in sorted(key.removesuffix("_blurry") for key in arrays if key.endswith("_blurry")):
        blurry, sharp = (
            torch.from_numpy(arrays[f"{name}_{kind}"]).permute(0, 3, 1, 2).float().to(device) / 255
            for kind in ("blurry", "sharp")
        )
        with torch.no_grad():
            forward, backward = quarter_flow(raft, blurry)
        clips.append(Example(name, blurry[None], sharp[None], forward[None], backward[None]))
    return clips


def _refill_every(options: Options, log: _Log, work: Callable[[], object], rendering: float, name: str) -> int:
    """After how many steps clips are rendered anew, so that it takes the share of the time that it may."""
    seconds = _clock(work, 10 if torch.cuda.is_available() else 1)
    every = max(1, math.ceil(rendering / (options.render_share * seconds)))
    log.say(what="captured", step=name, step_ms=round(1e3 * seconds, 2), refill_every=every)
    return every


def _few_steps(work: Callable[[], object], more: Callable[[], object], count: int, every: int) -> int:
    """Some steps, with clips rendered anew after every so many; waits for the device. The number of steps so far."""
    for _ in range(10 if torch.cuda.is_available() else 1):
        work()
        count += 1
        if count % every == 0:
            more()
    _finish()
    return count


def _clock(work: Callable[[], object], times: int) -> float:
    began = time.monotonic()
    for _ in range(times):
        work()
    _finish()
    return (time.monotonic() - began) / times


def _finish() -> None:
    """Wait for the device: launches of graphs return at once, and the clock says when training ends."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().float().contiguous() for name, tensor in copy.copy(tensors).items()}


def _late_cosine(progress: float) -> float:
    late = min(max(0.0, progress - 0.4) / 0.6, 1.0)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * late))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(Options):
        flag = f"--{field.name.replace('_', '-')}"
        if field.name == "pool":
            parser.add_argument(flag, type=int, nargs=2, default=field.default)
        elif field.type == "bool":
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=field.default)
        elif field.default is dataclasses.MISSING or field.default is None:
            parser.add_argument(flag, type=Path, required=field.default is dataclasses.MISSING)
        else:
            parser.add_argument(flag, type=type(field.default), default=field.default)
    given = vars(parser.parse_args())
    train(Options(**{**given, "pool": tuple(given["pool"])}))


if __name__ == "__main__":
    main()
