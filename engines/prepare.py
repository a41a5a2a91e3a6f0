"""A stage as a `cpu` plan carries it -> the graph that a target compiles: precision and plugins in one place.

TensorRT-RTX, TensorRT without plugins, WebGPU and half precision take the portable function bodies; float32 on other
devices of ONNX Runtime takes `DeformConv`; TensorRT with plugins keeps the operators that have a kernel as nodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from bsst.calibration.precision.pad_channels import pad_channels
from bsst.calibration.precision.to_half import HalfType, feature_tensors, to_half
from bsst.calibration.precision.widen_groups import widen_groups
from bsst.plan.manifest import Precision, Target
from bsst.plugins.operator_schema import DOMAIN
from bsst.plugins.registry import Bodies, lower, plugin_inputs

__all__ = ["HALF_TYPES", "fit_convolutions", "plugins_of", "prepare_stage"]

HALF_TYPES: dict[Precision, HalfType] = {"fp16": "float16", "bf16": "bfloat16"}
"""Type of products, by precision."""
_DEFORM_CONV: tuple[Target, ...] = ("cpu", "ort-cuda", "ort-tensorrt")


def prepare_stage(
    model: onnx.ModelProto,
    target: Target,
    precision: Precision,
    *,
    compute_capabilities: Sequence[str] = (),
    plugins: bool = False,
) -> onnx.ModelProto:
    """Lower one stage and set its precision.

    Args:
        model: stage in float32 with every custom operator as a node and a function.
        target: what will run it.
        precision: fp32, fp16 or bf16.
        compute_capabilities: GPUs the engine is for, as in "8.6".
        plugins: keep operators that have a TensorRT plugin as nodes; for target `tensorrt` alone.

    Raises:
        ExportError: a graph without types or shapes, or constants beyond the half type.
    """
    bodies: Bodies = "cpu" if target in _DEFORM_CONV and precision == "fp32" else "portable"
    lowered = lower(model, bodies=bodies, plugins=plugins)
    if precision in HALF_TYPES:
        lowered = to_half(
            lowered, HALF_TYPES[precision], half_tensors=feature_tensors(lowered), operators=plugin_inputs()
        )
    return fit_convolutions(lowered, target, compute_capabilities)


def fit_convolutions(model: onnx.ModelProto, target: Target, compute_capabilities: Sequence[str]) -> onnx.ModelProto:
    """Channels of convolutions as the target needs them, see `widen_groups` and `pad_channels`."""
    if target == "ort-webgpu":
        return pad_channels(model)
    return widen_groups(model) if "7.5" in compute_capabilities and target == "tensorrt-rtx" else model


def plugins_of(model: onnx.ModelProto) -> tuple[str, ...]:
    """Plugins left in a prepared graph, as `domain::name`."""
    return tuple(sorted({f"{DOMAIN}::{node.op_type}" for node in model.graph.node if node.domain == DOMAIN}))
