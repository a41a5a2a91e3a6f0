"""The graph of `decode` computes what the network does, on a few frames at a time."""

from __future__ import annotations

import pytest
import torch

from bsst.export.stage import Geometry
from bsst.export.stages.decode import decode_stage, frames_at_once
from tests.networks import small_released


@pytest.mark.parametrize("frames", [4, 5, 10, 16])
def test_frames_exchange_features_across_the_parts_that_are_computed_at_once(frames: int) -> None:
    network = small_released()
    torch.manual_seed(frames)
    stage = decode_stage(network, Geometry(frames=frames, tile=(64, 64), flow_size=(128, 128)))
    inputs = [torch.randn(shape) for shape, _ in stage.inputs.values()]
    most = 0

    def watch(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        nonlocal most
        most = max(most, given[0].shape[0])

    hooks = [m.register_forward_pre_hook(watch) for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    with torch.inference_mode():
        got = stage.module(*inputs)
        for hook in hooks:
            hook.remove()
        expected = network.decode(*(x[None] for x in inputs))[0]
        alone = stage.module(*(x[:most] for x in inputs))
    assert most == frames_at_once(frames) < max(5, frames / 2)
    assert (got - expected).abs().max() <= 1e-6 * expected.abs().max()
    if frames > most:  # its first and last frame have other neighbours
        assert (alone - got[:most]).abs().max() > 0.01 * expected.abs().max()
