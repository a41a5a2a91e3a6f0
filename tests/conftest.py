"""Settings and markers of the whole suite, and the plan that several folders test with."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import lzma
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# PyTorch's compiler traces itself into this logger wherever a handler listens, as pytest's does: minutes per export.
logging.getLogger("torch.__trace").disabled = True

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

SMALL_PLAN = Path(__file__).parent / "data" / "small_edge.plan.xz"
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
    Files with slow tests come next: the shorter what is left, the less does one process wait for the other in the end.
    """
    if "nightly" not in (config.getoption("markexpr") or ""):
        nightly = [item for item in items if item.get_closest_marker("nightly")]
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]
        config.hook.pytest_deselected(items=nightly)
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.name not in ASK_FOR_A_DRIVER, item.path not in long))
    required = os.environ.get("BSST_REQUIRE_GPU") == "1"
    for marker, present in NEEDS.items():
        if not present() and not (required and marker not in OF_THEIR_OWN):
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(pytest.mark.skip(reason=f"{marker.replace('_', ' ')}, which is not here"))


@pytest.fixture(scope="session")
def shaped_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small plan in two shapes that was compared with the reference; `tests.data.make_small_plan` makes it."""
    path = tmp_path_factory.mktemp("plan") / "two.plan"
    path.write_bytes(lzma.decompress(SMALL_PLAN.read_bytes()))
    return path


@pytest.fixture(scope="session")
def cpu_plan(shaped_plan: Path) -> Path:
    """The same in its first shape alone."""
    from bsst.plan.archive import open_plan, write_plan

    plan, path = open_plan(shaped_plan), shaped_plan.with_name("edge.plan")
    members = {stage.member: plan.member(stage.name) for stage in plan.manifest.stages}
    write_plan(path, dataclasses.replace(plan.manifest, shapes=()), members)
    return path


@pytest.fixture(scope="module")
def prepared() -> Iterator[None]:
    """Equal graphs are simplified, and loaded by a child of ONNX Runtime, once; see `tests.once`."""
    from tests.once import prepared_once

    with prepared_once():
        yield


@pytest.fixture(scope="module")
def quick_tracing() -> Iterator[None]:
    """A second less for each stage that is traced; see `tests.once`."""
    from tests.once import operators_listed_once

    with operators_listed_once():
        yield
