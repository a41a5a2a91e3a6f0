"""The table of targets: who builds for each, and what it takes. A new target is a line here and a name in `Target`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bsst.engines.builder import Builder, BuildOptions
from bsst.engines.ort import OrtBuilder
from bsst.engines.tensorrt import TensorRTBuilder
from bsst.engines.tensorrt_rtx import TensorRTRTXBuilder
from bsst.errors import UsageError
from bsst.plan.manifest import Precision, Target

__all__ = ["TARGETS", "TargetEntry", "builder_for", "check_request"]

_COMPILED = frozenset({"--sm", "--optimization-level"})
_TIMED = frozenset({"--hardware-compatibility", "--timing-cache", "--no-plugins"})


@dataclass(frozen=True, kw_only=True)
class TargetEntry:
    """What is special about one target."""

    builder: Callable[[], Builder]
    """Makes its builder; imports none of the target's libraries."""
    precisions: frozenset[Precision] = frozenset({"fp32", "fp16"})
    """Precisions that it builds."""
    options: frozenset[str] = frozenset()
    """Options of `bsst export` that it takes besides those that every target takes."""


TARGETS: Mapping[Target, TargetEntry] = {
    "cpu": TargetEntry(builder=lambda: OrtBuilder(target="cpu")),
    "ort-cuda": TargetEntry(builder=lambda: OrtBuilder(target="ort-cuda")),
    "ort-tensorrt": TargetEntry(builder=lambda: OrtBuilder(target="ort-tensorrt")),
    "ort-webgpu": TargetEntry(builder=lambda: OrtBuilder(target="ort-webgpu")),
    "tensorrt": TargetEntry(
        builder=TensorRTBuilder, precisions=frozenset({"fp32", "fp16", "bf16"}), options=_COMPILED | _TIMED
    ),
    "tensorrt-rtx": TargetEntry(
        builder=TensorRTRTXBuilder, precisions=frozenset({"fp32", "fp16", "bf16"}), options=_COMPILED
    ),
}


def builder_for(target: Target) -> Builder:
    """Builder of a target.

    Raises:
        UsageError: there is no such target.
    """
    if target not in TARGETS:
        raise UsageError(f"expected --target {', '.join(TARGETS)}, got {target}")
    return TARGETS[target].builder()


def check_request(
    target: Target, precision: Precision, options: BuildOptions, *, int8: bool = False
) -> tuple[Builder, BuildOptions]:
    """Refuse what cannot be built here, before anything is traced or opened.

    Returns:
        The builder of the target, and the options as `Builder.fitted` completes them.

    Raises:
        UsageError: target, precision and options do not fit together, or the machine has not the GPU.
        MissingDependencyError: the compiler is not installed, or what the kernels need.
    """
    builder, entry = builder_for(target), TARGETS[target]
    if precision not in ("fp32", "fp16", "bf16"):
        raise UsageError(f"expected fp32, fp16 or bf16 for what is not int8, got {precision}")
    if precision not in entry.precisions:
        able = [name for name, other in TARGETS.items() if precision in other.precisions]
        raise UsageError(
            f"expected --{precision} with --target {' or '.join(able)}, got {target}, where ONNX Runtime has no "
            "convolution in bfloat16; use --fp16"
        )
    if precision == "bf16":
        _check_bf16(options, int8)
    default = BuildOptions()
    for option, given in (
        ("--sm", options.compute_capabilities != ()),
        ("--optimization-level", options.optimization_level != default.optimization_level),
        ("--hardware-compatibility", options.hardware_compatibility != "none"),
        ("--timing-cache", options.timing_cache is not None),
        ("--no-plugins", not options.plugins),
    ):
        if given and option not in entry.options:
            able = [name for name, other in TARGETS.items() if option in other.options]
            raise UsageError(f"expected {option} with --target {' or '.join(able)} only, got --target {target}")
    return builder, builder.fitted(options, precision)


def _check_bf16(options: BuildOptions, int8: bool) -> None:
    if old := [name for name in options.compute_capabilities if float(name) < 8]:
        raise UsageError(f"expected --bf16 with --sm 80 or later, got {', '.join(old)}, which lack it; use --fp16")
    if int8:
        raise UsageError("expected --int8 with --fp16 or alone, got --bf16, which would round the scales; use --fp16")
