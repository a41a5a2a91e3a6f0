"""Builder of target `tensorrt-rtx`: ahead of time, on any machine, for the GPU generations asked for.

TensorRT-RTX takes no plugins, so graphs arrive with every custom operator lowered to standard ones. An engine runs in
exactly the version that built it, on any operating system. Measured with 1.7.1: compute capability 7.5 has no fp32
matrix product ("FP32 GEMM is not supported") and is only accepted alone.
Source: NVIDIA TensorRT-RTX documentation, "Ahead-of-time compilation" and "Compute capability".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from bsst.engines.builder import BuildOptions, BuiltEngine, StageGraph, installed_compiler
from bsst.engines.compile_stage import compile_stage
from bsst.errors import UsageError
from bsst.plan.manifest import Compiler, Precision

__all__ = ["RTX_COMPUTE_CAPABILITIES", "TensorRTRTXBuilder"]

RTX_COMPUTE_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""What `set_compute_capability` knows."""
_DISTRIBUTIONS = ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12")
"""Each brings `import tensorrt_rtx`; the last two are for one version of CUDA, without the first."""


@dataclass(frozen=True, kw_only=True)
class TensorRTRTXBuilder:
    """TensorRT-RTX, compiling on the CPU."""

    target: Literal["tensorrt-rtx"] = "tensorrt-rtx"
    """Target of the plans it builds for."""

    def compiler(self) -> Compiler:
        """Name and full version of the installed wheel, without importing it.

        Raises:
            MissingDependencyError: it is not installed.
        """
        return installed_compiler("tensorrt-rtx", _DISTRIBUTIONS, extra="tensorrt-rtx", feature="target tensorrt-rtx")

    def fitted(self, options: BuildOptions, precision: Precision) -> BuildOptions:
        """Options with the GPUs in order; see `Builder.fitted`."""
        if precision == "fp32" and "7.5" in options.compute_capabilities:
            raise UsageError("expected --fp16 with --sm 75, which has no fp32 matrix products, got fp32; add --fp16")
        self.compiler()
        return replace(options, compute_capabilities=self.compute_capabilities(options))

    def build(self, stage: StageGraph, options: BuildOptions) -> BuiltEngine:
        """Compile for `options.compute_capabilities`.

        Raises:
            UsageError: compute capabilities that the library does not take.
            BuildError: it refused, crashed, or hit a limit.
        """
        capabilities = self.compute_capabilities(options)
        compiler = self.compiler()
        return compile_stage(
            stage,
            options,
            module="bsst.engines.compile_trt",
            request={
                "library": "tensorrt_rtx",
                "compute_capabilities": list(capabilities),
                "optimization_level": options.optimization_level,
            },
            compiler=f"TensorRT-RTX {compiler.version}",
        )

    def compute_capabilities(self, options: BuildOptions) -> tuple[str, ...]:
        """What the manifest states: the GPUs asked for, in order.

        Raises:
            UsageError: none, or some that the library does not take.
        """
        capabilities = sorted(set(options.compute_capabilities))
        unknown = [name for name in capabilities if name not in RTX_COMPUTE_CAPABILITIES]
        if unknown or not capabilities or (len(capabilities) > 1 and "7.5" in capabilities):
            raise UsageError(
                f"expected compute capabilities for TensorRT-RTX among {', '.join(RTX_COMPUTE_CAPABILITIES)} "
                f"(7.5 only alone), got {', '.join(capabilities) or 'none'}; choose them with --sm, as in --sm 86,89"
            )
        return tuple(sorted(capabilities, key=lambda name: tuple(map(int, name.split(".")))))
