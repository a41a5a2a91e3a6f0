"""Child process that compiles one ONNX file with TensorRT or TensorRT-RTX, started by `compile_stage`.

Both libraries share this API; the request names the one to import. The network is strongly typed: precision is in the
graph and the builder keeps it. TensorRT-RTX needs neither GPU nor driver here as long as its compute capabilities are
named and no timing cache is made.
Source: NVIDIA TensorRT Python API, IBuilderConfig; TensorRT-RTX porting guide.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from bsst.engines.compile_stage import FACT, PROGRESS
from bsst.engines.layer_types import half_share
from bsst.plan.strict_json import parse_json

__all__ = ["compile_file"]


def compile_file(trt: Any, request: dict[str, Any]) -> None:
    """Write the engine of `request["model"]` to `request["engine"]`.

    Raises:
        SystemExit: the parser or the builder refused; its words are in the log on standard output.
    """
    logger = _logger(trt)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    if (capability := request.get("plugin_capability")) is not None:
        from bsst.plugins.registry import register_plugins

        register_plugins(capability=capability)  # the parser finds only plugins that are known before it runs
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS)
    builder = trt.Builder(logger)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(Path(request["model"]).read_bytes()):
        sys.exit("\n".join(f"parser error: {parser.get_error(i).desc()}" for i in range(parser.num_errors)))
    config = builder.create_builder_config()
    config.builder_optimization_level = request["optimization_level"]
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.progress_monitor = _monitor(trt)
    if request["library"] == "tensorrt_rtx":
        # Otherwise an engine may allocate while it runs, and the runtime cannot capture it in a CUDA graph.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    _choose_gpus(trt, config, request)
    cache = _load_timings(config, request.get("timing_cache"))
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        sys.exit(1)
    Path(request["engine"]).write_bytes(engine)
    if cache is not None:
        Path(request["timing_cache"]).write_bytes(bytes(config.get_timing_cache().serialize()))
    if request["library"] == "tensorrt":
        # TensorRT-RTX 1.7.1 builds without a GPU but loads no engine without one ("cudaError 35").
        _report_layers(trt, logger, engine)


def _report_layers(trt: Any, logger: Any, engine: Any) -> None:
    try:
        runtime = trt.Runtime(logger)
        loaded = runtime.deserialize_cuda_engine(engine)
        if loaded is None:
            raise RuntimeError("the engine was not loaded")
        information = loaded.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
        print(f"{FACT} half_layers {half_share(information):.4f}", flush=True)
    except Exception as error:  # any that Python sees: a figure for the reader must not cost an engine that is built
        print(f"half-precision layers were not counted: {error!r}", flush=True)


def _choose_gpus(trt: Any, config: Any, request: dict[str, Any]) -> None:
    capabilities = request.get("compute_capabilities", [])
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, "SM" + capability.replace(".", "")), index)
    level = {"none": None, "ampere+": "AMPERE_PLUS", "same-capability": "SAME_COMPUTE_CAPABILITY"}[
        request.get("hardware_compatibility", "none")
    ]
    if level is not None:
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)


def _load_timings(config: Any, path: str | None) -> Any:
    if path is None:
        return None
    file = Path(path)
    cache = config.create_timing_cache(file.read_bytes() if file.exists() else b"")
    # A cache of another GPU or version is refused by the library; start from an empty one then.
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.INFO:
                print(f"{severity.name}: {message}", flush=True)

    return Logger()


def _monitor(trt: Any) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases: dict[str, list[int]] = {}
            self.fraction = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases[phase_name] = [0, max(1, num_steps)]
            self.report(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.phases[phase_name][0] = step + 1
            self.report(phase_name)
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.phases.pop(phase_name, None)

        def report(self, phase: str) -> None:
            # Phases nest: each one refines the current step of the one before.
            fraction, weight = 0.0, 1.0
            for done, steps in self.phases.values():
                fraction += weight * done / steps
                weight /= steps
            self.fraction = max(self.fraction, min(fraction, 1.0))
            print(f"{PROGRESS} {self.fraction:.4f} {phase}", flush=True)

    return Monitor()


if __name__ == "__main__":
    order = parse_json(Path(sys.argv[1]).read_bytes(), sys.argv[1])
    compile_file(importlib.import_module(order["library"]), order)
