"""The packaged weights as a plan small enough to calibrate in a test."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from bsst.export.export_plan import export_plan
from bsst.export.stage import Geometry
from bsst.reference.checkpoint import load_networks


@cache
def edge_plan_file() -> bytes:
    """`edge` with its trained weights, T = 4, tiles of 128x128; bytes of the plan."""
    geometry = Geometry(frames=4, tile=(128, 128), flow_size=(128, 128))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edge.plan"
        export_plan(path, load_networks(None, None, None), geometry, tile_overlap=16, window_overlap=1, check=False)
        return path.read_bytes()
