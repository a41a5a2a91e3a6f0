"""The packaged weights as a plan small enough to calibrate in a test."""

from __future__ import annotations

import dataclasses
import tempfile
from functools import cache
from pathlib import Path

from bsst.config import EDGE
from bsst.export.export_plan import export_plan
from bsst.export.stage import Geometry
from bsst.reference.bsstnet import BSSTNet
from bsst.reference.checkpoint import load_networks
from bsst.reference.raft import RAFT


@cache
def edge_plan_file() -> bytes:
    """`edge` with its trained weights, one update of the flow, T = 4, tiles of 128x128; bytes of the plan."""
    trained = load_networks(None, None, None)
    config = dataclasses.replace(EDGE, raft=dataclasses.replace(EDGE.raft, iterations=1))
    network, raft = BSSTNet(config).eval(), RAFT(config.raft).eval()
    network.load_state_dict(trained.network.state_dict())
    raft.load_state_dict(trained.raft.state_dict())
    networks = dataclasses.replace(trained, network=network, raft=raft)
    geometry = Geometry(frames=4, tile=(128, 128), flow_size=(128, 128))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edge.plan"
        export_plan(path, networks, geometry, tile_overlap=16, window_overlap=1, check=False)
        return path.read_bytes()
