from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import parser

from bsst.engines.doctor.checks import Finding, diagnose
from bsst.engines.doctor.stage_trial import StageTrial
from bsst.plan.archive import open_plan
from bsst.runtime.devices.cuda_driver import Gpu
from bsst.runtime.network.network import DEFAULT_PLAN
from bsst.runtime.sessions import probe_graphs
from bsst.runtime.sessions.probe import probe_providers
from tests.runtime.simulated_gpu import simulated_gpu

SAMPLE = 'y = GridSample <mode="bilinear", padding_mode="zeros", align_corners=1> (x, p)'
DEFORM = "y = DeformConv <kernel_shape=[1,1]> (x, w, p)"
STAGES = [stage.name for stage in open_plan(DEFAULT_PLAN).manifest.stages]
CONVOLVE = "y = Conv <pads=[0,1,0,1]> (x, w)"


@pytest.mark.parametrize(
    ("stored", "inputs", "channels", "body"),
    [
        (probe_graphs.GRID_SAMPLE, "float[1,1,2,4] x, float[1,2,4,2] p", 1, SAMPLE),
        (probe_graphs.DEFORM_CONV, "float[1,1,2,4] x, float[1,1,1,1] w, float[1,2,2,4] p", 1, DEFORM),
        (probe_graphs.CONV, "float[1,C,2,4] x, float[4,C,1,3] w", 4, CONVOLVE),
    ],
    ids=["GridSample", "DeformConv", "Conv"],
)
def test_the_stored_probe_graphs_are_these_texts(stored: bytes, inputs: str, channels: int, body: str) -> None:
    model = parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 19]> g ({inputs}) => (float[1,{channels},2,4] y) {{ {body} }}'
    )
    onnx.checker.check_model(model, full_check=True)
    assert onnx.load_from_string(stored) == model


def test_the_cpu_passes_every_probe() -> None:
    assert probe_providers()["CPUExecutionProvider"] == ""


def test_a_backend_that_rounds_positions_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    nearest = onnx.load_from_string(probe_graphs.GRID_SAMPLE)
    next(a for a in nearest.graph.node[0].attribute if a.name == "mode").s = b"nearest"
    monkeypatch.setattr("bsst.runtime.sessions.probe.GRID_SAMPLE", nearest.SerializeToString())
    assert probe_providers()["CPUExecutionProvider"].startswith("GridSample gives wrong pixels: expected [1.5, 3.0")


def test_a_provider_that_is_listed_but_does_not_start_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with_cpu_only = ort.InferenceSession

    def session(model: bytes, options: Any, providers: list[str], enable_fallback: int) -> Any:
        assert enable_fallback == 0, "otherwise the reason is printed and the CPU takes over"
        return with_cpu_only(model, options, providers=["CPUExecutionProvider"])

    def preload() -> None:
        loaded.append("CUDA")
        print("Failed to load libcudnn.so.9")

    loaded: list[str] = []
    monkeypatch.setattr(ort, "InferenceSession", session)
    monkeypatch.setattr(ort, "preload_dlls", preload)
    assert probe_providers() == {"CUDAExecutionProvider": "it does not start and falls back to the CPU"}
    assert loaded == ["CUDA"], "where pip put its libraries, only this finds them"
    assert capsys.readouterr().out == ""


def report(
    monkeypatch: pytest.MonkeyPatch, *, versions: dict[str, str], gpus: tuple[Gpu, ...] = ()
) -> dict[str, Finding]:
    """Findings by subject on a machine with these packages and GPUs."""

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr("importlib.metadata.version", version)
    for module in ("doctor.checks", "tensorrt"):
        monkeypatch.setattr(f"bsst.engines.{module}.find_gpus", lambda: gpus)
    return {finding.subject: finding for finding in diagnose()}


def test_a_bare_machine_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = report(monkeypatch, versions={})
    assert {name for name, finding in findings.items() if finding.status == "broken"} == set()
    assert findings["TensorRT-RTX"].remedy == "pip install 'bsst[tensorrt-rtx]'"
    assert findings["onnx"].remedy == "pip install 'bsst[export]'"
    assert findings["NVIDIA GPU"].status == "missing"
    assert findings["ONNX Runtime CPUExecutionProvider"].status == "ok"


def test_a_broken_tensorrt_is_called_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = report(monkeypatch, versions={"tensorrt": "10.14.1.48"})["TensorRT"]
    assert (finding.status, finding.remedy) == ("broken", "install another version")
    assert "10.14.1.48" in finding.found


def test_gpus_ask_for_the_package_that_uses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(name="Orin", compute_capability="8.7", memory_bytes=8 << 30)
    findings = report(monkeypatch, versions={}, gpus=(gpu,))
    assert findings["NVIDIA GPU"].found == "Orin, compute capability 8.7, 8.0 GiB"
    remedy = findings["ONNX Runtime CUDAExecutionProvider"].remedy
    assert remedy == "pip uninstall onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'"
    assert findings["TensorRT"].remedy == "pip install 'bsst[tensorrt]'"


