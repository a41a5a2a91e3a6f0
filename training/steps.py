"""Training steps of the flow network and of the deblurring network, and their capture as CUDA graphs.

Nothing in `work` asks the device for data, copies between host and device, or has a shape that depends on data, so each
step is captured once and replayed. On a CPU the same functions run directly.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsst.reference.bsstnet import BSSTNet
from bsst.reference.raft import RAFT, Features, halve
from bsst.training.clips_at_once import restore_clips
from bsst.training.codec import Codec
from bsst.training.flow_loss import loss_of, predictions
from bsst.training.heads import Heads
from bsst.training.pool import Pool
from bsst.training.render import Bank, render

__all__ = ["FlowStep", "NetworkStep", "Refill", "captured", "flows_of"]

AVERAGE = 0.999
FLOOR, HARM_FLOOR, HARM = 2e-4, 2e-5, 0.8
"""Gains count up to 37 dB, losses up to 47 dB, and weigh this much."""


@torch.no_grad()
def flows_of(raft: RAFT, clips: Tensor) -> tuple[Tensor, Tensor]:
    """`quarter_flow` of all pairs of clips (N, T, 3, S, S) at once: forward, backward, (N, T-1, 2, S/4, S/4)."""
    n, t = clips.shape[:2]
    matching, hidden, context = (x.unflatten(0, (n, t)) for x in raft.features(halve(clips.flatten(0, 1))))

    def frames(start: int, end: int) -> Features:
        at = slice(start, end)
        return matching[:, at].flatten(0, 1), hidden[:, at].flatten(0, 1), context[:, at].flatten(0, 1)

    backward, forward = raft.flow(frames(0, t - 1), frames(1, t))
    return (halve(forward) / 2).unflatten(0, (n, t - 1)), (halve(backward) / 2).unflatten(0, (n, t - 1))


class Refill:
    """Renders clips, finds their flows, puts them into the pool."""

    def __init__(self, pool: Pool, bank: Bank, raft: RAFT) -> None:
        self.pool, self.bank, self.raft, self.codec = pool, bank, raft, Codec(bank.linear.device)

    @torch.no_grad()
    def work(self) -> None:
        """Replace the oldest simulated clips."""
        t, side = self.pool.blurry.shape[1], self.pool.blurry.shape[3]
        new = render(self.bank, self.codec, len(self.pool.place), t, side)
        forward, backward = flows_of(self.raft, new.blurry)
        exact = {"exact_forward": new.forward, "exact_backward": new.backward}
        self.pool.put(self.pool.place, blurry=new.blurry, sharp=new.sharp, forward=forward, backward=backward, **exact)
        self.pool.advance()


class _Step:
    """Weights, optimiser, average and running sums, all on the device; the learning rate is 0 until it is set.

    `numbers` sums what `_finish` is told, the gradient norm, refused steps and steps.
    """

    def __init__(self, module: nn.Module, others: Iterable[nn.Parameter], clip: float, decay: float) -> None:
        device = next(module.parameters()).device
        cuda = device.type == "cuda"
        self.module, self.clip = module, clip
        self.parameters = [*module.parameters(), *others]
        self.rate = torch.zeros((), device=device)
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=self.rate if cuda else 0.0, betas=(0.9, 0.99), weight_decay=decay, fused=cuda,
            capturable=cuda,
        )  # fmt: skip
        self.average = copy.deepcopy(module).eval().requires_grad_(False)
        self.numbers = torch.zeros(6, device=device)

    def set_rate(self, rate: float) -> None:
        """Learning rate of the next steps."""
        self.rate.fill_(rate)
        if self.rate.device.type == "cpu":
            self.optimiser.param_groups[0]["lr"] = rate

    def _finish(self, loss: Tensor, *told: Tensor) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip)
        bad = (~torch.isfinite(norm)).float()
        if norm.device.type == "cuda":  # the fused step itself refuses what is not finite
            optimiser: Any = self.optimiser  # its type does not declare what `GradScaler` sets on it
            optimiser.grad_scale, optimiser.found_inf = None, bad
        self.optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.module.parameters()), 1 - AVERAGE)
            zero = torch.zeros_like(bad)
            kept = [torch.where(bad > 0, zero, x.detach().float()) for x in (*told, norm)]
            self.numbers.add_(torch.stack((*kept, *(zero,) * (4 - len(kept)), bad, torch.ones_like(bad))))


class FlowStep(_Step):
    """One step of the flow network on simulated clips; tells the loss and the end-point error."""

    average: RAFT

    def __init__(self, raft: RAFT) -> None:
        super().__init__(raft, (), clip=1.0, decay=1e-5)
        self.raft = raft

    def work(self, pool: Pool, clips: int, frames: int, crop: int) -> None:
        """Draw, step, average."""
        found, exact = predictions(self.raft, pool.draw(clips, frames, crop))
        loss = loss_of(found, exact)
        self._finish(loss, loss, (found[-1] - exact).norm(dim=1).mean())


class NetworkStep(_Step):
    """One step of the deblurring network; tells the gain and the gain before the change is restrained, in nepers."""

    average: BSSTNet

    def __init__(self, net: BSSTNet) -> None:
        device = next(net.parameters()).device
        self.heads = Heads(net.config.channels, len(net.config.branches) + 1).to(device)
        # One learning rate suits weights whose inputs are of one size; saved weights contain the sizes.
        scales = net.restraint.input_scales.to(device)
        self.scales = scales
        with torch.no_grad():
            net.restraint.first.weight.div_(scales)
        super().__init__(net, self.heads.parameters(), clip=5.0, decay=0.0)
        for module in (net, self.average):
            module.restraint.first.register_forward_pre_hook(lambda _, inputs: (inputs[0] * scales,))
        self.net = net
        self.auxiliary, self.free, self.robbed, self.real_share = (torch.zeros((), device=device) for _ in range(4))

    def work(self, pool: Pool, clips: int, frames: int, crop: int) -> None:
        """Draw, step, average."""
        batch = pool.draw(clips, frames, crop, self.real_share)
        batch = replace(batch, blurry=self._rob(batch.blurry))
        with half_precision(batch.blurry.device):
            restored, changed, features = restore_clips(self.net, batch)
            heads = self.heads.loss(features[1:], batch)
        blurry, sharp = batch.blurry.flatten(0, 1), batch.sharp.flatten(0, 1)

        def error(frames: Tensor, floor: float) -> Tensor:
            return torch.log((frames.float() - sharp).square().mean((1, 2, 3)) + floor)

        after, free, before = (error(f, FLOOR) for f in (restored, changed, blurry))
        harm = F.relu(error(restored, HARM_FLOOR) - error(blurry, HARM_FLOOR))
        loss = after.mean() + HARM * harm.mean() + self.free * free.mean() + self.auxiliary * heads
        self._finish(loss, (before - after).mean(), (before - free).mean(), harm.mean())

    def weights(self) -> dict[str, Tensor]:
        """Averaged weights as the network itself takes them."""
        tensors = {name: tensor.detach().float().contiguous() for name, tensor in self.average.state_dict().items()}
        tensors["restraint.first.weight"] = tensors["restraint.first.weight"] * self.scales
        return tensors

    def _rob(self, blurry: Tensor) -> Tensor:
        """Take the detail from one frame of some clips."""
        n, t = blurry.shape[:2]
        plain = F.interpolate(F.avg_pool2d(blurry.flatten(0, 1), 4), scale_factor=4, mode="bilinear").unflatten(
            0, (n, t)
        )
        chosen = torch.arange(t, device=blurry.device) == torch.randint(t, (n, 1), device=blurry.device)
        chosen = chosen & (torch.rand(n, 1, device=blurry.device) < self.robbed)
        return torch.where(chosen[:, :, None, None, None], plain, blurry)


def half_precision(device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 convolutions on a GPU; their cached weights must not outlive a captured graph."""
    return torch.autocast("cuda", torch.bfloat16, cache_enabled=False) if device.type == "cuda" else nullcontext()


def captured(work: Callable[[], None], warm_up: int = 3) -> Callable[[], None]:
    """`work` as a graph whose replay starts it again; on a CPU `work` itself."""
    if not torch.cuda.is_available():
        return work
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(warm_up):  # cuDNN chooses, cuBLAS takes its workspace, the optimiser makes its state
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay
