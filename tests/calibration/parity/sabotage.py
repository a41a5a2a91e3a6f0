"""Plans sabotaged in one node of one stage; digests are right, so only the figures can tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from bsst.plan.archive import open_plan, write_plan

__all__ = ["sabotaged", "scale_weights"]


def sabotaged(source: Path, target: Path, stage: str, change: Callable[[onnx.GraphProto], None]) -> Path:
    """Copy of a plan, in its first shape of tiles, with one stage changed."""
    plan = open_plan(source)
    members: dict[str, Path | bytes] = {s.member: plan.member(s.name) for s in plan.manifest.stages}
    model = onnx.load_from_string(plan.member(stage))
    change(model.graph)
    members[plan.manifest.stage(stage).member] = model.SerializeToString(deterministic=True)
    write_plan(target, dataclasses.replace(plan.manifest, shapes=()), members)
    return target


def scale_weights(graph: onnx.GraphProto, node: str, factor: float) -> None:
    """Multiply the weights of one node by a factor."""
    name = next(n.input[1] for n in graph.node if n.name == node)
    tensor = next(t for t in graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((values * factor).astype(values.dtype), f"{name}_sabotaged"))
    for other in graph.node:
        if other.name == node:
            other.input[1] = f"{name}_sabotaged"
        elif name in other.input and all(known.name != name for known in graph.initializer):
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