def test_a_package_for_hardware_that_is_not_here_is_missing_and_one_that_computes_wrongly_is_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = {"FirstExecutionProvider": "finds no device that it can use"}
    results = {"CPUExecutionProvider": "", "SecondExecutionProvider": "GridSample gives wrong pixels"} | absent
    monkeypatch.setattr("bsst.engines.doctor.checks.plugin_problems", lambda: absent)
    monkeypatch.setattr("bsst.engines.doctor.checks.probe_providers", lambda: results)
    findings = report(monkeypatch, versions={})
    assert findings["ONNX Runtime FirstExecutionProvider"].status == "missing"
    assert findings["ONNX Runtime SecondExecutionProvider"].status == "broken"


def test_a_provider_that_passes_the_probes_and_is_wrong_about_a_stage_is_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = {"CPUExecutionProvider": "", "GoodExecutionProvider": "", "WrongExecutionProvider": ""}
    monkeypatch.setattr("bsst.engines.doctor.checks.probe_providers", lambda: results)
    monkeypatch.setattr("bsst.engines.doctor.checks.spared_faults", lambda provider: "")
    monkeypatch.setattr("bsst.engines.doctor.checks.record_stages", lambda plan, folder: dict.fromkeys(STAGES, 0.2))

    def tried(models: dict[str, bytes], folder: Path, provider: str, *, time_limit_seconds: float) -> Any:
        wrong = {"fuse": 11.2} if "Wrong" in provider else {}
        return tuple(StageTrial(name=name, psnr=wrong.get(name, 140.0), seconds=0.1) for name in models), ""

    monkeypatch.setattr("bsst.engines.doctor.checks.try_stages", tried)
    findings = report(monkeypatch, versions={})
    good, wrong = (findings[f"{name}ExecutionProvider, stages"] for name in ("Good", "Wrong"))
    assert (good.status, good.found) == ("ok", "10 of 10 stages right, 2 times as fast as the CPU, copies included")
    assert wrong.status == "broken"
    assert "9 of 10 stages right" in wrong.found
    assert wrong.found.endswith("stage fuse: expected 50 dB to the CPU, got 11.2 dB")
    assert wrong.remedy == "run plans of target cpu, and report this"


API = f"cuda-bindings {importlib.metadata.version('cuda-bindings')}"
GPU = Gpu(name="T4", compute_capability="7.5", memory_bytes=16 << 30)


@pytest.mark.parametrize(
    ("h264", "hevc", "gpus", "status", "found", "remedy"),
    [
        ("", "", (GPU,), "ok", "H.264: gives the right pixels; HEVC: gives the right pixels", False),
        ("", "no Main 10", (GPU,), "missing", "H.264: gives the right pixels; HEVC: no Main 10", False),
        ("no NVENC", "no NVENC", (GPU,), "missing", "no NVENC", True),
        ("no driver", "no driver", (), "missing", "no driver", False),
    ],
    ids=["all", "one", "none", "no-gpu"],
)
def test_codecs_of_the_gpu_are_listed_with_reasons(
    monkeypatch: pytest.MonkeyPatch, h264: str, hevc: str, gpus: tuple[Gpu, ...], status: str, found: str, remedy: bool
) -> None:
    monkeypatch.setattr("bsst.runtime.video.probe.probe_video", lambda: {"NVENC": {"H.264": h264, "HEVC": hevc}})
    finding = report(monkeypatch, versions={}, gpus=gpus)["NVENC video"]
    assert (finding.status, finding.found, bool(finding.remedy)) == (status, found, remedy)


@pytest.mark.parametrize(
    ("gpus", "status", "found"),
    [
        (1, "ok", f"{API} opens Simulated GPU, 0.5 of 0.5 GiB free"),
        (
            0,
            "broken",
            "expected an NVIDIA GPU and its driver, found none: cuInit failed: no CUDA-capable device is detected",
        ),
    ],
)
def test_the_driver_is_tried(monkeypatch: pytest.MonkeyPatch, gpus: int, status: str, found: str) -> None:
    gpu = Gpu(name="Orin", compute_capability="8.7", memory_bytes=8 << 30)
    with simulated_gpu(devices=gpus, total=1 << 29):
        finding = report(monkeypatch, versions={"cuda-bindings": "13"}, gpus=(gpu,))["cuda-bindings"]
    assert (finding.status, finding.found) == (status, found)


@pytest.mark.parametrize(
    ("text", "status", "found"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 1", "ok", "L4T 36.4.3, JetPack 6"),
        ("# R35 (release), REVISION: 4.1, GCID: 1", "broken", "L4T 35.4.1, JetPack 5"),
        ("something else", "broken", "unreadable"),
    ],
)
def test_jetpack_is_recognised(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, status: str, found: str
) -> None:
    file = tmp_path / "nv_tegra_release"
    file.write_text(text)
    monkeypatch.setattr("bsst.engines.doctor.checks._TEGRA_RELEASE", file)
    finding = report(monkeypatch, versions={})["Jetson"]
    assert finding.status == status
    assert found in finding.found


@pytest.mark.needs_rtx
def test_tensorrt_rtx_really_builds() -> None:
    finding = next(finding for finding in diagnose() if finding.subject == "TensorRT-RTX")
    assert finding.status == "ok", finding
    assert "built a GridSample engine" in finding.found


def test_the_probe_inputs_mean_half_a_pixel() -> None:
    grid = probe_graphs.grid_sample_inputs()["p"]
    columns = (grid[0, :, :, 0] + 1) * 3 / 2
    np.testing.assert_allclose(columns, np.tile(np.arange(4) + 0.5, (2, 1)), atol=1e-6)
