"""Settings and markers of the whole suite, and the plan that several folders test with."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

# PyTorch's compiler traces itself into this logger wherever a handler listens, as pytest's does: minutes per export.
logging.getLogger("torch.__trace").disabled = True

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

NEEDS = {
    "needs_cuda": lambda: shutil.which("nvidia-smi") is not None,
    "needs_tensorrt": lambda: importlib.util.find_spec("tensorrt") is not None,
    "needs_rtx": lambda: importlib.util.find_spec("tensorrt_rtx") is not None,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine lacks; with BSST_REQUIRE_GPU=1 run it, so that it fails instead."""
    if os.environ.get("BSST_REQUIRE_GPU") == "1":
        return
    for marker, present in NEEDS.items():
        if not present():
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(pytest.mark.skip(reason=f"{marker.replace('_', ' ')}, which is not here"))


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
