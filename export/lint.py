"""Rules that every exported graph obeys, because breaking them fails late or silently in some runtime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

from bsst.errors import ExportError
from bsst.export.trace import OPSET
from bsst.plugins.operator_schema import DOMAIN

__all__ = ["lint"]

CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}
DATA_DEPENDENT = {"NonZero", "Compress", "Unique", "NonMaxSuppression", "StringSplit"}
GRID_SAMPLE_MODES = {"bilinear", "nearest", "bicubic"}


def lint(model: onnx.ModelProto, name: str) -> None:
    """Check a graph and its function bodies.

    Raises:
        ExportError: naming the first rule and node that disagree.
    """
    versions = {opset.domain: opset.version for opset in model.opset_import}
    if versions.get("") != OPSET:
        _fail(name, f"opset {OPSET}", f"{versions.get('')}", "trace with torch 2.13")
    if unknown := set(versions) - {"", DOMAIN}:
        _fail(name, f"domains ai.onnx and {DOMAIN}", f"{sorted(unknown)}", "lower the graph for its target first")
    onnx.checker.check_model(model, full_check=False)
    for node in _nodes(model):
        _lint_node(node, name)
    for value in (*model.graph.input, *model.graph.output):
        if not all(dimension.HasField("dim_value") for dimension in value.type.tensor_type.shape.dim):
            _fail(name, "static shapes", f"{value.name} with a symbolic axis", "export with fixed sizes")


def _lint_node(node: onnx.NodeProto, name: str) -> None:
    attributes = {
        attribute.name: onnx.helper.get_attribute_value(attribute)
        for attribute in node.attribute
        if not attribute.ref_attr_name
    }
    if node.domain == "" and node.op_type in CONTROL_FLOW:
        _fail(name, "no control flow", f"{node.op_type} {node.name}", "write the stage without branches")
    if node.domain == "" and node.op_type in DATA_DEPENDENT:
        _fail(name, "no data-dependent shape", f"{node.op_type} {node.name}", "use tables of fixed size")
    if node.op_type == "GridSample":
        mode = attributes.get("mode", b"bilinear").decode()
        if mode not in GRID_SAMPLE_MODES:
            _fail(name, f"GridSample mode in {sorted(GRID_SAMPLE_MODES)}", mode, "stay at opset 19")
    if node.op_type == "DeformConv" and node.domain == "":
        pads = attributes.get("pads", [0, 0, 0, 0])
        if list(pads[: len(pads) // 2]) != list(pads[len(pads) // 2 :]):
            _fail(name, "equal begin and end pads of DeformConv", f"{list(pads)}", "pad the input instead")


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    bodies: Iterable[Iterable[onnx.NodeProto]] = (model.graph.node, *(f.node for f in model.functions))
    for body in bodies:
        yield from body


def _fail(name: str, expected: str, got: str, remedy: str) -> None:
    raise ExportError(f"stage {name}: expected {expected}, got {got}; {remedy}")
