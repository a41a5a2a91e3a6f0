"""A plan of target `cpu` -> a plan of another target or precision: `bsst export --from cpu.plan`.

Such a plan carries its stages as ONNX with every custom operator as a node and a function, so neither the checkpoint
nor torch is needed: a Jetson or a workstation builds its own engines from the file it was given.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from bsst.calibration.choose_int8 import Budget, choose_int8
from bsst.calibration.precision.emulate import emulate_half
from bsst.calibration.precision.to_half import HalfType, precision_shares
from bsst.calibration.ranges import Ranges, require_plan
from bsst.engines.builder import BuildOptions, StageGraph, build_stage
from bsst.engines.cache import EngineCache
from bsst.engines.prepare import HALF_TYPES, fit_convolutions, plugins_of, prepare_stage
from bsst.engines.targets import check_request
from bsst.errors import ExportError, UsageError
from bsst.export.stage_spec import stage_spec
from bsst.plan.archive import Plan, open_plan, write_plan
from bsst.plan.manifest import Manifest, Precision, StageSpec, Target, require
from bsst.plugins.registry import plugin_ptx
from bsst.runtime.metrics import float_psnr
from bsst.runtime.network.network import host_network
from bsst.runtime.one_clip import moving_texture, restore_clip
from bsst.runtime.sessions.ort import OrtSession

__all__ = ["MINIMUM_FP16_PSNR", "Int8Request", "rebuild_plan"]

MINIMUM_FP16_PSNR = 50.0
"""Decibels of a restored clip, 16-bit against float32, below which `--fp16` and `--bf16` are refused."""


@dataclass(frozen=True, kw_only=True)
class Int8Request:
    """What `--int8` needs."""

    ranges: Ranges
    """From `bsst calibrate` on the source plan; its clips are measured again."""
    budget: Budget = field(default_factory=Budget)
    """What int8 may cost."""


def rebuild_plan(
    source: Path,
    output: Path,
    *,
    target: Target,
    precision: Precision = "fp32",
    int8: Int8Request | None = None,
    options: BuildOptions | None = None,
    cache: EngineCache | None = None,
    check: bool = True,
    keep_float32: bool = False,
    progress: Callable[[str], None] = lambda step: None,
) -> Manifest:
    """Build every stage of `source` for `target` and write one plan.

    Args:
        source: plan of target `cpu` and precision fp32.
        output: plan to write, replaced atomically.
        target: what will run it.
        precision: fp32, fp16 or bf16.
        int8: quantise the stages that can be on the clips of its ranges; the others are built in `precision`.
        options: compute capabilities and limits.
        cache: engines built before; None builds all of them.
        check: for fp16 and bf16, restore a clip in emulated arithmetic and refuse a loss beyond `MINIMUM_FP16_PSNR`;
            int8 is measured in any case.
        keep_float32: carry the stages of `source` as they are, too; see `Manifest.float32`.
        progress: told about every step.

    Returns:
        The manifest as written.

    Raises:
        PlanError: `source` is damaged, or carries no ONNX.
        UsageError: target, precision and compute capabilities do not fit together, or ranges of another plan.
        InputError: a clip of the ranges is missing or changed.
        BuildError: a stage cannot be built.
        ExportError: half precision costs too much, a stage did not become half, or no stage can be int8.
    """
    builder, chosen = check_request(target, precision, options or BuildOptions(), int8=int8 is not None)
    compiler = builder.compiler()
    plan = open_plan(source)
    require(plan.manifest, targets=["cpu"])
    if plan.manifest.precision != "fp32":
        raise UsageError(
            f"expected a source plan in fp32, got {plan.manifest.precision}; give the plan it was made from"
        )
    if int8 is not None:
        require_plan(int8.ranges, plan.manifest)
    capabilities, kernels = chosen.compute_capabilities, chosen.plugin_capability is not None
    if target == "tensorrt":
        how = f"as kernels for SM {chosen.plugin_capability}" if kernels else "as standard operators"
        progress(f"custom operators {how}")
    sources = {stage.name: onnx.load_from_string(plan.member(stage.name)) for stage in plan.manifest.stages}
    models = {
        name: prepare_stage(model, target, precision, compute_capabilities=capabilities, plugins=kernels)
        for name, model in sources.items()
    }
    parity = dict(plan.manifest.parity)
    half = HALF_TYPES.get(precision)
    plain = models
    if kernels and ((check and half is not None) or int8 is not None):
        # ONNX Runtime knows no plugins: the same operators as standard ones, rounded at the same places.
        plain = {name: prepare_stage(model, target, precision) for name, model in sources.items()}
    if check and half is not None:
        progress(f"comparing {half} with float32")
        parity[precision] = _measure_half(plan, plain, half)
    if int8 is not None:
        quantised, parity["int8"] = choose_int8(
            plan,
            int8.ranges,
            plain,
            half=half,
            budget=int8.budget,
            cpu=target == "cpu" and half is None,
            after=lambda model: fit_convolutions(model, target, capabilities),
            progress=progress,
        )
        models |= quantised
    stages, members = [], {}
    for index, (name, model) in enumerate(models.items(), start=1):
        progress(f"building {name} ({index} of {len(models)})")
        graph = StageGraph(name=name, model=model.SerializeToString(deterministic=True))
        built, _ = build_stage(builder, graph, _with_kernels(chosen, model), cache=cache)
        stages.append(stage_spec(name, model, target, precision=precision_shares(model), facts=built.facts))
        members[stages[-1].member] = built.data
    kept: tuple[StageSpec, ...] = ()
    if keep_float32:
        kept = tuple(dataclasses.replace(s, member=f"{s.name}_float32.onnx") for s in plan.manifest.stages)
        members |= {spec.member: plan.member(spec.name) for spec in kept}
    manifest = dataclasses.replace(
        plan.manifest,
        target=target,
        precision="int8" if int8 is not None else precision,
        compiler=compiler,
        compute_capabilities=capabilities,
        plugins=tuple(sorted({name for model in models.values() for name in plugins_of(model)})),
        stages=tuple(stages),
        float32=kept,
        shapes=(),
        parity=parity,
    )
    progress(f"writing {output.name}")
    return write_plan(output, manifest, members)


def _with_kernels(options: BuildOptions, model: onnx.ModelProto) -> BuildOptions:
    """Options with the kernels that this stage carries, which are part of its content key."""
    if options.plugin_capability is None:
        return options
    if not plugins_of(model):
        return dataclasses.replace(options, plugin_capability=None)
    kernels = plugin_ptx(model, capability=options.plugin_capability)
    return dataclasses.replace(options, plugin_ptx=kernels)


def _measure_half(plan: Plan, models: Mapping[str, onnx.ModelProto], dtype: HalfType) -> dict[str, Any]:
    """PSNR in dB of a restored clip, peak 1: all stages in emulated half precision against all in float32."""
    manifest = plan.manifest
    exact = {name: OrtSession(name, plan.member(name), threads=0) for name in models}
    rounded = {
        name: OrtSession(name, emulate_half(model).SerializeToString(), threads=0) for name, model in models.items()
    }
    size = [max(pair) for pair in zip(manifest.tile, manifest.flow_size, strict=True)]
    clip = moving_texture(manifest.frames, *size)
    figure = float_psnr(
        restore_clip(host_network(manifest, exact), clip), restore_clip(host_network(manifest, rounded), clip), 1.0
    )
    if not figure >= MINIMUM_FP16_PSNR:
        raise ExportError(
            f"expected {dtype} within {MINIMUM_FP16_PSNR} dB of float32 on a clip, got {figure:.1f} dB; "
            "export in fp32 and report this with the checkpoint's name"
        )
    return {"clip": figure, "arithmetic": f"{dtype} emulated on the CPU"}
