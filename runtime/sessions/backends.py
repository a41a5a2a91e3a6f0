"""Target of a plan -> the device that runs it and a session per stage."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from bsst.plan.archive import Plan, require
from bsst.plan.manifest import NVIDIA_TARGETS, Manifest, StageSpec
from bsst.runtime.devices.base import Device, Session
from bsst.runtime.devices.host import HostDevice
from bsst.runtime.network.wiring import FLOW_STAGES
from bsst.runtime.sessions.lane import Lane
from bsst.runtime.sessions.probe import probe_providers
from bsst.runtime.trace import Trace
from bsst.system import usable_cores

__all__ = ["Backend", "choose_provider", "open_backend"]

_LOG = logging.getLogger("bsst.runtime")
_CPU = "CPUExecutionProvider"
_PROVIDERS = {
    "cpu": (),
    "ort-cuda": ("CUDAExecutionProvider",),
    "ort-tensorrt": ("TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider", "CUDAExecutionProvider"),
    "ort-webgpu": ("WebGpuExecutionProvider",),
}
"""Best first; the CPU comes last for all."""


@dataclass(frozen=True, kw_only=True)
class Backend:
    """What runs a plan; whoever gets it closes it, or closes the sessions and then the device."""

    device: Device
    """Where tensors live."""
    sessions: Mapping[str, Session]
    """One per stage."""
    line: str
    """What is used, for messages and reports."""
    lanes: int = 1
    """Clips that the sessions can run side by side."""

    def close(self) -> None:
        """Free the sessions, then the device."""
        for session in self.sessions.values():
            session.close()
        self.device.close()


def open_backend(
    plan: Plan, *, threads: int = 0, lanes: int = 1, graphs: bool = True, trace: Trace | None = None
) -> Backend:
    """Load every stage of a plan.

    Args:
        plan: an opened plan.
        threads: CPU threads of ONNX Runtime; 0 for all cores.
        lanes: clips to run side by side where a CPU runs them; it has no more lanes than threads.
        graphs: capture CUDA graphs.
        trace: records what each stream does when.

    Raises:
        PlanError: made for another machine, or an engine is not what the manifest says.
        MissingDependencyError: the library of the target is not installed.
        ModelError: no driver or GPU, or the library refuses an engine.
        OutOfMemoryError: the device has too little memory.
    """
    if plan.manifest.compiled:
        backend = _tensorrt(plan, graphs=graphs, trace=trace)
    else:
        backend = _onnx_runtime(plan, threads=threads, lanes=lanes, trace=trace)
    _LOG.info("%s", backend.line)
    return backend


def choose_provider(target: str, problems: Mapping[str, str]) -> tuple[str, str]:
    """The best provider for a target, by what computed right pixels here.

    Args:
        target: of ONNX Runtime.
        problems: result of `probe_providers`.

    Returns:
        Provider, and why no better one; "" where it is the best.
    """
    wanted = _PROVIDERS[target]
    for index, provider in enumerate((*wanted, _CPU)):
        if problems.get(provider) == "" or provider == _CPU:
            reasons = [f"{name}: {problems.get(name, 'not in this onnxruntime')}" for name in wanted[:index]]
            return provider, "; ".join(reasons)
    raise AssertionError("the CPU comes last")


def _onnx_runtime(plan: Plan, *, threads: int, lanes: int, trace: Trace | None) -> Backend:
    target = plan.manifest.target
    provider, reason = choose_provider(target, probe_providers(_PROVIDERS[target]) if _PROVIDERS[target] else {})
    line = f"plan of target {target} runs on ONNX Runtime, {provider}" + (f" ({reason})" if reason else "")
    if provider != _CPU and target in NVIDIA_TARGETS:
        return _onnx_runtime_gpu(plan, provider, line, trace=trace)
    if reason:
        _LOG.warning("%s; bsst doctor says how to close the gap", line)
    from bsst.runtime.sessions.ort import OrtSession

    # Sessions are shared by the lanes and may run in several at once; more would not find a core. WebGPU has one queue.
    cores = threads or usable_cores()
    lanes = min(lanes, cores) if provider == _CPU else 1
    device = HostDevice(at_once=lanes, trace=trace)
    stages = [stage.name for stage in plan.manifest.stages]
    sessions = {name: OrtSession(name, plan.member(name), threads=cores // lanes, provider=provider) for name in stages}
    return Backend(device=device, sessions=sessions, line=line, lanes=lanes)


def _onnx_runtime_gpu(plan: Plan, provider: str, line: str, *, trace: Trace | None) -> Backend:
    from bsst.runtime.devices.cuda import CudaDevice
    from bsst.runtime.sessions.ort import OrtGpuSession

    with ExitStack() as undo:
        device = undo.enter_context(CudaDevice(trace=trace))
        streams = {lane: device.stream(f"onnxruntime {lane}") for lane in ("flow", "window")}

        def make(stage: StageSpec) -> Session:
            with device.current():
                return OrtGpuSession(
                    stage.name,
                    plan.member(stage.name),
                    provider=provider,
                    options=_provider_options(provider, stage),
                    stream=streams[_lane(stage)],
                    device_id=device.index,
                )

        sessions = _load(plan.manifest, make, undo)
        undo.pop_all()
    return Backend(device=device, sessions=sessions, line=f"{line} on {device.name}")


def _tensorrt(plan: Plan, *, graphs: bool, trace: Trace | None) -> Backend:
    from bsst.runtime.devices.cuda import CudaDevice
    from bsst.runtime.sessions.kernel_cache import runtime_cache
    from bsst.runtime.sessions.tensorrt import TrtLibrary, TrtSession

    manifest = plan.manifest
    with ExitStack() as undo:
        device = undo.enter_context(CudaDevice(trace=trace))
        library = TrtLibrary(manifest.target, device)
        require(manifest, compiler_version=library.version, compute_capability=device.compute_capability)
        lanes = {lane: Lane(device) for lane in ("flow", "window")}
        gpu = f"{device.name} {device.compute_capability}"

        def make(stage: StageSpec) -> Session:
            cache = runtime_cache(stage.sha256, library=library.name, gpu=gpu)
            return TrtSession(
                stage,
                plan.member(stage.name),
                library=library,
                lane=lanes[_lane(stage)],
                graphs=graphs,
                cache=cache if manifest.target == "tensorrt-rtx" else None,
            )

        sessions = _load(manifest, make, undo)
        for lane in lanes.values():
            lane.scratch()  # here, where running out of memory is still an answer
        undo.pop_all()
    line = f"plan of target {manifest.target} runs on {library.name}, {device.name} ({device.compute_capability})"
    return Backend(device=device, sessions=sessions, line=line)


def _load(manifest: Manifest, make: Callable[[StageSpec], Session], undo: ExitStack) -> dict[str, Session]:
    sessions = {}
    for stage in manifest.stages:
        sessions[stage.name] = make(stage)
        undo.callback(sessions[stage.name].close)
    return sessions


def _lane(stage: StageSpec) -> str:
    """Stages of a lane run one after another; the two lanes overlap."""
    return "flow" if stage.name in FLOW_STAGES else "window"


def _provider_options(provider: str, stage: StageSpec) -> dict[str, str]:
    from bsst.files import cache_directory

    # Both libraries build engines when a session is made, which takes minutes, and the key of their caches leaves out
    # static shapes (microsoft/onnxruntime#32254): hence a folder per graph.
    folder = cache_directory() / "onnxruntime" / stage.sha256
    if provider == "TensorrtExecutionProvider":
        folder.mkdir(parents=True, exist_ok=True)  # the provider makes the last part of the path alone
        return {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(folder)}  # "1" is refused (#14091)
    if provider == "NvTensorRTRTXExecutionProvider":
        folder.mkdir(parents=True, exist_ok=True)
        return {"nv_runtime_cache_path": str(folder)}
    return {}
