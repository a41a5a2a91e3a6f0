"""What this machine can run and build, found by trying, and the command that closes each gap."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bsst.engines.builder import Builder, BuildOptions, StageGraph
from bsst.engines.doctor.measure import MINIMUM_PSNR
from bsst.engines.doctor.stage_trial import record_stages, try_stages
from bsst.engines.tensorrt import TensorRTBuilder
from bsst.engines.tensorrt_rtx import RTX_COMPUTE_CAPABILITIES, TensorRTRTXBuilder
from bsst.errors import BsstError, MissingDependencyError
from bsst.plan.archive import open_plan
from bsst.plugins.tensorrt_version import check_tensorrt_version
from bsst.runtime.devices.cuda import CudaDevice
from bsst.runtime.devices.cuda_driver import Gpu, find_gpus
from bsst.runtime.network.network import DEFAULT_PLAN
from bsst.runtime.sessions.probe import plugin_problems, probe_providers, spared_faults
from bsst.runtime.sessions.probe_graphs import GRID_SAMPLE

__all__ = ["Finding", "diagnose"]

Status = Literal["ok", "missing", "broken"]
_STAGES_SECONDS = 300.0
"""Limit for all stages on one provider."""
_TEGRA_RELEASE = Path("/etc/nv_tegra_release")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report."""

    subject: str
    """What was looked at."""
    status: Status
    """`missing` is a choice, `broken` is a fault."""
    found: str
    """Version, device or reason."""
    remedy: str = ""
    """Command or step that closes the gap; empty when there is none to close."""


def diagnose() -> tuple[Finding, ...]:
    """Examine this machine; takes a few seconds, because every usable backend runs or builds a tiny graph.

    Where ONNX Runtime has more than its CPU, each provider runs every stage: a clip on the CPU comes on top.
    """
    gpus = find_gpus()
    return (
        Finding(subject="bsst", status="ok", found=f"{_version('bsst')}, Python {platform.python_version()}"),
        *_onnx_runtime(gpus),
        *_gpus(gpus),
        *_video(gpus),
        *_jetpack(),
        _tensorrt_rtx(),
        _tensorrt(gpus),
        _cuda(gpus),
        *(_package(*entry) for entry in _OPTIONAL),
    )


_OPTIONAL = (
    ("onnx", "export", "build plans for other targets"),
    ("torch", "export", "export checkpoints"),
    ("onnxscript", "export", "export checkpoints"),
)


def _onnx_runtime(gpus: tuple[Gpu, ...]) -> Iterator[Finding]:
    results = probe_providers()
    absent = plugin_problems()
    for provider, problem in results.items():
        # A package for hardware that is not there is no fault.
        status: Status = "ok" if not problem else "missing" if provider in absent else "broken"
        found = problem or "DeformConv, GridSample and Conv give the right pixels"
        remedy = "pip install --force-reinstall onnxruntime" if problem and "CPU" in provider else ""
        if not problem and (spared := spared_faults(provider)):
            found = f"right where plans for it rely on it ({spared})"
        yield Finding(subject=f"ONNX Runtime {provider}", status=status, found=found, remedy=remedy)
    if others := [name for name, problem in results.items() if not problem and name != "CPUExecutionProvider"]:
        yield from _stages(others)
    if gpus and "CUDAExecutionProvider" not in results:
        yield Finding(
            subject="ONNX Runtime CUDAExecutionProvider",
            status="missing",
            found="this onnxruntime is built for the CPU",
            # Both bring the same package; asking for an extra of bsst would bring the first one back.
            remedy="pip uninstall onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'",
        )


def _stages(providers: Sequence[str]) -> Iterator[Finding]:
    """The packaged plan's stages on each provider, against the CPU."""
    plan = open_plan(DEFAULT_PLAN)
    with tempfile.TemporaryDirectory(prefix="bsst-doctor-") as folder:
        cpu = record_stages(plan, Path(folder))
        for provider in providers:
            models = {stage.name: plan.member(stage.name) for stage in plan.manifest.stages}
            if provider == "WebGpuExecutionProvider":
                try:
                    models = _for_webgpu(models)
                except ImportError as error:
                    yield _package(str(error.name), "export", "build plans for WebGPU")
                    continue
            trials, failure = try_stages(models, Path(folder), provider, time_limit_seconds=_STAGES_SECONDS)
            wrong = [
                f"stage {t.name}: expected {MINIMUM_PSNR:.0f} dB to the CPU, got {t.psnr:.1f} dB"
                for t in trials
                if not t.psnr >= MINIMUM_PSNR
            ]
            found = f"{len(trials) - len(wrong)} of {len(models)} stages right"
            if trials:
                speed = sum(cpu[t.name] for t in trials) / sum(t.seconds for t in trials)
                found += f", {speed:.2g} times as fast as the CPU, copies included"
            yield Finding(
                subject=f"{provider}, stages",
                status="broken" if wrong or failure else "ok",
                found="; ".join(filter(None, (found, *wrong, failure))),
                remedy="run plans of target cpu, and report this" if wrong or failure else "",
            )


