"""Reference networks with reproducible weights, and real frames for them."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import torch

from bsst.config import CONFIGS, EDGE
from bsst.export.stage import Geometry
from bsst.reference.bsstnet import BSSTNet
from bsst.reference.checkpoint import Networks
from bsst.reference.compact import PlainBlock, make_network
from bsst.reference.propagation import DeformableAlignment
from bsst.reference.raft import RAFT
from bsst.runtime.video.reader import VideoReader
from tests.golden_inputs import weight

CITY = Path(__file__).parent / "data" / "city_blurry.mp4"
SMALL = Geometry(frames=4, tile=(64, 128), flow_size=(128, 144))
UPRIGHT = dataclasses.replace(SMALL, tile=(128, 64))
"""Sizes of the plan `cpu_plan`, and the second ones of `shaped_plan`."""


@cache
def small_edge() -> Networks:
    """`edge` with one update of the flow network, which traces in seconds.

    Random weights change a frame more than trained ones do (26 dB on frames of the city), so that an error in any stage
    shows more in the result. They take nine values in each tensor, so that the plan packs well.
    """
    # Random flows are small or large, but say nothing of what moves.
    raft = dataclasses.replace(EDGE.raft, iterations=1)
    limits = {
        "still_motion": (0.0, 0.01),
        "fast_motion": None,
        "followed_share": None,
        "detail": None,
        "fine_detail": None,
    }
    config = dataclasses.replace(EDGE, raft=raft, **limits)
    torch.manual_seed(7)
    network, raft = make_network(config).eval(), RAFT(config.raft).eval()
    for name, module in network.named_modules():  # by default features fade from layer to layer
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and not name.startswith("restraint."):
            torch.nn.init.kaiming_normal_(module.weight, a=0.1)
    for module in network.modules():
        if isinstance(module, PlainBlock):
            module.body[2].weight.data.mul_(0.2)
        elif isinstance(module, DeformableAlignment):
            module.weight.data.mul_(2.0)
            torch.nn.init.normal_(module.conv_offset[6].weight, std=0.02)
    torch.nn.init.normal_(network.softcomp.bias_conv.weight, std=0.005)
    torch.nn.init.normal_(network.last_conv.weight, std=0.001)
    for parameter in network.restraint.last.parameters():  # which starts as nothing at all
        torch.nn.init.normal_(parameter, std=0.02)
    torch.nn.init.constant_(network.restraint.strength, 0.9)  # a factor of 1 would be optimised away
    for parameter in (*network.parameters(), *raft.parameters()):
        step = parameter.detach().abs().max() / 4
        parameter.data = torch.where(step > 0, torch.round(parameter.detach() / step) * step, parameter.detach())
    return Networks(network=network, raft=raft, label="random weights", sha256="7" * 64, unused=())


@cache
def small_released() -> BSSTNet:
    """A small network in the layout of the released one, whose decoder has gated blocks of many groups."""
    layout = {"compact": False, "decoder_blocks": (0, 0), "half_blocks": 1, "quarter_blocks": 1, "shift_blocks": 1}
    torch.manual_seed(7)
    network = BSSTNet(dataclasses.replace(EDGE, full_channels=16, half_channels=32, channels=36, **layout)).eval()
    for block in (m for m in network.modules() if hasattr(m, "beta")):
        torch.nn.init.normal_(block.beta)  # zero until trained
    return network


@cache
def seeded(name: str) -> Networks:
    """Networks of a configuration with weights drawn by tensor name."""
    config = CONFIGS[name]
    network, raft = make_network(config).eval(), RAFT(config.raft).eval()
    for module, prefix in ((network, ""), (raft, "raft.")):
        state = {key: weight(f"{prefix}{key}", tuple(t.shape)) for key, t in module.state_dict().items()}
        module.load_state_dict({key: torch.as_tensor(value) for key, value in state.items()})
    return Networks(network=network, raft=raft, label="seeded weights", sha256="0" * 64, unused=())


@cache
def city(frames: int, height: int, width: int) -> np.ndarray:
    """Real blurry frames (T, 3, H, W) float32, mirrored where the clip is smaller than asked."""
    with VideoReader(CITY) as reader:
        clip = np.stack([frame.rgb for _, frame in zip(range(frames), reader, strict=False)])
    grow = [(0, 0), (0, 0), (0, max(0, height - clip.shape[2])), (0, max(0, width - clip.shape[3]))]
    return np.pad(clip, grow, mode="reflect")[:, :, :height, :width]
