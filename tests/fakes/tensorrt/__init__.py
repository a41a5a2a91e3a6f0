"""Strict stand-in for TensorRT's library: any name or attribute not listed here fails.

`tensorrt.plugin` on top of it is NVIDIA's own Python package, from the wheel `tensorrt-cu13-bindings` (or -cu12-).
`build_serialized_network` returns a JSON record of everything it was told, as the "engine"; with FAKE_TENSORRT=runnable
an engine that `runtime.py` executes. A record can be loaded and inspected, not executed.
"""

import enum
import importlib.util
import json
import os
import sys

from .graph import parse
from .inspector import EngineInspector, LayerInformationFormat, layers  # noqa: F401
from .native import *  # noqa: F403
from .native import ILogger
from .runtime import (  # noqa: F401
    ExecutionContextAllocationStrategy,
    Runtime,
    TensorIOMode,
    TensorLocation,
    init_libnvinfer_plugins,
    serialize,
)

__version__ = os.environ.get("FAKE_TENSORRT_VERSION", "11.4.0.106")


class IProgressMonitor:
    def __init__(self) -> None:
        pass


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1
    PREFER_JIT_PYTHON_PLUGINS = 2
    PREFER_AOT_PYTHON_PLUGINS = 3


class HardwareCompatibilityLevel(enum.Enum):
    NONE = 0
    AMPERE_PLUS = 1
    if not __version__.startswith("10.3."):
        SAME_COMPUTE_CAPABILITY = 2


class ProfilingVerbosity(enum.Enum):
    LAYER_NAMES_ONLY = 0
    NONE = 1
    DETAILED = 2


class TimingCache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> memoryview:
        return memoryview(self.data + b"+timed")


class BuilderConfig:
    __slots__ = (
        "_cache",
        "builder_optimization_level",
        "hardware_compatibility_level",
        "profiling_verbosity",
        "progress_monitor",
    )

    def __init__(self) -> None:
        self._cache = None
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache:
        return TimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        if cache.data.startswith(b"other gpu"):
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> TimingCache | None:
        return self._cache


class Network:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.kernels: list[dict[str, object]] = []
        self.model = b""


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def create_network(self, flags: int) -> Network:
        return Network(flags)

    def create_builder_config(self) -> BuilderConfig:
        return BuilderConfig()

    def build_serialized_network(self, network: Network, config: BuilderConfig) -> bytes | None:
        config.progress_monitor.phase_start("Building engine", None, 2)
        config.progress_monitor.step_complete("Building engine", 0)
        config.progress_monitor.phase_finish("Building engine")
        self.logger.log(ILogger.Severity.INFO, "Total Activation Memory: 1024 bytes")
        self.logger.log(ILogger.Severity.INFO, "Total Activation Memory: 24 bytes")
        self.logger.log(ILogger.Severity.INFO, "Total Weights Memory: 77 bytes")
        self.logger.log(ILogger.Severity.VERBOSE, "Total Weights Memory: 9 bytes")
        if os.environ.get("FAKE_TENSORRT") == "refuse":
            self.logger.log(ILogger.Severity.ERROR, "Error Code 10: no tactic for node_7")
            return None
        if os.environ.get("FAKE_TENSORRT") == "runnable":
            return serialize(network.model)
        record = {
            "flags": network.flags,
            "level": config.builder_optimization_level,
            "hardware": config.hardware_compatibility_level.name,
            "verbosity": config.profiling_verbosity.name,
            "cache": config._cache.data.decode() if config._cache else None,
            "kernels": network.kernels,
            "layers": layers(network.model),
        }
        return json.dumps(record).encode()


class _ParserError:
    def __init__(self, text: str) -> None:
        self.text = text

    def desc(self) -> str:
        return self.text


class OnnxParser:
    def __init__(self, network: Network, logger: ILogger) -> None:
        self._network = network
        self._errors: list[_ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> _ParserError:
        return self._errors[index]

    def parse(self, model: bytes) -> bool:
        self._network.model = model
        self._network.kernels, errors = parse(model)
        self._errors = [_ParserError(error) for error in errors]
        return not errors


def _find_plugin_package() -> None:
    wheel = importlib.util.find_spec("tensorrt_bindings")
    if wheel is not None and wheel.submodule_search_locations:
        sys.modules[__name__].__path__.insert(0, wheel.submodule_search_locations[0])


_find_plugin_package()
