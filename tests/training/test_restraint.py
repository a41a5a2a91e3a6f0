"""The restraint starts as nothing, sees what it should, and is part of the weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from bsst.config import EDGE
from bsst.reference.bsstnet import BSSTNet
from bsst.reference.checkpoint import EDGE_WEIGHTS, load_networks
from bsst.reference.restraint import Restraint, evidence


def test_an_untrained_restraint_changes_nothing() -> None:
    torch.manual_seed(0)
    residual = torch.randn(2, 3, 64, 64)
    restraint = Restraint(8, 32)
    shared = restraint(torch.rand(2, 3, 64, 64), residual, torch.randn(2, 32, 32, 32), torch.randn(2, 4, 16, 16))
    torch.testing.assert_close(shared, residual)


def test_evidence_is_less_detail_along_the_motion_than_across_it_and_nothing_where_nothing_moves() -> None:
    rng = torch.Generator().manual_seed(0)
    texture = F.avg_pool2d(torch.rand(1, 3, 160, 160, generator=rng), 9, 1, 4)  # smooth, but alike in all directions
    sideways = torch.zeros(1, 4, 80, 80)
    sideways[:, 0], sideways[:, 2] = -6, 6
    upwards = sideways[:, [1, 0, 3, 2]]
    blurred = F.avg_pool2d(texture, (1, 25), 1, (0, 12))
    inner = (..., slice(20, 60), slice(20, 60))
    along_over_across = [0, 2, 4, 6]
    assert evidence(texture, sideways)[inner][:, along_over_across].mean().abs() < 0.2
    assert (evidence(blurred, sideways)[inner][:, along_over_across].mean((0, 2, 3)) < -0.5).all()
    assert (evidence(blurred, upwards)[inner][:, along_over_across].mean((0, 2, 3)) > 0.5).all()
    assert torch.equal(evidence(texture, torch.zeros(1, 4, 80, 80)), torch.zeros(1, 8, 80, 80))


def test_what_a_tile_shows_far_away_counts_everywhere_once_trained() -> None:
    torch.manual_seed(0)
    restraint = Restraint(8, 32)
    for layer in (restraint.told, restraint.last):
        torch.nn.init.normal_(layer.weight, std=0.1)
    frames, residual = torch.rand(1, 3, 256, 256), torch.randn(1, 3, 256, 256)
    decoded, motion = torch.randn(1, 32, 128, 128), torch.randn(1, 4, 64, 64)
    changed = frames.clone()
    changed[..., 224:] = 0
    before, after = (restraint(x, residual, decoded, motion) for x in (frames, changed))
    assert (before - after)[..., :64].abs().max() > 1e-4


def test_weights_without_a_restraint_are_still_read(tmp_path: Path) -> None:
    config = replace(EDGE, restraint_channels=0)
    tensors = {k: v for k, v in load_file(EDGE_WEIGHTS).items() if not k.startswith("restraint.")}
    path = tmp_path / "former.safetensors"
    save_file(tensors, path, {"config": json.dumps(config.to_json()), "label": "former"})
    network = load_networks(path).network
    assert isinstance(network, BSSTNet)
    assert not hasattr(network, "restraint")
