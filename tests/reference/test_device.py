"""The reference keeps every tensor on the device of its input and never waits for it; shown with no GPU."""

import contextlib
import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bsst.config import CONFIGS
from bsst.reference.compact import make_network
from bsst.reference.raft import RAFT, quarter_flow
from tests.host_waits import HostWaits


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_no_pass_of_the_reference_waits_for_the_device(name: str) -> None:
    config = dataclasses.replace(CONFIGS[name], raft=dataclasses.replace(CONFIGS[name].raft, iterations=2))
    with torch.device("meta"):
        raft, network = RAFT(config.raft).eval(), make_network(config).eval()
    # Nine frames are continued to twelve.
    clip = torch.empty(9, 3, 128, 128, device="meta")
    with torch.no_grad(), HostWaits() as waits:
        forward, backward = quarter_flow(raft, clip)
        restored = network(clip[None], backward[None], forward[None])
    assert waits.found == set()
    assert restored.is_meta
    assert restored.shape == (1, 9, 3, 128, 128)
    assert waits.kernels > 1000


def test_flows_of_a_clip_start_as_many_kernels_as_flows_of_one_pair() -> None:
    with torch.device("meta"):
        raft = RAFT(CONFIGS["edge"].raft).eval()
    counts = []
    for frames in (2, 12):
        with torch.no_grad(), HostWaits() as waits:
            quarter_flow(raft, torch.empty(frames, 3, 128, 128, device="meta"))
        counts.append(waits.kernels)
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense asks for data"),
        (lambda x: x[x > 0], "asks for data"),
        (lambda x: x[:, torch.tensor([0, 1])], "a tensor from numbers of Python"),
        (lambda x: x + torch.ones(4).to(x.device), "copies between host and device"),
    ],
)
def test_what_waits_is_found(work: Callable[[Tensor], Tensor], reason: str) -> None:
    with HostWaits() as waits, contextlib.suppress(RuntimeError):  # there is no data to ask for
        work(torch.ones(4, 4, device="meta"))
    assert any(reason in found for found in waits.found), waits.found
