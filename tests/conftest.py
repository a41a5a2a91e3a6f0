"""Settings and markers of the whole suite, and the plan that several folders test with."""

from __future__ import annotations

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
    """The smallest plan of target `cpu` that was compared with the reference: `small_edge`, sizes `SMALL`."""
    from bsst.export.export_plan import export_plan
    from tests.networks import SMALL, small_edge

    path = tmp_path_factory.mktemp("plans") / "edge.plan"
    export_plan(path, small_edge(), SMALL, tile_overlap=16, window_overlap=1)
    return path
