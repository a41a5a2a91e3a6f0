"""Strict stand-in for the documented TensorRT Python API: any name or attribute not listed here fails.

`build_serialized_network` returns a JSON record of everything it was told, as the "engine".
"""

import enum
import json
import os


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    INFO = Severity.INFO

    def __init__(self) -> None:
        pass


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

    def create_timing_cache(self, serialized: bytes) -> TimingCache:
        return TimingCache(serialized)

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
        record = {
            "flags": network.flags,
            "level": config.builder_optimization_level,
            "hardware": config.hardware_compatibility_level.name,
            "verbosity": config.profiling_verbosity.name,
            "cache": config._cache.data.decode() if config._cache else None,
        }
        return json.dumps(record).encode()


class OnnxParser:
    num_errors = 0

    def __init__(self, network: Network, logger: ILogger) -> None:
        pass

    def parse(self, model: bytes) -> bool:
        return True
