"""Settings and markers of the whole suite, and the plan that several folders test with."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

# PyTorch's compiler traces itself into this logger wherever a handler listens, as pytest's does: minutes per export.
logging.getLogger("torch.__trace").disabled = True

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

ASK_FOR_A_DRIVER = ("test_encoder.py", "test_probe.py", "test_reader.py", "test_run.py")

OF_THEIR_OWN = ("needs_webgpu", "needs_triton")
"""Need a venv that a make target makes, not a GPU."""

NEEDS = {
    "needs_cuda": lambda: shutil.which("nvidia-smi") is not None,
    "needs_tensorrt": lambda: importlib.util.find_spec("tensorrt") is not None,
    "needs_rtx": lambda: importlib.util.find_spec("tensorrt_rtx") is not None,
    "needs_webgpu": lambda: "BSST_WEBGPU_PYTHON" in os.environ,
    "needs_triton": lambda: "BSST_TRITON_PYTHON" in os.environ,
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what `make nightly` runs. Skip what this machine lacks; with BSST_REQUIRE_GPU=1 run and fail it.

    What asks FFmpeg for a driver comes first: FFmpeg would find the driver library of ours, once a test loaded it.
    """
    if "nightly" not in (config.getoption("markexpr") or ""):
        nightly = [item for item in items if item.get_closest_marker("nightly")]
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]
        config.hook.pytest_deselected(items=nightly)
    items.sort(key=lambda item: item.path.name not in ASK_FOR_A_DRIVER)
    required = os.environ.get("BSST_REQUIRE_GPU") == "1"
    for marker, present in NEEDS.items():
        if not present() and not (required and marker not in OF_THEIR_OWN):
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(pytest.mark.skip(reason=f"{marker.replace('_', ' ')}, which is not here"))


@pytest.fixture(scope="session")
def cpu_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest plan of target `cpu` that was compared with the reference: `small_edge`, sizes `SMALL`."""
    from bsst.export.export_plan import export_plan
    from tests.networks import SMALL, small_edge

    # Traced once, for all workers where pytest-xdist runs several: their folders have one parent.
    folder = tmp_path_factory.getbasetemp()
    path = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "edge.plan"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            export_plan(path, small_edge(), SMALL, tile_overlap=16, window_overlap=1)
    return path
