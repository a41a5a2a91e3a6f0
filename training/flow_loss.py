"""What the flow network is trained to minimise."""

from __future__ import annotations

import torch
from torch import Tensor

from bsst.reference.raft import RAFT, halve
from bsst.training.batch import Batch

__all__ = ["loss_of", "predictions"]

DECAY = 0.8
LARGEST = 25.0
"""Flows longer than this, in pixels at 1/4 scale, are left out of the loss."""


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
