"""A step of training waits for no device, and refuses what is not finite without looking at it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bsst.config import EDGE
from bsst.reference.compact import make_network
from bsst.training.batches import Batch
from bsst.training.phases import Heads, Phase, log_error, losses
from bsst.training.update import Update
from tests.host_waits import HostWaits


class Nothing:
    def zero_grad(self) -> None: ...

    def step(self) -> None: ...


@pytest.mark.parametrize("phase", ["lean", "full"])
def test_no_step_of_training_waits_for_the_device(phase: Phase, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        net, heads = make_network(EDGE), Heads(EDGE.channels, len(EDGE.branches) + 1)
        images, flows = torch.empty(2, 4, 3, 64, 64), torch.empty(2, 3, 2, 16, 16)
    batch = Batch(images, images.clone(), flows, flows.clone())
    parameters = [*net.parameters(), *heads.parameters()]
    # The fused optimiser, one kernel, refuses tensors without data; all around it is what a GPU runs.
    monkeypatch.setattr(torch.optim, "AdamW", lambda parameters, **_: Nothing())
    update = Update(parameters, 1e-3)
    with HostWaits() as waits:
        total, loss, _ = losses(net, heads, batch, phase, 0.1)
        forward = waits.kernels
        update(total, loss - log_error((batch.blurry - batch.sharp).flatten(0, 1)))
    assert waits.found == set()
    assert waits.kernels > 1.5 * forward > 500


def step(weight: nn.Parameter, gradient: Tensor, update: Update) -> None:
    update((weight * gradient).sum(), torch.tensor(0.5))


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_told() -> None:
    weight = nn.Parameter(torch.ones(3))
    update = Update([weight], 0.1)
    step(weight, torch.ones(3), update)
    known, state = weight.detach().clone(), copy.deepcopy(update.optimiser.state_dict())
    assert (known < 1).all()
    step(weight, torch.tensor([1.0, torch.inf, 1.0]), update)
    assert torch.equal(weight, known)
    for name, value in update.optimiser.state_dict()["state"][0].items():
        assert torch.equal(value, state["state"][0][name]), name
    step(weight, torch.ones(3), update)
    assert (weight < known).all()
    gained, norms = update.history().T
    assert gained.tolist() == [0.5] * 3
    assert norms[[0, 2]] == pytest.approx(3**0.5)
    assert not norms[1] < torch.inf


def test_a_state_of_the_optimiser_without_fusion_goes_on_as_it_would_have() -> None:
    def run(weight: nn.Parameter, optimiser: Any) -> Tensor:
        for value in (0.5, -0.25):
            optimiser.zero_grad()
            (weight.square() * value).sum().backward()
            optimiser.step()
        return weight.detach().clone()

    weight = nn.Parameter(torch.ones(3))
    plain = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.0)
    run(weight, plain)
    saved, start = copy.deepcopy(plain.state_dict()), weight.detach().clone()
    expected = run(weight, plain)
    other = nn.Parameter(start)
    update = Update([other], 0.1)
    update.load(saved)
    torch.testing.assert_close(run(other, update.optimiser), expected)
    assert update.optimiser.param_groups[0]["fused"]
