"""The restraint starts as nothing, trains on what is recorded, and is part of the weights afterwards."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from bsst.config import EDGE
from bsst.reference.bsstnet import BSSTNet
from bsst.reference.checkpoint import EDGE_WEIGHTS, load_networks
from bsst.reference.raft import quarter_flow
from bsst.reference.restraint import Restraint, evidence
from bsst.training.cache import clip_of, save
from bsst.training.outputs import load_outputs, outputs_of, write_outputs
from bsst.training.pack import add_restraint
from bsst.training.simulate import Clip, linear_light
from bsst.training.train_restraint import train_restraint


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


@pytest.mark.parametrize("number", [200_000, 200_001])
def test_brief_exposures_move_far_and_blur_little(number: int) -> None:
    rng = np.random.default_rng(0)
    pictures = [linear_light(rng.integers(0, 255, (240, 240, 3)).astype(np.uint8))]
    clip = clip_of(pictures, number, "train")
    assert clip.blurry.shape == (8, 192, 192, 3)
    assert np.abs(clip.forward.astype(float)).max() > 0.5
    assert np.array_equal(clip.blurry, clip_of(pictures, number, "train").blurry)


def _clip(rng: np.random.Generator) -> Clip:
    """A texture that moves by two pixels a frame."""
    texture = np.kron(rng.integers(0, 255, (40, 40, 3)), np.ones((6, 6, 1))).astype(np.uint8)
    sharp = np.stack([texture[:128, 2 * t : 2 * t + 128] for t in range(8)])
    blurry = np.stack([np.mean([texture[:128, 2 * t + k : 2 * t + k + 128] for k in range(5)], 0) for t in range(8)])
    nothing = np.zeros((7, 2, 32, 32), np.float16)
    return Clip(blurry.astype(np.uint8), sharp, nothing, nothing)


@pytest.mark.slow
def test_restrained_outputs_are_those_of_the_whole_network_and_training_on_them_changes_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    networks = load_networks(EDGE_WEIGHTS)
    clip = _clip(np.random.default_rng(0))
    blurry, sharp = (torch.from_numpy(a).permute(0, 3, 1, 2).contiguous() for a in (clip.blurry, clip.sharp))
    outputs = outputs_of(networks.network, networks.raft, blurry, sharp)
    forward, backward = quarter_flow(networks.raft, blurry / 255)
    with torch.no_grad():
        whole = networks.network(blurry[None] / 255, backward[None], forward[None])[0]
        parts = (t.float() for t in (outputs.residual, outputs.decoded, outputs.blurry / 255, outputs.moving))
        restrained = networks.network.restrain(*parts)
    assert (whole - blurry / 255).abs().max() > 0.01
    assert (blurry / 255 + restrained - whole).abs().max() < 1e-3

    for number in range(2):
        save(clip, tmp_path / "sim" / "train" / f"{number:06d}.npz")
    write_outputs(tmp_path, EDGE_WEIGHTS)
    assert load_outputs(tmp_path / "outputs" / "sim000001.npz").moving.shape == (7, 5, 32, 32)
    train_restraint(tmp_path, tmp_path, minutes=0.05, learning_rate=2e-3, seed=1)
    entry = json.loads((tmp_path / "restraint.jsonl").read_text().splitlines()[-1])
    assert entry["step"] >= 1
    assert entry["clips"] == {"sim": 2}

    weights = tmp_path / "edge.safetensors"
    weights.write_bytes(EDGE_WEIGHTS.read_bytes())
    add_restraint(tmp_path / "restraint.safetensors", weights)
    packed, known = load_file(weights), load_file(EDGE_WEIGHTS)
    assert {name for name in packed if not torch.equal(packed[name], known[name])} == {
        name for name in known if name.startswith("restraint.")
    }
    assert load_networks(weights).network.config == EDGE


def test_weights_without_a_restraint_are_still_read(tmp_path: Path) -> None:
    config = replace(EDGE, restraint_channels=0)
    tensors = {k: v for k, v in load_file(EDGE_WEIGHTS).items() if not k.startswith("restraint.")}
    path = tmp_path / "former.safetensors"
    save_file(tensors, path, {"config": json.dumps(config.to_json()), "label": "former"})
    network = load_networks(path).network
    assert isinstance(network, BSSTNet)
    assert not hasattr(network, "restraint")