def _for_webgpu(models: Mapping[str, bytes]) -> dict[str, bytes]:
    import onnx

    from bsst.engines.prepare import prepare_stage

    graphs = {name: onnx.load_from_string(model) for name, model in models.items()}
    return {name: prepare_stage(g, "ort-webgpu", "fp32").SerializeToString() for name, g in graphs.items()}


def _gpus(gpus: tuple[Gpu, ...]) -> Iterator[Finding]:
    if not gpus:
        yield Finding(subject="NVIDIA GPU", status="missing", found="no driver or no device; plans run on the CPU")
    for gpu in gpus:
        found = f"{gpu.name}, compute capability {gpu.compute_capability}, {gpu.memory_bytes / 2**30:.1f} GiB"
        yield Finding(subject="NVIDIA GPU", status="ok", found=found)


_VIDEO_DRIVER = (
    "if this GPU has it, install libnvcuvid and libnvidia-encode; in a container, set NVIDIA_DRIVER_CAPABILITIES=all"
)


def _video(gpus: tuple[Gpu, ...]) -> Iterator[Finding]:
    from bsst.runtime.video.probe import probe_video  # needs PyAV, which the self-test does without

    for unit, problems in probe_video().items():
        reasons = set(problems.values())
        each = "; ".join(f"{codec}: {problem or 'gives the right pixels'}" for codec, problem in problems.items())
        yield Finding(
            subject=f"{unit} video",
            status="missing" if any(reasons) else "ok",
            found=reasons.pop() if len(reasons) == 1 and any(reasons) else each,
            remedy=_VIDEO_DRIVER if gpus and all(problems.values()) else "",
        )


def _jetpack() -> Iterator[Finding]:
    if not _TEGRA_RELEASE.exists():
        return
    release = re.search(r"R(\d+) .*REVISION: ([\d.]+)", _TEGRA_RELEASE.read_text(errors="replace"))
    if release is None:
        yield Finding(subject="Jetson", status="broken", found=f"unreadable {_TEGRA_RELEASE}", remedy="flash JetPack")
        return
    jetpack = {35: "5", 36: "6", 38: "7", 39: "7"}.get(int(release[1]), "unknown")
    usable = int(release[1]) >= 36
    yield Finding(
        subject="Jetson",
        status="ok" if usable else "broken",
        found=f"L4T {release[1]}.{release[2]}, JetPack {jetpack}",
        remedy="" if usable else "upgrade to JetPack 6 or later",
    )


def _tensorrt_rtx() -> Finding:
    builder = TensorRTRTXBuilder()
    capability = RTX_COMPUTE_CAPABILITIES[3]
    return _build(builder, "TensorRT-RTX", BuildOptions(compute_capabilities=(capability,), time_limit_seconds=120))


def _tensorrt(gpus: tuple[Gpu, ...]) -> Finding:
    builder = TensorRTBuilder()
    if gpus:
        return _build(builder, "TensorRT", BuildOptions(time_limit_seconds=300))
    try:
        version = builder.compiler().version
        check_tensorrt_version(version, plugins=False)
    except MissingDependencyError:
        return Finding(subject="TensorRT", status="missing", found="not installed; it builds on a machine with a GPU")
    except BsstError as error:
        return _broken("TensorRT", error)
    return Finding(subject="TensorRT", status="missing", found=f"{version}, but no GPU to build on")


def _build(builder: Builder, subject: str, options: BuildOptions) -> Finding:
    try:
        version = builder.compiler().version
        built = builder.build(StageGraph(name="doctor", model=GRID_SAMPLE), options)
    except MissingDependencyError as error:
        found, _, remedy = str(error).partition("; run: ")
        return Finding(subject=subject, status="missing", found=found, remedy=remedy)
    except BsstError as error:
        return _broken(subject, error)
    seconds = built.facts["seconds"]
    return Finding(subject=subject, status="ok", found=f"{version} built a GridSample engine in {seconds:.1f} s")


def _broken(subject: str, error: BsstError) -> Finding:
    found, _, remedy = str(error).rpartition("; ")
    return Finding(subject=subject, status="broken", found=found, remedy=remedy)


def _cuda(gpus: tuple[Gpu, ...]) -> Finding:
    subject = next((name for name in ("cuda-bindings", "pycuda") if _version(name)), "cuda-bindings")
    finding = _package(subject, "gpu", "run plans on an NVIDIA GPU")
    if finding.status != "ok" or not gpus:
        return finding
    try:
        with CudaDevice() as device:
            free, total = device.memory()
    except BsstError as error:
        return _broken(subject, error)
    found = f"{device.api.name} opens {device.name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    return Finding(subject=subject, status="ok", found=found)


def _package(name: str, extra: str, purpose: str) -> Finding:
    if version := _version(name):
        return Finding(subject=name, status="ok", found=version)
    return Finding(
        subject=name,
        status="missing",
        found=f"not installed; needed to {purpose}",
        remedy=f"pip install 'bsst[{extra}]'",
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
