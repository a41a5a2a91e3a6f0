"""What every builder takes and gives: one ONNX stage in, one engine out.

    builder.build(stage, options) -> BuiltEngine

`build_stage` puts the cache in front of it. A builder per target: `ort.py`, `tensorrt_rtx.py`,
`tensorrt.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from bsst.engines.cache import EngineCache
from bsst.errors import MissingDependencyError
from bsst.plan.manifest import Compiler, Precision, Target
from bsst.plan.strict_json import canonical_json

__all__ = [
    "BuildOptions",
    "Builder",
    "BuiltEngine",
    "StageGraph",
    "build_key",
    "build_stage",
    "installed_compiler",
]


@dataclass(frozen=True, kw_only=True)
class StageGraph:
    """One stage of the network as ONNX."""

    name: str
    """Stage name."""
    model: bytes
    """Serialized ONNX model at opset 19, weights inside (no external data), lowered for the target."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How to build; only the fields that change the engine enter the cache key."""

    compute_capabilities: tuple[str, ...] = ()
    """GPUs to build for, as in ("8.6", "8.9"); () where the target takes none."""
    device: str = ""
    """TensorRT only: product name of the GPU that kernels are timed on."""
    optimization_level: int = 3
    """TensorRT builder effort, 0 to 5."""
    hardware_compatibility: Literal["none", "ampere+", "same-capability"] = "none"
    """TensorRT only: one engine for several GPUs, slower than one for this GPU."""
    plugins: bool = True
    """TensorRT only: custom operators as our kernels where version and GPU allow; else as standard operators."""
    plugin_ptx: Mapping[str, bytes] = field(default_factory=dict)
    """Ahead-of-time compiled kernels inside the engine, by operator."""
    plugin_capability: int | None = None
    """TensorRT only: compute capability times ten for which those kernels are compiled; None: there are none."""
    timing_cache: Path | None = None
    """TensorRT only: file of kernel timings kept between builds on the same GPU."""
    time_limit_seconds: float = 3600.0
    """A build that takes longer is stopped."""
    memory_limit_bytes: int = 16 << 30
    """A build whose resident memory grows beyond this is stopped."""
    work_directory: Path | None = None
    """Where the graph and log of a failed build are kept; None is beside the engine cache."""
    progress: Callable[[str, float], None] | None = None
    """Told how far a build is."""


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """Result of a build."""

    data: bytes
    """Serialized engine."""
    facts: Mapping[str, float]
    """`seconds` and, where the compiler tells, `activation_bytes`, `weight_bytes`, `peak_host_bytes`."""


class Builder(Protocol):
    """Turns one stage into one engine."""

    @property
    def target(self) -> Target:
        """Target of the plans it builds for."""

    def compiler(self) -> Compiler:
        """Name and full version; raises MissingDependencyError where it is not installed."""

    def fitted(self, options: BuildOptions, precision: Precision) -> BuildOptions:
        """Options with what the machine and the precision decide.

        Returns:
            The same with `compute_capabilities` as the manifest states them, and `device` and `plugin_capability` where
            the target has them.

        Raises:
            UsageError: options that this builder, or the GPU of this machine, does not take.
            MissingDependencyError: what they need is not installed.
        """

    def build(self, stage: StageGraph, options: BuildOptions) -> BuiltEngine:
        """Build, or raise BuildError naming the stage, the reason and where the graph was kept."""


def installed_compiler(name: str, distributions: Sequence[str], *, extra: str, feature: str) -> Compiler:
    """Name and full version of a compiler, without importing it.

    Args:
        name: of the compiler.
        distributions: any of these brings it.
        extra: of this package, for the message.
        feature: what needs it.

    Raises:
        MissingDependencyError: none of them is installed.
    """
    for distribution in distributions:
        with suppress(importlib.metadata.PackageNotFoundError):
            return Compiler(name=name, version=importlib.metadata.version(distribution))
    raise MissingDependencyError(name, extra, feature)


def build_key(builder: Builder, stage: StageGraph, options: BuildOptions) -> str:
    """Hex SHA-256 over everything that decides the engine: graph with weights, configuration, compiler, GPUs, PTX."""
    configuration: dict[str, Any] = {
        "target": builder.target,
        "compiler": dataclasses.asdict(builder.compiler()),
        "model": hashlib.sha256(stage.model).hexdigest(),
        "compute_capabilities": sorted(options.compute_capabilities),
        "device": options.device,
        "optimization_level": options.optimization_level,
        "hardware_compatibility": options.hardware_compatibility,
        "plugin_capability": options.plugin_capability,
        "plugin_ptx": {name: hashlib.sha256(ptx).hexdigest() for name, ptx in options.plugin_ptx.items()},
    }
    return hashlib.sha256(canonical_json(configuration)).hexdigest()


def build_stage(
    builder: Builder, stage: StageGraph, options: BuildOptions, *, cache: EngineCache | None
) -> tuple[BuiltEngine, bool]:
    """Take the engine from the cache or build it; with two processes at once, one builds and the other waits.

    Returns:
        (engine, whether it came from the cache). The facts of a cached engine are those of its build.

    Raises:
        BuildError: the compiler refused, crashed, or ran out of time or memory.
    """
    if cache is None:
        return builder.build(stage, options), False
    with cache.locked(build_key(builder, stage, options)) as entry:
        if (found := entry.load()) is not None:
            data, facts = found
            return BuiltEngine(data=data, facts=facts), True
        built = builder.build(stage, options)
        entry.store(built.data, built.facts)
        return built, False
