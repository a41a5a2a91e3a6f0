"""Where a plan goes wrong: the first stage whose error leaves its budget, and the first ONNX node inside it.

A stage that fails on the reference's own inputs is broken by itself; then its graph and a trusted graph of the same
stage run on those inputs with every tensor visible, and the first tensor that differs names the node. A stage that
fails on the plan's inputs only passes on what came before it, a drift that no node is to blame for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx
import onnx.inliner

from bsst.calibration.parity.stage_session import GraphSession
from bsst.calibration.parity.stages import StageError, StageFigures, tensor_error
from bsst.runtime.devices.base import Array

__all__ = ["Culprit", "NodeFault", "first_bad_node", "first_bad_stage", "trusted_graphs"]

VISIBLE = 64
"""Inner tensors made visible in one run: all of a large stage at once would not fit into memory."""


@dataclass(frozen=True, kw_only=True)
class Culprit:
    """First stage outside its budget."""

    stage: str
    inputs: Literal["reference", "plan"]
    """Whose inputs it fails on; `reference` means that the stage itself is broken."""
    error: StageError


@dataclass(frozen=True, kw_only=True)
class NodeFault:
    """First node of a stage whose output is outside the budget."""

    name: str
    operator: str
    """ONNX operator type."""
    output: str
    """Tensor that was compared."""
    error: StageError
    position: int
    """Index of the node in the stage, in the order of the graph, functions inlined."""
    compared: int
    """Tensors compared up to and including this one."""
    tensors: int
    """Tensors that the plan's graph and the trusted graph have in common."""


def first_bad_stage(stages: Sequence[StageFigures], minimum: float, *, exact_tables: bool = True) -> Culprit | None:
    """First stage, in the order in which a clip meets them, that fails on the reference's inputs; if none does, the
    first that fails on the plan's.

    Args:
        stages: figures of every stage.
        minimum: budget of every stage in dB; values that are not finite are never within.
        exact_tables: changed integer tables are not within either.
    """
    for stage in stages:
        if not stage.isolated.within(minimum, exact_tables=exact_tables):
            return Culprit(stage=stage.name, inputs="reference", error=stage.isolated)
    for stage in stages:
        if not stage.accumulated.within(minimum, exact_tables=exact_tables):
            return Culprit(stage=stage.name, inputs="plan", error=stage.accumulated)
    return None


def first_bad_node(
    graph: onnx.ModelProto,
    trusted: Iterable[onnx.ModelProto],
    inputs: Mapping[str, Array],
    *,
    minimum: float,
    exact_tables: bool = True,
    threads: int = 0,
) -> NodeFault | None:
    """First node of a stage whose output leaves the budget.

    Args:
        graph: stage of the plan.
        trusted: float32 graphs of the same stage; the one that shares most tensors with the plan's, by name, is used.
        inputs: what the reference gave the stage, where the error showed.
        minimum: budget in dB.
        exact_tables: see `first_bad_stage`.
        threads: of ONNX Runtime.

    Returns:
        The node; None if every tensor that both graphs have stays within the budget.
    """
    judged = _inlined(graph)
    truth, names = max(
        ((model, _common(judged, model)) for model in map(_inlined, trusted)), key=lambda pair: len(pair[1])
    )
    compared = 0
    for chunk in _chunks(names):
        got = GraphSession(_with_outputs(judged, chunk), threads=threads, optimize=False).call(inputs)
        expected = GraphSession(_with_outputs(truth, chunk), threads=threads, optimize=False).call(inputs)
        for position, name in chunk:
            compared += 1
            error = _error(expected[name], got[name])
            if not error.within(minimum, exact_tables=exact_tables):
                node = judged.graph.node[position]
                return NodeFault(
                    name=node.name,
                    operator=node.op_type,
                    output=name,
                    error=error,
                    position=position,
                    compared=compared,
                    tensors=len(names),
                )
    return None


def trusted_graphs(model: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """Both forms in which a float32 stage with custom operators as functions becomes part of a plan.

    Precision passes work on the plugin-free form, so its tensor names are those of an fp16 or int8 stage.
    """
    from bsst.plugins.registry import lower

    yield model
    yield lower(model)


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def _common(judged: onnx.ModelProto, truth: onnx.ModelProto) -> list[tuple[int, str]]:
    """(node index, tensor) for every tensor that nodes of both graphs compute, in the judged graph's order."""
    known = {name for node in truth.graph.node for name in node.output if name}
    return [(i, name) for i, node in enumerate(judged.graph.node) for name in node.output if name in known]


def _chunks(names: list[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    for start in range(0, len(names), VISIBLE):
        yield names[start : start + VISIBLE]


def _with_outputs(model: onnx.ModelProto, names: list[tuple[int, str]]) -> bytes:
    """The nodes up to the last of some tensors, with these as the only outputs; ONNX Runtime infers their types."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.output[:]
    result.graph.output.extend(onnx.ValueInfoProto(name=name) for _, name in names)
    wanted = {name for _, name in names}
    last = max(index for index, node in enumerate(result.graph.node) if wanted.intersection(node.output))
    del result.graph.node[last + 1 :]
    return result.SerializeToString()


def _error(expected: Array, got: Array) -> StageError:
    if expected.shape != got.shape:
        return StageError(float("-inf"))
    return tensor_error(expected, got)
