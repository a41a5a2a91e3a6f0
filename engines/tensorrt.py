"""Builder of target `tensorrt`: for the GPU of this machine, with our plugins compiled into the engine.

Not run here: the full TensorRT wheels are not on PyPI and building times kernels on the GPU itself. Written against
the documented Python API that TensorRT-RTX shares (which runs here) and tested with a strict fake of it.
Source: NVIDIA TensorRT 10 and 11 Python API; release notes for the versions named below.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass, replace
from typing import Literal

from bsst.engines.builder import BuildOptions, BuiltEngine, StageGraph, installed_compiler
from bsst.engines.compile_stage import compile_stage
from bsst.errors import MissingDependencyError, UsageError
from bsst.plan.manifest import Compiler, Precision
from bsst.plugins.operator_schema import CAPABILITIES
from bsst.plugins.tensorrt_version import check_tensorrt_version, supports_plugins, supports_same_capability
from bsst.runtime.devices.cuda_driver import find_gpus

__all__ = ["TensorRTBuilder"]

_DISTRIBUTIONS = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
"""Each brings `import tensorrt`; the last two are for one version of CUDA, without the first."""


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
        return installed_compiler("tensorrt", _DISTRIBUTIONS, extra="tensorrt", feature="target tensorrt")

    def fitted(self, options: BuildOptions, precision: Precision) -> BuildOptions:
        """Options for the GPU of this machine; see `Builder.fitted`."""
        check_tensorrt_version(self.compiler().version, plugins=False)
        gpu = replace(options, compute_capabilities=self.compute_capabilities(options), device=self.device())
        if precision == "bf16":  # the kernels know float32 and float16
            return gpu
        return replace(gpu, plugin_capability=self.kernel_capability(options))

    def build(self, stage: StageGraph, options: BuildOptions) -> BuiltEngine:
        """Compile for the GPU of this machine.

        Raises:
            UsageError: a compute capability was asked for that this machine has not, or a kind of engine that this
                version has not.
            ModelError: a version that must not be used.
            BuildError: it refused, crashed, or hit a limit.
        """
        compiler = self.compiler()
        check_tensorrt_version(compiler.version, plugins=options.plugin_capability is not None)
        if options.hardware_compatibility == "same-capability" and not supports_same_capability(compiler.version):
            raise UsageError(
                "expected TensorRT 10.9 or later for --hardware-compatibility same-capability, got "
                f"{compiler.version}; take ampere+, or leave it out"
            )
        self.compute_capabilities(options)
        return compile_stage(
            stage,
            options,
            module="bsst.engines.compile_trt",
            request={
                "library": "tensorrt",
                "optimization_level": options.optimization_level,
                "hardware_compatibility": options.hardware_compatibility,
                "plugin_capability": options.plugin_capability,
                "timing_cache": str(options.timing_cache) if options.timing_cache else None,
            },
            compiler=f"TensorRT {compiler.version}",
        )

    def compute_capabilities(self, options: BuildOptions) -> tuple[str, ...]:
        """What the manifest states: the GPU of this machine, or "8.0+" for `hardware_compatibility="ampere+"`.

        Raises:
            UsageError: there is no GPU, or not the one that was asked for.
        """
        gpus = find_gpus()
        if not gpus:
            raise UsageError(
                "expected an NVIDIA GPU, on which target tensorrt builds, got none; run this on the machine that will "
                "run the plan, or use --target tensorrt-rtx, which builds without one"
            )
        here = ("8.0+",) if options.hardware_compatibility == "ampere+" else (gpus[0].compute_capability,)
        if options.compute_capabilities and tuple(options.compute_capabilities) != here:
            raise UsageError(
                f"expected no --sm or --sm {', '.join(here)} for target tensorrt, which builds for the GPU of this "
                f"machine, got {', '.join(options.compute_capabilities)}; use --target tensorrt-rtx to choose others"
            )
        return here

    def device(self) -> str:
        """Product name of the GPU: kernels are timed on it, so its engines suit no other."""
        gpus = find_gpus()
        return gpus[0].name if gpus else ""

    def kernel_capability(self, options: BuildOptions) -> int | None:
        """Compute capability times ten for which operators become kernels in the engine; None: standard operators.

        Raises:
            UsageError: there is no GPU.
            MissingDependencyError: TensorRT is not installed, or Triton, which compiles the kernels.
        """
        capability = self.compute_capabilities(options)[0].replace(".", "")
        # A kernel is compiled for one GPU: an engine for several of them takes the standard operators.
        fits = options.hardware_compatibility == "none" and capability in map(str, CAPABILITIES)
        if not (options.plugins and fits and supports_plugins(self.compiler().version)):
            return None
        if importlib.util.find_spec("triton") is None:
            raise MissingDependencyError("triton", "tensorrt", "target tensorrt without --no-plugins")
        return int(capability)
