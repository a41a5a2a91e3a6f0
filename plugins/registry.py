"""The only list of operators, and what graph code does with them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

import onnx
import onnx.inliner
import onnxscript
import onnxscript.optimizer

from bsst.plugins import flow_warp, modulated_deform_conv, sparse_window_attention
from bsst.plugins.flow_warp import onnx_function as flow_warp_function
from bsst.plugins.modulated_deform_conv import onnx_function as modulated_deform_conv_function
from bsst.plugins.operator_schema import DOMAIN, VERSION, OperatorSchema
from bsst.plugins.sparse_window_attention import onnx_function as sparse_window_attention_function

__all__ = ["OPERATORS", "Target", "attach_functions", "lower", "translation_table"]

Target = Literal["cpu", "tensorrt", "tensorrt-rtx"]

OPERATORS: tuple[OperatorSchema, ...] = (
    modulated_deform_conv.SCHEMA,
    sparse_window_attention.SCHEMA,
    flow_warp.SCHEMA,
)


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """`custom_translation_table` for `torch.onnx.export(dynamo=True)`: each operator becomes one node."""
    import torch

    for schema in OPERATORS:  # importing them registers them
        importlib.import_module(f"bsst.plugins.{schema.name}.torch_operator")
    return {getattr(torch.ops.bsst, schema.name).default: _translation(schema) for schema in OPERATORS}


def attach_functions(model: onnx.ModelProto, *, bodies: Literal["portable", "cpu"] = "portable") -> onnx.ModelProto:
    """Copy of the model that carries a function body for every operator it uses; the nodes stay.

    `cpu` bodies use DeformConv where it is faster; any target can still be lowered from the result.
    """
    return _with_functions(model, _CPU if bodies == "cpu" else _PORTABLE)


def lower(model: onnx.ModelProto, target: Target) -> onnx.ModelProto:
    """Copy of the model in the form that a target runs.

    Args:
        model: opset 19, operators of this domain as nodes of the main graph, with or without function bodies.
        target: `cpu` inlines DeformConv and attention, `tensorrt-rtx` inlines bodies without DeformConv, `tensorrt`
            keeps the nodes and marks them as ahead-of-time compiled plugins.

    Returns:
        The lowered copy; without nodes of this domain unless `target` is `tensorrt`.
    """
    if target == "tensorrt":
        return _as_plugins(model)
    lowered = onnx.inliner.inline_selected_functions(
        _with_functions(model, _CPU if target == "cpu" else _PORTABLE),
        [(DOMAIN, schema.op_type) for schema in OPERATORS],
    )
    for index, opset in reversed(list(enumerate(lowered.opset_import))):
        if opset.domain == DOMAIN:
            del lowered.opset_import[index]
    return onnxscript.optimizer.optimize(lowered)  # static shapes turn the index arithmetic into constants


def _with_functions(model: onnx.ModelProto, bodies: dict[str, Any]) -> onnx.ModelProto:
    result = _without_functions(model)
    for op_type in sorted({node.op_type for node in model.graph.node if node.domain == DOMAIN}):
        result.functions.append(_function(bodies[op_type], op_type))
    return result


def _function(body: Any, op_type: str) -> onnx.FunctionProto:
    """Function of a script, without the casts of literals that the script compiler adds in case of other dtypes."""
    function: onnx.FunctionProto = body.to_function_proto()
    function.name = op_type
    literals = {node.output[0] for node in function.node if node.op_type == "Constant"}
    casts = {n.output[0]: n.input[0] for n in function.node if n.op_type == "CastLike" and n.input[0] in literals}
    kept = [node for node in function.node if node.output[0] not in casts]
    for node in kept:
        node.input[:] = [casts.get(name, name) for name in node.input]
    del function.node[:]
    function.node.extend(kept)
    return function


def _without_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.functions[:]
    result.functions.extend(function for function in model.functions if function.domain != DOMAIN)
    return result


def _as_plugins(model: onnx.ModelProto) -> onnx.ModelProto:
    """Nodes with the attributes by which TensorRT's parser finds a plugin; it ignores the domain of such nodes."""
    result = _without_functions(model)
    for node in result.graph.node:
        if node.domain == DOMAIN:
            for name, value in {"plugin_namespace": DOMAIN, "plugin_version": str(VERSION), "aot": 1}.items():
                node.attribute.append(onnx.helper.make_attribute(name, value))
    return result


def _translation(schema: OperatorSchema) -> Callable[..., Any]:
    """Function from graph values to one node, with the signature that the exporter reads by reflection."""
    node = onnxscript.values.Op(onnxscript.values.Opset(DOMAIN, VERSION), schema.op_type, _op_schema(schema))

    def translate(*inputs: Any, **attributes: int | Sequence[int]) -> Any:
        return node(*inputs, **attributes)

    parameter = inspect.Parameter
    translate.__name__ = schema.name
    translate.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter(spec.name, parameter.POSITIONAL_OR_KEYWORD) for spec in schema.inputs]
        + [
            parameter(spec.name, parameter.KEYWORD_ONLY, annotation=int if spec.length is None else Sequence[int])
            for spec in schema.attributes
        ]
    )
    return translate


def _op_schema(schema: OperatorSchema) -> onnx.defs.OpSchema:
    """The same operator in the form of the ONNX package."""
    formal = onnx.defs.OpSchema.FormalParameter
    kind = onnx.defs.OpSchema.AttrType
    names = {"feature": "Feature", "float32": "tensor(float)", "int32": "tensor(int32)"}
    return onnx.defs.OpSchema(
        schema.op_type,
        DOMAIN,
        VERSION,
        inputs=[formal(spec.name, names[spec.dtype], description=spec.axes) for spec in schema.inputs],
        outputs=[formal(schema.output.name, names[schema.output.dtype], description=schema.output.axes)],
        type_constraints=[("Feature", ["tensor(float)", "tensor(float16)"], "features and weights")],
        attributes=[
            onnx.defs.OpSchema.Attribute(
                spec.name, kind.INT if spec.length is None else kind.INTS, spec.meaning, required=True
            )
            for spec in schema.attributes
        ],
    )


_PORTABLE: dict[str, Any] = {
    modulated_deform_conv.SCHEMA.op_type: modulated_deform_conv_function.portable,
    sparse_window_attention.SCHEMA.op_type: sparse_window_attention_function.portable,
    flow_warp.SCHEMA.op_type: flow_warp_function.portable,
}
_CPU: dict[str, Any] = {
    modulated_deform_conv.SCHEMA.op_type: modulated_deform_conv_function.cpu,
    sparse_window_attention.SCHEMA.op_type: sparse_window_attention_function.portable,
    flow_warp.SCHEMA.op_type: flow_warp_function.cpu,
}
