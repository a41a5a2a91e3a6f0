"""What the manifest says about a stage, read from its graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import onnx

from bsst.plan.manifest import DType, StageSpec, Target, TensorSpec, member_suffix

__all__ = ["stage_spec"]


def stage_spec(
    name: str, model: onnx.ModelProto, target: Target, *, precision: Mapping[str, float], facts: Mapping[str, float]
) -> StageSpec:
    """Spec of a stage without digest and size, which `write_plan` fills.

    Args:
        name: of the stage.
        model: graph that an engine is built from, or that the plan holds itself.
        target: what runs the stage.
        precision: share of its products of each type.
        facts: what the compiler reported.
    """
    return StageSpec(
        name=name,
        member=f"{name}{member_suffix(target)}",
        inputs=tuple(_tensor_spec(value) for value in model.graph.input),
        outputs=tuple(_tensor_spec(value) for value in model.graph.output),
        precision=dict(precision),
        build=dict(facts),
    )


def _tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    shape = tuple(dimension.dim_value for dimension in tensor.shape.dim)
    return TensorSpec(name=value.name, dtype=cast(DType, dtype), shape=shape)
