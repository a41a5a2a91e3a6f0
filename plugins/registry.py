"""The only list of operators, and what graph code does with them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import onnx
import onnxscript
import torch

from bsst.plugins import flow_warp, modulated_deform_conv, sparse_window_attention
from bsst.plugins.operator_schema import DOMAIN, VERSION, OperatorSchema

__all__ = ["OPERATORS", "translation_table"]

OPERATORS: tuple[OperatorSchema, ...] = (
    modulated_deform_conv.SCHEMA,
    sparse_window_attention.SCHEMA,
    flow_warp.SCHEMA,
)


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """`custom_translation_table` for `torch.onnx.export(dynamo=True)`: each operator becomes one node."""
    return {getattr(torch.ops.bsst, schema.name).default: _translation(schema) for schema in OPERATORS}


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
