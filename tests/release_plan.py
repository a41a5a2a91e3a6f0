"""The `release` network as a plan of target `cpu`, exported once per run: tracing it takes minutes."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from bsst.export.export_plan import export_plan
from bsst.export.stage import Geometry
from tests.networks import seeded

__all__ = ["release_plan"]


@cache
def release_plan() -> Path:
    """Seeded weights, T = 4, tiles and flow of 256x256; not compared with the reference."""
    folder = Path(tempfile.mkdtemp(prefix="bsst-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    geometry = Geometry(frames=4, tile=(256, 256), flow_size=(256, 256))
    export_plan(folder / "release.plan", seeded("release"), geometry, window_overlap=0, check=False)
    return folder / "release.plan"
