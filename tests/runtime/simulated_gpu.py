"""Fixtures and helpers around the simulated GPU: what it is and is not, see `fakes/libcuda/simulated.py`."""

from __future__ import annotations

import dataclasses
import gc
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bsst.errors import ModelError
from bsst.plan.archive import Plan, open_plan, write_plan
from bsst.plan.manifest import Compiler, Target
from tests.fakes.libcuda.library import load_library
from tests.fakes.libcuda.simulated import reset

FAKES = Path(__file__).parents[1] / "fakes"
VERSIONS = {"tensorrt": "11.4.0.106", "tensorrt-rtx": "1.7.1.116"}


@contextmanager
def simulated_gpu(**options: Any) -> Iterator[Any]:
    """A fresh GPU under the driver library, and `tensorrt` and `tensorrt_rtx` as fakes; nothing may be left behind."""
    load_library()
    with pytest.MonkeyPatch.context() as patch:
        for folder in (FAKES, FAKES / "rtx"):
            patch.syspath_prepend(folder)
        patch.setenv("FAKE_TENSORRT_VERSION", VERSIONS["tensorrt"])
        _forget()
        gpu = reset(**options)
        try:
            yield gpu
            gc.collect()
            assert gpu.leftovers() == {}, gpu.leftovers()
        finally:
            reset(devices=0)
            _forget()


@contextmanager
def misuse(gpu: Any, match: str) -> Iterator[None]:
    """The body must do what a GPU would not even report."""
    with pytest.raises((AssertionError, ModelError)) as caught:
        yield
    problems = [*gpu.misuses, str(caught.value)]
    assert any(re.search(match, problem) for problem in problems), problems
    gpu.misuses.clear()


def gpu_plan(source: Path, target: Target, folder: Path, *, stages: Any = None, **facts: Any) -> Plan:
    """A plan of fake engines that compute what the graphs of a plan of target `cpu` compute.

    `stages`: stage -> facts for this one alone, see `tensorrt.serialize`.
    """
    from tensorrt import serialize

    plan = open_plan(source)
    special = stages or {}
    specs = tuple(dataclasses.replace(stage, member=f"{stage.name}.engine") for stage in plan.manifest.stages)
    facts = {"library": target, "version": VERSIONS[target], **facts}
    manifest = dataclasses.replace(
        plan.manifest,
        target=target,
        compiler=Compiler(name=target, version=VERSIONS[target]),
        compute_capabilities=("8.6", "8.9"),
        stages=specs,
    )
    path = folder / f"{target}.plan"
    members = {s.member: serialize(plan.member(s.name), **{**facts, **special.get(s.name, {})}) for s in specs}
    if plan.fallback is not None:
        members |= {s.member: plan.fallback.member(s.name) for s in plan.manifest.float32}
    write_plan(path, manifest, members)
    return open_plan(path)


def tensor(device: Any, array: np.ndarray) -> Any:
    """A tensor of a device, allocated like an array; its contents are undefined."""
    from bsst.runtime.devices.base import DeviceTensor

    return DeviceTensor(device.allocate(array.nbytes), array.dtype.name, array.shape)


def _forget() -> None:
    packages = {"tensorrt", "tensorrt_rtx"}
    for name in [n for n in sys.modules if n.split(".")[0] in packages]:
        del sys.modules[name]
