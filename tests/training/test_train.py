"""Training on a GPU: what its captured steps compute is what the rest of the project computes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from bsst.config import EDGE
from bsst.plugins.flow_warp import flow_warp
from bsst.reference.checkpoint import EDGE_WEIGHTS, load_networks
from bsst.reference.compact import make_network
from bsst.reference.raft import RAFT, quarter_flow
from bsst.training.batch import Batch
from bsst.training.clips_at_once import restore_clips
from bsst.training.codec import Codec
from bsst.training.initialise import initialise
from bsst.training.pool import Pool
from bsst.training.render import Bank, render
from bsst.training.steps import FlowStep, NetworkStep, flows_of
from bsst.training.train import begin

CPU = torch.device("cpu")
FREE = dataclasses.replace(EDGE, followed_share=None, detail=None, fine_detail=None)


def pictures(count: int = 3) -> Bank:
    coarse = torch.from_numpy(np.random.default_rng(0).random((count, 3, 24, 36), dtype=np.float32))
    fine = torch.nn.functional.interpolate(coarse, size=(192, 288), mode="bicubic").clamp(0, 1)
    return Bank((255 * fine).round().to(torch.uint8))


@pytest.fixture(scope="module")
def pool() -> Pool:
    torch.manual_seed(3)
    raft = RAFT(EDGE.raft).eval()
    pool = Pool.empty(5, 1, 5, 128, 2, CPU)
    for _ in range(2):
        clips = render(pictures(), Codec(CPU), 2, 5, 128)
        forward, backward = flows_of(raft, clips.blurry)
        exact = {"exact_forward": clips.forward, "exact_backward": clips.backward}
        pool.put(pool.place, blurry=clips.blurry, sharp=clips.sharp, forward=forward, backward=backward, **exact)
        pool.advance()
    return pool


@pytest.mark.parametrize("frames", [4, 6, 10])
def test_clips_restored_at_once_equal_the_network_clip_by_clip_with_windows_that_attend_sparsely(frames):
    torch.manual_seed(frames)
    net = make_network(FREE).eval()
    for parameter in net.restraint.last.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    images = torch.rand(2, frames, 3, 64, 128)
    backward, forward = (torch.randn(2, frames - 1, 2, 16, 32) for _ in range(2))
    for flow in (backward, forward):  # the blur map is the motion: these windows attend to other frames
        flow[0, :, 0, :, :16] += 9
    assert any(int(s.active.sum()) for s in net.select(net.refine(backward, forward)[0]))
    with torch.no_grad():
        restored, _, _ = restore_clips(net, Batch(images, images, forward, backward))
        expected = net(images, backward, forward)
    torch.testing.assert_close(restored.unflatten(0, (2, frames)), expected, atol=2e-5, rtol=0)


def test_flows_of_many_clips_equal_those_of_each():
    torch.manual_seed(1)
    raft, clips = RAFT(EDGE.raft).eval(), torch.rand(2, 3, 3, 128, 160)
    with torch.no_grad():
        expected = [quarter_flow(raft, clip) for clip in clips]
    for found, same in zip(flows_of(raft, clips), zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(same), atol=1e-4, rtol=1e-4)


def test_rendered_frames_agree_with_their_neighbours_along_the_exact_flow():
    torch.manual_seed(5)
    clips = render(pictures(), Codec(CPU), 6, 3, 128)
    quarter = torch.nn.functional.avg_pool2d(clips.sharp.flatten(0, 1), 4).unflatten(0, (6, 3))
    inside = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    for flow, here, there in ((clips.forward, 1, 0), (clips.backward, 0, 1)):
        warped = flow_warp(quarter[:, there], flow[:, 0])
        still = (quarter[:, there] - quarter[:, here])[inside].abs().mean()
        assert (warped - quarter[:, here])[inside].abs().mean() < 0.5 * still


def test_mirrored_turned_and_reversed_batches_keep_flows_true(pool: Pool):
    torch.manual_seed(0)
    better = 0
    for _ in range(8):
        batch = pool.draw(4, 3, 128)
        quarter = torch.nn.functional.avg_pool2d(batch.sharp.flatten(0, 1), 4).unflatten(0, (4, 3))
        warped = flow_warp(quarter[:, 0], batch.forward[:, 0])
        inside = (slice(None), slice(None), slice(8, -8), slice(8, -8))
        moved = (warped - quarter[:, 1])[inside].abs().mean((1, 2, 3))
        still = (quarter[:, 0] - quarter[:, 1])[inside].abs().mean((1, 2, 3))
        better += int((moved <= still + 1e-3).sum())
    assert better >= 29  # of 32: something may come from outside


def test_new_clips_replace_the_oldest_simulated_ones_and_never_a_real_one():
    pool = Pool.empty(7, 3, 2, 16, 2, CPU)
    seen = []
    for _ in range(3):
        seen.append(pool.place.tolist())
        pool.advance()
    assert seen == [[3, 4], [5, 6], [3, 4]]


def test_steps_lower_their_losses_on_one_batch_and_averages_follow(pool: Pool):
    torch.manual_seed(2)
    flow, net = FlowStep(RAFT(EDGE.raft)), make_network(FREE)
    initialise(net)
    network = NetworkStep(net)
    for step, work in (
        (flow, lambda: flow.work(pool, 2, 3, 128)),
        (network, lambda: network.work(pool, 2, 4, 64)),
    ):
        before = [p.clone() for p in step.average.parameters()]
        work()
        assert all(torch.equal(a, b) for a, b in zip(before, step.average.parameters(), strict=True))
        step.set_rate(1e-3)
        for _ in range(2):
            work()
        assert any(not torch.equal(a, b) for a, b in zip(before, step.average.parameters(), strict=True))
        assert step.numbers[-1] == 3
        assert step.numbers[-2] == 0


def test_packed_weights_restore_as_the_trained_network_does(pool: Pool):
    torch.manual_seed(4)
    net = make_network(FREE)
    initialise(net)
    for layer in (net.last_conv, net.restraint.last):
        torch.nn.init.normal_(layer.weight, std=0.02)
    step = NetworkStep(net)
    packed = make_network(FREE).eval()
    packed.load_state_dict(step.weights())
    batch = pool.draw(1, 4, 64)
    with torch.no_grad():
        torch.testing.assert_close(restore_clips(packed, batch)[0], restore_clips(step.average, batch)[0])


def test_training_begins_where_the_packaged_weights_ended():
    net, raft, packaged = make_network(FREE), RAFT(EDGE.raft), load_networks(EDGE_WEIGHTS)
    begin(EDGE_WEIGHTS, net, raft)
    for ours, theirs in ((net, packaged.network), (raft, packaged.raft)):
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], tensor), name
