"""Builder of target `tensorrt`: for the GPU of this machine, with our plugins compiled into the engine.

Not run here: the full TensorRT wheels are not on PyPI and building times kernels on the GPU itself. Written against
the documented Python API that TensorRT-RTX shares (which runs here) and tested with a strict fake of it.
Source: NVIDIA TensorRT 10 and 11 Python API; release notes for the versions named below.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import Literal

from bsst.engines.builder import BuildOptions, BuiltEngine, StageGraph
from bsst.engines.compile_stage import compile_stage
from bsst.engines.cuda_driver import find_gpus
from bsst.engines.manifest import Compiler
from bsst.errors import MissingDependencyError, ModelError, UsageError

__all__ = ["TensorRTBuilder", "check_tensorrt_version"]

OLDEST = (10, 3)
"""JetPack 6; opset 19 and strongly typed networks work, our plugins do not."""
OLDEST_WITH_PLUGINS = (10, 9)
"""First with plugins compiled ahead of time (`tensorrt.plugin.aot_impl`)."""
BROKEN = ((10, 14),)
"""Python plugins fail, and fp32 GridSample inside an fp16 network gives wrong pixels (pytorch/TensorRT#4074)."""


@dataclass(frozen=True, kw_only=True)
class TensorRTBuilder:
    """TensorRT on the machine that will run the plan."""

    target: Literal["tensorrt"] = "tensorrt"
    """Target of the plans it builds for."""

    def compiler(self) -> Compiler:
        """Name and full version of the installed package, without importing it.

        Raises:
            MissingDependencyError: it is not installed.
        """
        try:
            return Compiler(name="tensorrt", version=importlib.metadata.version("tensorrt"))
        except importlib.metadata.PackageNotFoundError as error:
            raise MissingDependencyError("tensorrt", "tensorrt", "target tensorrt") from error

    def build(self, stage: StageGraph, options: BuildOptions) -> BuiltEngine:
        """Compile for the GPU of this machine.

        Raises:
            UsageError: a compute capability was asked for that this machine has not.
            ModelError: a version that must not be used.
            BuildError: it refused, crashed, or hit a limit.
        """
        compiler = self.compiler()
        plugins = bool(options.plugin_modules or options.plugin_ptx)
        check_tensorrt_version(compiler.version, plugins=plugins)
        here = self.compute_capabilities(options)
        if options.compute_capabilities and tuple(options.compute_capabilities) != here:
            raise UsageError(
                f"expected no --sm or --sm {', '.join(here)} for target tensorrt, which builds for the GPU of this "
                f"machine, got {', '.join(options.compute_capabilities)}; use --target tensorrt-rtx to choose others"
            )
        return compile_stage(
            stage,
            options,
            module="bsst.engines.compile_trt",
            request={
                "library": "tensorrt",
                "optimization_level": options.optimization_level,
                "hardware_compatibility": options.hardware_compatibility,
                "plugin_modules": list(options.plugin_modules),
                "timing_cache": str(options.timing_cache) if options.timing_cache else None,
            },
            compiler=f"TensorRT {compiler.version}",
        )

    def compute_capabilities(self, options: BuildOptions) -> tuple[str, ...]:
        """What the manifest states: the GPU of this machine, or "8.0+" for `hardware_compatibility="ampere+"`.

        Raises:
            UsageError: there is no GPU.
        """
        gpus = find_gpus()
        if not gpus:
            raise UsageError(
                "expected an NVIDIA GPU, on which target tensorrt builds, got none; run this on the machine that will "
                "run the plan, or use --target tensorrt-rtx, which builds without one"
            )
        return ("8.0+",) if options.hardware_compatibility == "ampere+" else (gpus[0].compute_capability,)


def check_tensorrt_version(version: str, *, plugins: bool) -> None:
    """Refuse versions that are too old or known to give wrong results.

    Raises:
        ModelError: with the versions that work.
    """
    release = tuple(int(part) for part in version.split(".")[:2])
    oldest = OLDEST_WITH_PLUGINS if plugins else OLDEST
    if release < oldest or release in BROKEN:
        raise ModelError(
            f"expected TensorRT {'.'.join(map(str, oldest))} or later except 10.14, got {version}; install another "
            "version" + (" or build the graphs without plugins" if plugins and release < oldest else "")
        )
