"""Training data is what it claims to be, and training starts where motion can pay."""

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
from bsst.training.batch import Batch
from bsst.training.cache import load, save
from bsst.training.clips_at_once import restore_clips
from bsst.training.evaluate import Example, frames_of, gain, gain_alone, psnr
from bsst.training.heads import Heads
from bsst.training.initialise import initialise
from bsst.training.plot_log import draw_curves
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


def batch_of(*clips: Clip) -> Batch:
    images = (torch.stack([frames_of(getattr(clip, name)) for clip in clips]) for name in ("blurry", "sharp"))
    flows = (torch.stack([torch.tensor(getattr(c, name)).float() for c in clips]) for name in ("forward", "backward"))
    return Batch(*images, *flows)


@pytest.fixture(scope="module")
def batch(clips: dict[Kind, Clip]) -> Batch:
    return batch_of(clips["heavy"], clips["mild"])


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
    sample = batch_of(clips["mild"])
    assert warped_error(sample, 1.0) < 0.5 * warped_error(sample, 0.0)
    assert warped_error(sample, 1.0) < 0.5 * warped_error(sample, -1.0)


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


def test_exposures_are_averaged_in_linear_light() -> None:
    video = np.zeros((3, 4, 6, 3), np.uint8)
    video[1] = 255
    blurry = average(video, [1], 3)
    assert blurry.shape == (1, 4, 6, 3)
    assert int(blurry.max()) == int(blurry.min()) == round(255 * (1 / 3) ** (1 / 2.2))


def test_training_starts_from_the_identity(net: BSSTNet, batch: Batch) -> None:
    with torch.no_grad():
        restored, changed, _ = restore_clips(net, batch)
        whole = net(batch.blurry, batch.backward, batch.forward)
    assert torch.equal(restored, batch.blurry.flatten(0, 1))
    assert torch.equal(changed, batch.blurry.flatten(0, 1))
    assert torch.equal(whole, batch.blurry)


def test_features_start_at_unit_scale_and_do_not_grow_with_the_clip(net: BSSTNet) -> None:
    generator = torch.Generator().manual_seed(1)
    frames = torch.rand(1, 12, 3, 64, 64, generator=generator)
    flow = torch.randn(1, 11, 2, 16, 16, generator=generator)
    with torch.no_grad():
        _, _, features = restore_clips(net, Batch(frames, frames, flow, -flow))
    for name, feature in zip(("encoder", *EDGE.branches, "reconstruction"), features, strict=True):
        assert 0.1 < float(feature.std()) < 3, name
        assert float(feature.std(dim=(-2, -1)).mean() / feature.std()) > 0.3, f"{name}: a constant channel pattern"


def test_other_frames_reach_the_propagated_features_from_the_start(net: BSSTNet, batch: Batch) -> None:
    other = Batch(batch.blurry.clone(), batch.sharp, batch.forward, batch.backward)
    other.blurry[:, 1:] = batch.blurry[:, 1:].flip(-1)
    with torch.no_grad():
        _, _, a = restore_clips(net, batch)
        _, _, b = restore_clips(net, other)
    backward, reconstruction = 1, -1
    assert torch.equal(a[0][:, 0], b[0][:, 0])
    for stage in (backward, reconstruction):
        change = (a[stage][:, 0] - b[stage][:, 0]).std() / a[stage][:, 0].std()
        assert change > 0.1


def test_auxiliary_heads_give_every_branch_a_gradient(batch: Batch) -> None:
    torch.manual_seed(3)
    network = make_network(EDGE)
    initialise(network)
    _, _, features = restore_clips(network, batch)
    heads = Heads(EDGE.channels, len(EDGE.branches) + 1)
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


def test_a_log_is_drawn_with_every_curve_it_holds() -> None:
    entries = [{"seconds": 60 * n, "end_point_error": 1 / (1 + n)} for n in range(3)]
    entries += [{"seconds": 180 + 60 * n, "gain": 0.3 * n, "gain_free": 0.2 * n} for n in range(4)]
    colours = {colour for _, colour in draw_curves(entries).getcolors(1 << 20) or ()}
    assert {(31, 119, 180), (214, 39, 40), (240, 160, 160)} <= colours
