"""Run a small plan with every kind of session that this machine can run, and compare and measure.

For each target, engines are built for this GPU from a plan of target `cpu`, and measured (`measure.py`). What cannot be
run is skipped with the reason.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bsst.engines.cache import EngineCache
from bsst.engines.doctor.measure import Measurement, measure_target, restore_tile
from bsst.engines.tensorrt_rtx import RTX_COMPUTE_CAPABILITIES
from bsst.errors import BsstError
from bsst.files import cache_directory
from bsst.plan.archive import open_plan
from bsst.plan.manifest import Manifest, Precision, Target
from bsst.runtime.devices.cuda_api import installed_apis
from bsst.runtime.devices.cuda_driver import Gpu, find_gpus
from bsst.runtime.network.network import DEFAULT_PLAN
from bsst.runtime.one_clip import moving_texture
from bsst.runtime.sessions.probe import probe_providers

__all__ = [
    "CANDIDATES",
    "TestRun",
    "build_plan",
    "run_gpu_tests",
    "selftest",
    "why_not",
]

CANDIDATES: tuple[tuple[Target, Precision], ...] = (
    ("cpu", "fp32"),
    ("ort-cuda", "fp32"),
    ("ort-tensorrt", "fp32"),
    ("ort-webgpu", "fp32"),
    ("tensorrt", "fp32"),
    ("tensorrt", "fp16"),
    ("tensorrt-rtx", "fp32"),
    ("tensorrt-rtx", "fp16"),
)


@dataclass(frozen=True, kw_only=True)
class TestRun:
    """Tests marked `needs_cuda`."""

    __test__ = False  # not a test class itself

    skipped: str = ""
    """Why they were not run; "" if they were."""
    passed: bool = False
    """All of them."""
    output: str = ""
    """End of what pytest printed."""


def selftest(
    folder: Path, *, source: Path = DEFAULT_PLAN, progress: Callable[[str], None] = lambda step: None
) -> tuple[Measurement, ...]:
    """Measure every target; those that this machine cannot run are skipped with the reason.

    Args:
        folder: where plans are written.
        source: plan of target `cpu`.
        progress: told what comes next.
    """
    gpus = find_gpus()
    clip = _clip(open_plan(source).manifest)
    progress("restoring a clip on the CPU")
    expected = restore_tile(source, clip)
    results = []
    for target, precision in CANDIDATES:
        reason = why_not(target, gpus)
        if reason:
            results.append(Measurement(target=target, precision=precision, skipped=reason))
            continue
        progress(f"building and running {target} in {precision}")
        try:
            started = time.perf_counter()
            plan = build_plan(source, folder, target, precision, gpus)
            built = time.perf_counter() - started
            results.append(measure_target(plan, clip, expected, build_seconds=built))
        except BsstError as error:
            results.append(Measurement(target=target, precision=precision, failed=str(error)))
    return tuple(results)


def run_gpu_tests(tests: Path, *, time_limit_seconds: float = 1800) -> TestRun:
    """Run `pytest -m needs_cuda`, if there are a GPU, the tests and pytest.

    Args:
        tests: folder of the tests, part of a source checkout only.
        time_limit_seconds: they are stopped beyond that.
    """
    if not find_gpus():
        return TestRun(skipped="no NVIDIA GPU")
    if not tests.is_dir() or importlib.util.find_spec("pytest") is None:
        return TestRun(skipped=f"no tests in {tests} or no pytest; run from a source checkout with 'bsst[dev]'")
    command = [sys.executable, "-m", "pytest", "-m", "needs_cuda", str(tests)]
    try:
        result = subprocess.run(
            command, cwd=tests.parent, capture_output=True, text=True, timeout=time_limit_seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return TestRun(output=f"stopped after {time_limit_seconds:g} s")
    return TestRun(passed=result.returncode == 0, output="\n".join(result.stdout.splitlines()[-30:]))


def why_not(target: Target, gpus: tuple[Gpu, ...]) -> str:
    """Why a target cannot be run on this machine, whose GPUs are given; "" where it can."""
    if target == "cpu":
        return ""
    if target == "ort-webgpu":
        problem = probe_providers().get("WebGpuExecutionProvider", "no WebGPU in this onnxruntime")
        return problem or ("" if importlib.util.find_spec("onnx") else "onnx not installed")
    if not gpus:
        return "no NVIDIA GPU"
    capability = gpus[0].compute_capability
    if target == "tensorrt-rtx" and capability not in RTX_COMPUTE_CAPABILITIES:
        known = ", ".join(RTX_COMPUTE_CAPABILITIES)
        return f"TensorRT-RTX has no compute capability {capability}; it has {known}"
    needed = ["onnx"] + {"tensorrt": ["tensorrt"], "tensorrt-rtx": ["tensorrt_rtx"]}.get(target, [])
    missing = [] if installed_apis() else ["cuda-bindings"]
    missing += [name for name in needed if importlib.util.find_spec(name) is None]
    return f"{', '.join(missing)} not installed" if missing else ""


def build_plan(source: Path, folder: Path, target: Target, precision: Precision, gpus: tuple[Gpu, ...]) -> Path:
    """Plan for a target of this machine, from one of target `cpu`, which is returned itself where that is the target.

    Raises:
        BsstError: it cannot be built.
    """
    if target == "cpu":
        return source
    from bsst.engines.builder import BuildOptions
    from bsst.engines.rebuild import rebuild_plan  # needs onnx

    capabilities = (gpus[0].compute_capability,) if target == "tensorrt-rtx" else ()
    output = folder / f"{target}-{precision}.plan"
    options = BuildOptions(compute_capabilities=capabilities)
    cache = EngineCache(directory=cache_directory() / "engines")
    rebuild_plan(source, output, target=target, precision=precision, options=options, cache=cache, check=False)
    return output


def _clip(manifest: Manifest) -> NDArray[np.float32]:
    height, width = (max(pair) for pair in zip(manifest.tile, manifest.flow_size, strict=True))
    return moving_texture(manifest.frames, height, width)
