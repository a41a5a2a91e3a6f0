"""Plans for tests, exported once per session."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cpu_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smallest plan of target `cpu`: `edge` of random weights, one update of the flow, T = 4, 64x128 tiles."""
    import torch

    from bsst.config import EDGE
    from bsst.export.export_plan import export_plan
    from bsst.export.stage import Geometry
    from bsst.reference.bsstnet import BSSTNet
    from bsst.reference.checkpoint import Networks
    from bsst.reference.raft import RAFT

    torch.manual_seed(7)
    config = dataclasses.replace(EDGE, raft=dataclasses.replace(EDGE.raft, iterations=1))
    networks = Networks(
        network=BSSTNet(config), raft=RAFT(config.raft), label="random weights", sha256="7" * 64, unused=()
    )
    path = tmp_path_factory.mktemp("plans") / "edge.plan"
    geometry = Geometry(frames=4, tile=(64, 128), flow_size=(128, 128))
    export_plan(path, networks, geometry, tile_overlap=16, window_overlap=1, check=False)
    return path
