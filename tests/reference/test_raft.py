"""RAFT against the released network's stored outputs, and the properties that export and training rely on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bsst.config import EDGE, RELEASE
from bsst.reference import raft as module
from bsst.reference.raft import RAFT, _lookup, _pyramid, halve, quarter_flow
from tests.golden_inputs import video, weight

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def release() -> RAFT:
    raft = RAFT(RELEASE.raft).eval()
    values = {name: torch.from_numpy(weight(f"raft.{name}", tuple(v.shape))) for name, v in raft.state_dict().items()}
    raft.load_state_dict(values)
    return raft


@pytest.fixture(scope="module")
def edge() -> RAFT:
    torch.manual_seed(3)
    return RAFT(EDGE.raft).eval()


def natural_lookup(volume: Tensor, coordinates: Tensor, levels: int, radius: int) -> Tensor:
    """The definition, one grid_sample per level over all taps: (N, h*w, h, w) -> (N, levels * taps, h, w)."""
    n, _, h, w = coordinates.shape
    tap = torch.arange(-radius, radius + 1, dtype=torch.float32)
    dx, dy = tap[:, None].expand(len(tap), len(tap)), tap[None].expand(len(tap), len(tap))
    windows = []
    for number in range(levels):
        volume = torch.nn.functional.avg_pool2d(volume, 2) if number else volume
        size = torch.tensor([volume.shape[-1], volume.shape[-2]])
        centre = (coordinates / 2**number).permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
        grid = 2 * (centre + torch.stack([dx, dy], dim=-1)) / (size - 1) - 1
        image = volume.reshape(-1, 1, *volume.shape[-2:])
        windows.append(torch.nn.functional.grid_sample(image, grid, align_corners=True).reshape(n, h * w, -1))
    return torch.cat(windows, dim=2).transpose(1, 2).reshape(n, -1, h, w)


@pytest.mark.slow
def test_release_matches_the_released_network(release: RAFT) -> None:
    golden = np.load(DATA / "raft_T3_seed1.npz")
    clip = torch.from_numpy(video(3, 256, 256, seed=1))
    with torch.no_grad():
        features = [release.features(halve(frame[None])) for frame in clip]
        pairs = [release.flow(a, b) for a, b in zip(features, features[1:], strict=False)]
        forward, backward = quarter_flow(release, clip)
    for index, name in ((0, "raw_backward_stride2"), (1, "raw_forward_stride2")):
        raw = torch.cat([pair[index] for pair in pairs])[:, :, ::2, ::2].numpy()
        assert np.abs(raw - golden[name]).max() <= 1e-3
    assert np.abs(forward.numpy() - golden["flow_forward"]).max() <= 1e-3
    assert np.abs(backward.numpy() - golden["flow_backward"]).max() <= 1e-3
    assert np.abs(golden["flow_forward"]).max() > 1


@pytest.mark.parametrize("scale", [1.0, 40.0], ids=["near", "far_outside"])
def test_lookup_equals_sampling_every_tap(scale: float) -> None:
    config = EDGE.raft
    grid, generator = torch.Size((9, 11)), torch.Generator().manual_seed(5)
    volume = torch.randn(2, 99, 99, generator=generator)
    coordinates = torch.rand(2, 2, *grid, generator=generator) * 12 + scale * torch.randn(
        2, 2, *grid, generator=generator
    )
    found = _lookup(_pyramid(volume, grid, config), coordinates, config.radius)
    expected = natural_lookup(volume.reshape(2, 99, *grid), coordinates, config.levels, config.radius)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


def test_swapping_the_frames_swaps_the_flows(edge: RAFT) -> None:
    clip = torch.from_numpy(video(2, 144, 208, seed=4))
    with torch.no_grad():
        a, b = (edge.features(halve(frame[None])) for frame in clip)
        there, back = edge.flow(a, b)
        back_again, there_again = edge.flow(b, a)
    torch.testing.assert_close(there, there_again, atol=1e-4, rtol=0)
    torch.testing.assert_close(back, back_again, atol=1e-4, rtol=0)
    assert there.shape == (1, 2, 72, 104)


def test_a_batch_of_pairs_equals_the_pairs_alone(edge: RAFT) -> None:
    clip = torch.from_numpy(video(3, 128, 128, seed=6))
    with torch.no_grad():
        forward, backward = quarter_flow(edge, clip)
        fmap, hidden, context = edge.features(halve(clip))
        there, back = edge.flow((fmap[:-1], hidden[:-1], context[:-1]), (fmap[1:], hidden[1:], context[1:]))
    torch.testing.assert_close(backward, halve(there) / 2, atol=1e-4, rtol=0)
    torch.testing.assert_close(forward, halve(back) / 2, atol=1e-4, rtol=0)


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_flows_of_a_clip_equal_those_of_its_pairs_alone(
    edge: RAFT, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    clip = torch.from_numpy(video(6, 64, 96, seed=4))
    monkeypatch.setattr(module, "VOLUME_VALUES", at_once * module._volume_values(4, 6, edge.config))
    with torch.no_grad():
        forward, backward = quarter_flow(edge, clip)
        features = [edge.features(halve(frame[None])) for frame in clip]
        for t in range(5):
            ahead, behind = edge.flow(features[t], features[t + 1])
            assert (backward[t] - halve(ahead)[0] / 2).abs().max() < 1e-5
            assert (forward[t] - halve(behind)[0] / 2).abs().max() < 1e-5
    assert forward.shape == backward.shape == (5, 2, 16, 24)


def test_every_parameter_receives_a_gradient_from_the_sequence_of_updates(edge: RAFT) -> None:
    raft = RAFT(EDGE.raft)
    raft.load_state_dict(edge.state_dict())
    a, b = (raft.features(halve(frame[None])) for frame in torch.from_numpy(video(2, 128, 128, seed=7)))
    torch.stack([raft.upsample(flow, hidden).square().mean() for flow, hidden in raft.updates(a, b)]).sum().backward()
    silent = [name for name, p in raft.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # Instance norm removes the mean, so a bias in front of it cannot act.
    assert all(name.startswith("fnet.") and name.endswith(".bias") for name in silent), silent
