"""What bounds the harm of the small network: frames whose motion it cannot know come out as they went in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bsst.config import EDGE
from bsst.reference.blur import followed
from bsst.reference.bsstnet import BSSTNet
from bsst.reference.compact import make_network
from bsst.reference.restraint import Restraint, evidence, kept_share

FRAMES = 6


@pytest.fixture(scope="module")
def network() -> BSSTNet:
    torch.manual_seed(0)
    network = make_network(EDGE).eval()
    torch.nn.init.normal_(network.restraint.last.weight, std=0.05)
    return network


def uniform(x: float, y: float = 0.0, frames: int = FRAMES) -> Tensor:
    """The same motion everywhere, (1, T-1, 2, 16, 16), pixels at 1/4 scale."""
    return torch.tensor([x, y])[None, None, :, None, None].expand(1, frames - 1, 2, 16, 16).contiguous()


def change(network: BSSTNet, backward: Tensor, forward: Tensor) -> Tensor:
    frames = torch.rand(1, backward.shape[1] + 1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        restored: Tensor = network(frames, backward, forward)
    assert restored.isfinite().all()
    return (restored - frames).abs()


def test_flows_that_agree_are_followed_and_random_ones_are_not() -> None:
    noise = [10 * torch.randn(1, 5, 2, 32, 32, generator=torch.Generator().manual_seed(k)) for k in (0, 1)]
    assert followed(uniform(2), uniform(-2)).item() > 0.85  # what leaves the frame is not seen again
    assert followed(uniform(2), uniform(2)).item() == 0
    assert followed(*noise, limit=8.0).item() < 0.02
    assert followed(uniform(9), uniform(-9), limit=8.0).item() == 0


def test_motion_that_is_followed_is_changed(network: BSSTNet) -> None:
    assert change(network, uniform(2), uniform(-2)).mean() > 1e-3


@pytest.mark.parametrize("kind", ["still", "faster than anything in training", "random", "one way only"])
def test_what_does_not_move_or_cannot_be_followed_is_left_alone(network: BSSTNet, kind: str) -> None:
    noise = [10 * torch.randn(1, FRAMES - 1, 2, 16, 16, generator=torch.Generator().manual_seed(k)) for k in (0, 1)]
    flows = {
        "still": (uniform(0.1), uniform(-0.1)),
        "faster than anything in training": (uniform(17), uniform(-17)),
        "random": tuple(noise),
        "one way only": (uniform(3), uniform(3)),
    }
    assert torch.equal(change(network, *flows[kind]), torch.zeros(1, FRAMES, 3, 64, 64))


@pytest.mark.parametrize(("contrast", "changed"), [(1.0, True), (0.05, False)], ids=["detailed", "smooth"])
def test_a_picture_nearly_without_detail_is_left_alone(network: BSSTNet, contrast: float, changed: bool) -> None:
    grey = torch.rand(1, FRAMES, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    frames = 0.5 + contrast * (grey - 0.5)
    with torch.no_grad():
        restored = network(frames, uniform(2), uniform(-2))
    assert bool((restored - frames).abs().max() > 0) == changed


def test_detail_is_that_of_what_moves() -> None:
    rng = torch.Generator().manual_seed(0)
    half = torch.cat((torch.rand(1, 3, 64, 64, generator=rng), torch.full((1, 3, 64, 64), 0.5)), 3)
    right = torch.zeros(1, 4, 32, 64)
    right[:, 0, :, 40:], right[:, 2, :, 40:] = -2, 2
    details = [float(Restraint.detail_of(evidence(half, motion), motion)) for motion in (right, right.flip(3))]
    assert details[0] < 0.5
    assert details[1] > 5
    assert float(Restraint.detail_of(evidence(half, 0 * right), 0 * right)) == 0


def test_a_faint_change_is_kept_only_where_there_is_fine_detail_and_a_large_one_anywhere() -> None:
    sharp = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    enlarged = torch.nn.functional.interpolate(sharp[..., :8, :8], size=(64, 64), mode="bilinear")
    moved = torch.ones(1, 1, 64, 64)

    def kept(frames: Tensor, levels: float) -> float:
        return kept_share(frames, torch.full_like(frames, levels / 255), moved, fine=(3.0, 4.0), sure=3.0).item()

    assert kept(sharp, 1) == 1
    assert kept(enlarged, 1) < 0.02
    assert kept(enlarged, 3) == pytest.approx(0.5, abs=0.01)
    assert kept(enlarged, 12) > 0.99


def test_the_change_of_what_moves_counts_however_little_moves() -> None:
    frames, moved = torch.full((1, 3, 64, 64), 0.5), torch.zeros(1, 1, 64, 64)
    moved[..., :16] = 1
    kept = kept_share(frames, moved * 3 / 255, moved, fine=(3.0, 4.0), sure=3.0)
    assert kept.item() == pytest.approx(0.5, abs=0.01)


def test_no_pixel_changes_beyond_the_limit_in_48_frames(network: BSSTNet) -> None:
    assert EDGE.residual_limit is not None
    assert change(network, uniform(2, frames=48), uniform(-2, frames=48)).max() <= EDGE.residual_limit + 1e-6
