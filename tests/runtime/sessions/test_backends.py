"""Whole clips on every backend that can be had here give the frames of the CPU path."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bsst.errors import ModelError, OutOfMemoryError, PlanError
from bsst.plan.archive import open_plan, write_plan
from bsst.plan.manifest import Target
from bsst.runtime.devices.host import HostDevice, host_view
from bsst.runtime.network.network import Network, load_network
from bsst.runtime.restore import deblur_frames
from bsst.runtime.sessions.backends import choose_provider, open_backend
from bsst.runtime.sessions.ort import OrtGpuSession
from tests.networks import city
from tests.runtime.sessions.test_tensorrt import MODEL, SHAPE
from tests.runtime.simulated_gpu import gpu_plan, misuse, simulated_gpu, tensor

WORKS, NOTHING = "", "not in this onnxruntime"


@pytest.fixture(scope="session")
def expected(cpu_plan: Path) -> np.ndarray:
    """Nine frames, three windows, two tiles of an odd size, restored on the CPU."""
    with load_network(cpu_plan) as network:
        return np.stack(list(deblur_frames(iter(city(9, 100, 120)), network)))


def restored(network: Network) -> np.ndarray:
    with network:
        return np.stack(list(deblur_frames(iter(city(9, 100, 120)), network)))


@pytest.mark.parametrize("mode", ["lazy", "eager"])
@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_a_clip_on_the_simulated_gpu_equals_the_cpu(
    cpu_plan: Path,
    expected: np.ndarray,
    tmp_path: Path,
    target: Target,
    mode: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BSST_CACHE_DIR", str(tmp_path))
    with simulated_gpu(mode=mode) as gpu:
        got = restored(load_network(gpu_plan(cpu_plan, target, tmp_path, user_allocation=True).path))
        assert gpu.calls.count("cuGraphLaunch") > 50
        assert gpu.calls.count("cuMemAlloc") < 25, "memory is allocated once, not per frame"
    np.testing.assert_array_equal(got, expected)
    assert len(list(tmp_path.glob("rtx/*.kernels"))) == (10 if target == "tensorrt-rtx" else 0)


def test_a_clip_without_graphs_or_on_one_window_in_flight_equals_the_cpu(
    cpu_plan: Path,
    expected: np.ndarray,
    tmp_path: Path,
) -> None:
    with simulated_gpu() as gpu:
        plan = gpu_plan(cpu_plan, "tensorrt", tmp_path)
        backend = open_backend(plan, graphs=False)
        assert backend.line == "plan of target tensorrt runs on tensorrt 11.4.0.106, Simulated GPU (8.9)"
        got = restored(Network(plan.manifest, backend.device, backend.sessions, in_flight=1))
        assert "cuStreamBeginCapture" not in gpu.calls
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("fact", "message"),
    [("refuses", "stage attend: expected .* got Error Code 1: Myelin"), ("crashes", "illegal memory access")],
)
@pytest.mark.parametrize("mode", ["lazy", "eager"])
def test_a_stage_that_fails_stops_the_clip_and_leaves_nothing_behind(
    cpu_plan: Path, tmp_path: Path, fact: str, message: str, mode: str
) -> None:
    with simulated_gpu(mode=mode):
        path = gpu_plan(cpu_plan, "tensorrt", tmp_path, stages={"attend": {fact: 2}}).path
        with pytest.raises(ModelError, match=message):
            restored(load_network(path))


@pytest.mark.parametrize("mode", ["lazy", "eager"])
def test_a_removed_event_is_found(cpu_plan: Path, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bsst.runtime.devices.cuda.CudaStream.wait", lambda self, event: None)
    with simulated_gpu(mode=mode) as gpu:
        path = gpu_plan(cpu_plan, "tensorrt", tmp_path).path
        with misuse(gpu, "a race"):
            restored(load_network(path))


def test_a_gpu_that_is_too_small_is_left_as_it_was(cpu_plan: Path, tmp_path: Path) -> None:
    plan = open_plan(cpu_plan)
    sizes = [len(plan.member(stage.name)) for stage in plan.manifest.stages]
    for total in (max(sizes) - 1, max(sizes) + 10_000):
        with simulated_gpu(total=total):
            path = gpu_plan(cpu_plan, "tensorrt", tmp_path).path
            with pytest.raises(OutOfMemoryError, match="close other programs"):
                load_network(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compute_capabilities": ("8.6", "9.0")}, "expected an engine for compute capability 8.9"),
        ({"version": "10.13.3.9"}, "expected an engine built by tensorrt 11.4.0.106"),
    ],
)
def test_plans_for_another_machine_are_refused_before_an_engine_is_read(
    cpu_plan: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    with simulated_gpu() as gpu:
        plan = gpu_plan(cpu_plan, "tensorrt", tmp_path)
        compiler = dataclasses.replace(plan.manifest.compiler, version=changes.pop("version", "11.4.0.106"))
        members: Any = {stage.member: plan.member(stage.name) for stage in plan.manifest.stages}
        manifest = dataclasses.replace(plan.manifest, compiler=compiler, **changes)
        write_plan(tmp_path / "other.plan", manifest, members)
        with pytest.raises(PlanError, match=message):
            load_network(tmp_path / "other.plan")
        assert "cudaGetDevice" not in gpu.calls


def test_a_tensorrt_plan_without_a_gpu_is_one_line(cpu_plan: Path, tmp_path: Path) -> None:
    with simulated_gpu():
        path = gpu_plan(cpu_plan, "tensorrt", tmp_path).path
    with pytest.raises(ModelError, match="expected an NVIDIA GPU and its driver, found none"):
        load_network(path)


@pytest.mark.parametrize(
    ("target", "problems", "provider", "reason"),
    [
        ("cpu", {}, "CPUExecutionProvider", ""),
        ("ort-cuda", {"CUDAExecutionProvider": WORKS}, "CUDAExecutionProvider", ""),
        ("ort-cuda", {}, "CPUExecutionProvider", f"CUDAExecutionProvider: {NOTHING}"),
        ("ort-cuda", {"CUDAExecutionProvider": "wrong pixels"}, "CPUExecutionProvider", "CUDAExec.*: wrong pixels"),
        (
            "ort-tensorrt",
            {"NvTensorRTRTXExecutionProvider": WORKS},
            "NvTensorRTRTXExecutionProvider",
            "Tensorrt.*: not",
        ),
        (
            "ort-tensorrt",
            {"TensorrtExecutionProvider": "no libnvinfer", "CUDAExecutionProvider": WORKS},
            "CUDAExecutionProvider",
            "no libnvinfer; NvTensorRTRTX.*: not in",
        ),
    ],
)
def test_the_best_provider_that_computes_is_taken(
    target: str, problems: dict[str, str], provider: str, reason: str
) -> None:
    import re

    chosen, why = choose_provider(target, problems)
    assert chosen == provider
    assert re.search(reason, why) if reason else why == ""


def test_an_onnx_plan_for_a_gpu_runs_on_the_cpu_where_there_is_none(
    cpu_plan: Path,
    expected: np.ndarray,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plan = open_plan(cpu_plan)
    members: Any = {stage.member: plan.member(stage.name) for stage in plan.manifest.stages}
    write_plan(tmp_path / "cuda.plan", dataclasses.replace(plan.manifest, target="ort-cuda"), members)
    np.testing.assert_array_equal(restored(load_network(tmp_path / "cuda.plan")), expected)
    assert "runs on ONNX Runtime, CPUExecutionProvider (CUDAExecutionProvider: " in caplog.text


class TestOnnxRuntimeInStreamOrder:
    def test_its_own_stream_is_tied_to_the_callers(self) -> None:
        with HostDevice() as device:
            session = OrtGpuSession("mix", MODEL, provider="CPUExecutionProvider", stream=device.stream("own"))
            callers, places = device.stream("caller"), {n: tensor(device, np.zeros(SHAPE, np.float32)) for n in "xyz"}
            x, y, z = (device.host_array(SHAPE, "float32") for _ in range(3))
            for seed in range(5):
                x[...], y[...] = np.random.default_rng(seed).normal(size=(2, *SHAPE))
                host_view(places["z"])[...] = np.nan
                callers.upload(x, places["x"])
                callers.upload(y, places["y"])
                session.enqueue({n: places[n] for n in "xy"}, {"z": places["z"]}, callers)
                callers.download(places["z"], z)
                callers.synchronize()
                np.testing.assert_allclose(z, x * y + x, rtol=1e-6)
            session.close()
            session.close()


@pytest.mark.needs_cuda
@pytest.mark.parametrize(
    "target",
    [
        pytest.param("tensorrt", marks=pytest.mark.needs_tensorrt),
        pytest.param("tensorrt-rtx", marks=pytest.mark.needs_rtx),
        "ort-cuda",
        "ort-tensorrt",
    ],
)
def test_a_clip_on_a_real_gpu_equals_the_cpu(cpu_plan: Path, expected: np.ndarray, tmp_path: Path, target: Any) -> None:
    """Engines built here, for this GPU."""
    from bsst.engines.builder import BuildOptions
    from bsst.engines.doctor.measure import MINIMUM_PSNR
    from bsst.engines.rebuild import rebuild_plan
    from bsst.runtime.devices.cuda_driver import find_gpus
    from bsst.runtime.metrics import float_psnr
    from bsst.runtime.sessions.probe import probe_providers

    if target.startswith("ort-"):
        provider, reason = choose_provider(target, probe_providers())
        if provider == "CPUExecutionProvider":
            pytest.skip(reason)
    capabilities = (find_gpus()[0].compute_capability,) if target == "tensorrt-rtx" else ()
    options = BuildOptions(compute_capabilities=capabilities)
    rebuild_plan(cpu_plan, tmp_path / "gpu.plan", target=target, options=options)
    assert float_psnr(expected, restored(load_network(tmp_path / "gpu.plan")), 1.0) > MINIMUM_PSNR
