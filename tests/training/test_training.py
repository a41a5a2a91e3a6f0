"""Training data is what it claims to be, and training starts where motion can pay."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bsst.config import EDGE
from bsst.plugins.flow_warp import flow_warp
from bsst.reference.bsstnet import BSSTNet
from bsst.reference.compact import make_network
from bsst.reference.raft import halve
from bsst.training.batches import Batch, Pool, draw
from bsst.training.cache import load, save
from bsst.training.evaluate import Example, gain, gain_alone, psnr
from bsst.training.initialise import initialise
from bsst.training.phases import Heads, run_stages
from bsst.training.plot_log import join
from bsst.training.real import average
from bsst.training.simulate import Clip, Kind, simulate


def photograph(seed: int, height: int = 260, width: int = 340) -> Tensor:
    noise = torch.rand(3, height // 5, width // 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise[None], (height, width), mode="bicubic")[0].clamp(0, 1)


@pytest.fixture(scope="module")
def clips() -> dict[Kind, Clip]:
    pictures = [photograph(i) for i in range(3)]
    kinds: tuple[Kind, ...] = ("heavy", "mild", "sharp")
    return {kind: simulate(pictures, np.random.default_rng(4), kind, frames=6, size=64) for kind in kinds}


@pytest.fixture(scope="module")
def batch(clips: dict[Kind, Clip]) -> Batch:
    return draw([clips["heavy"], clips["mild"]], np.random.default_rng(0), frames=6, crop=64)


@pytest.fixture(scope="module")
def net() -> BSSTNet:
    torch.manual_seed(0)
    network = make_network(EDGE).eval()
    initialise(network)
    return network


def warped_error(batch: Batch, factor: float) -> float:
    """Mean difference of sharp frames at 1/4 scale after warping with `factor` times the flow, both directions."""
    quarter = halve(halve(batch.sharp.flatten(0, 1))).unflatten(0, batch.sharp.shape[:2])
    to_next = flow_warp(quarter[:, 1:].flatten(0, 1), factor * batch.backward.flatten(0, 1))
    to_previous = flow_warp(quarter[:, :-1].flatten(0, 1), factor * batch.forward.flatten(0, 1))
    inner = np.s_[..., 3:-3, 3:-3]
    errors = ((to_next - quarter[:, :-1].flatten(0, 1))[inner], (to_previous - quarter[:, 1:].flatten(0, 1))[inner])
    return float(torch.stack([e.abs().mean() for e in errors]).mean())


def test_exact_flow_aligns_the_sharp_frames(clips: dict[Kind, Clip]) -> None:
    sample = draw([clips["mild"]], np.random.default_rng(0), frames=6, crop=64)
    assert warped_error(sample, 1.0) < 0.5 * warped_error(sample, 0.0)
    assert warped_error(sample, 1.0) < 0.5 * warped_error(sample, -1.0)


@pytest.mark.parametrize("seed", range(6))
def test_augmentation_keeps_flow_and_frames_together(clips: dict[Kind, Clip], seed: int) -> None:
    sample = draw([clips["mild"]], np.random.default_rng(seed), frames=4, crop=48)
    assert warped_error(sample, 1.0) < 0.6 * warped_error(sample, 0.0)


def test_kinds_differ_in_blur(clips: dict[Kind, Clip]) -> None:
    def quality(clip: Clip) -> float:
        return float(psnr(*(torch.tensor(v).permute(0, 3, 1, 2) / 255 for v in (clip.blurry, clip.sharp))).mean())

    assert quality(clips["heavy"]) < quality(clips["mild"]) < quality(clips["sharp"])


def test_a_clip_is_the_same_whenever_it_is_rendered() -> None:
    first, second = (simulate([photograph(1)], np.random.default_rng(9), "mild", frames=3, size=32) for _ in range(2))
    assert np.array_equal(first.blurry, second.blurry)
    assert np.array_equal(first.forward, second.forward)


def test_clips_survive_the_cache(clips: dict[Kind, Clip], tmp_path: Path) -> None:
    save(clips["mild"], tmp_path / "000007.npz")
    again = load(tmp_path / "000007.npz")
    for name in ("blurry", "sharp", "forward", "backward"):
        assert np.array_equal(getattr(again, name), getattr(clips["mild"], name))
    pool = Pool(tmp_path)
    assert pool.names == ["000007.npz"]


def test_exposures_are_averaged_in_linear_light() -> None:
    video = np.zeros((3, 4, 6, 3), np.uint8)
    video[1] = 255
    blurry = average(video, [1], 3)
    assert blurry.shape == (1, 4, 6, 3)
    assert int(blurry.max()) == int(blurry.min()) == round(255 * (1 / 3) ** (1 / 2.2))


def test_training_starts_from_the_identity_with_both_graphs(net: BSSTNet, batch: Batch) -> None:
    with torch.no_grad():
        lean, lean_features = run_stages(net, batch, "lean")
        full, full_features = run_stages(net, batch, "full")
        whole = net(batch.blurry, batch.backward, batch.forward)
    for restored in (lean, full, whole):
        assert torch.equal(restored, batch.blurry)
    for a, b in zip(lean_features, full_features, strict=True):
        assert torch.equal(a, b)


def test_the_training_graph_is_the_network(batch: Batch) -> None:
    torch.manual_seed(2)
    network = make_network(EDGE).eval()
    initialise(network)
    torch.nn.init.normal_(network.last_conv.weight, std=0.05)
    torch.nn.init.normal_(network.softcomp.bias_conv.weight, std=0.05)
    with torch.no_grad():
        found, _ = run_stages(network, batch, "full")
        expected = network(batch.blurry, batch.backward, batch.forward)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert (expected - batch.blurry).abs().max() > 1e-3


def test_features_start_at_unit_scale_and_do_not_grow_with_the_clip(net: BSSTNet) -> None:
    generator = torch.Generator().manual_seed(1)
    frames = torch.rand(1, 12, 3, 64, 64, generator=generator)
    flow = torch.randn(1, 11, 2, 16, 16, generator=generator)
    with torch.no_grad():
        _, features = run_stages(net, Batch(frames, frames, flow, -flow), "align")
    for name, feature in zip(("encoder", *EDGE.branches, "reconstruction"), features, strict=True):
        assert 0.1 < float(feature.std()) < 3, name
        assert float(feature.std(dim=(-2, -1)).mean() / feature.std()) > 0.3, f"{name}: a constant channel pattern"


def test_other_frames_reach_the_propagated_features_from_the_start(net: BSSTNet, batch: Batch) -> None:
    other = Batch(batch.blurry.clone(), batch.sharp, batch.forward, batch.backward)
    other.blurry[:, 1:] = batch.blurry[:, 1:].flip(-1)
    with torch.no_grad():
        _, a = run_stages(net, batch, "lean")
        _, b = run_stages(net, other, "lean")
    backward, reconstruction = 1, -1
    assert torch.equal(a[0][:, 0], b[0][:, 0])
    for stage in (backward, reconstruction):
        change = (a[stage][:, 0] - b[stage][:, 0]).std() / a[stage][:, 0].std()
        assert change > 0.1


def test_auxiliary_heads_give_every_branch_a_gradient(batch: Batch) -> None:
    torch.manual_seed(3)
    network = make_network(EDGE)
    initialise(network)
    _, features = run_stages(network, batch, "lean")
    heads = Heads(EDGE.channels, len(EDGE.branches) + 1)
    assert heads.gain(features[1:], batch) == pytest.approx(0, abs=1e-6)
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.01)
    heads.loss(features[1:], batch).backward()
    for branch in EDGE.branches:
        weight = network.deform_align[branch].weight
        assert isinstance(weight, Tensor)
        assert weight.grad is not None
        assert weight.grad.abs().sum() > 0


def test_gain_is_zero_for_the_identity_and_scales_the_residual(net: BSSTNet, batch: Batch) -> None:
    clip = Example("clip", batch.blurry[:1], batch.sharp[:1], batch.forward[:1], batch.backward[:1])
    assert gain(net, clip) == 0
    assert gain_alone(net, clip, step=3) == 0

    class Oracle(torch.nn.Module):
        def forward(self, frames: Tensor, backward: Tensor, forward: Tensor) -> Tensor:
            return batch.sharp[:1]

    oracle: BSSTNet = Oracle()  # type: ignore[assignment]
    assert gain(oracle, clip) > gain(oracle, clip, scale=0.5) > 4


def test_logs_of_runs_that_continue_each_other_count_their_minutes_on() -> None:
    joined = join([[{"minutes": 2.0}, {"minutes": 5.0}], [{"minutes": 1.5}]])
    assert [(entry["run"], entry["minutes"]) for entry in joined] == [(1, 2.0), (1, 5.0), (2, 6.5)]


def test_clips_without_visible_blur_are_drawn_seldom(clips: dict[Kind, Clip], tmp_path: Path) -> None:
    save(clips["mild"], tmp_path / "000000.npz")
    save(replace(clips["mild"], blurry=clips["mild"].sharp), tmp_path / "000001.npz")
    pool, rng = Pool(tmp_path), np.random.default_rng(0)
    drawn = [pool.pick(rng) is pool.clips["000001.npz"] for _ in range(600)]
    assert 0.1 < np.mean(drawn) < 0.25
