"""The only list of operators, and what graph code does with them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import onnx
import onnx.inliner
import onnx.shape_inference
import onnxscript

from bsst.errors import ExportError
from bsst.plugins import flow_warp, modulated_deform_conv, sparse_window_attention
from bsst.plugins.flow_warp import onnx_function as flow_warp_function
from bsst.plugins.modulated_deform_conv import onnx_function as modulated_deform_conv_function
from bsst.plugins.modulated_deform_conv import plugin_node as modulated_deform_conv_plugin
from bsst.plugins.operator_schema import DOMAIN, VERSION, OperatorSchema
from bsst.plugins.simplify import simplify
from bsst.plugins.sparse_window_attention import onnx_function as sparse_window_attention_function
from bsst.plugins.sparse_window_attention import plugin_node as sparse_window_attention_plugin
from bsst.plugins.winograd import OP_TYPE as CONVOLUTION_3X3
from bsst.plugins.winograd import onnx_function as convolution_3x3_function

if TYPE_CHECKING:
    from bsst.plugins.tensorrt_registration import PluginDefinition

__all__ = [
    "OPERATORS",
    "Bodies",
    "attach_functions",
    "lower",
    "plugin_inputs",
    "plugin_ptx",
    "register_plugins",
    "translation_table",
]

Bodies = Literal["portable", "cpu"]
"""Which function bodies operators get: of standard operators that every target runs, or, where that is faster in ONNX
Runtime, with DeformConv."""


@dataclass(frozen=True, kw_only=True)
class _Operator:
    """One operator and what it becomes."""

    schema: OperatorSchema
    portable: Any
    """ONNX function of standard operators that every target runs."""
    cpu: Any = None
    """One that is faster in ONNX Runtime on a CPU; None where `portable` is."""
    plugin_nodes: Any = None
    """Makes the nodes around its TensorRT plugin, `PLUGIN` of its `trt_plugin.py`; None without a plugin."""


_TABLE = (
    _Operator(
        schema=modulated_deform_conv.SCHEMA,
        portable=modulated_deform_conv_function.portable,
        cpu=modulated_deform_conv_function.cpu,
        plugin_nodes=modulated_deform_conv_plugin.plugin_nodes,
    ),
    _Operator(
        schema=sparse_window_attention.SCHEMA,
        portable=sparse_window_attention_function.portable,
        plugin_nodes=sparse_window_attention_plugin.plugin_nodes,
    ),
    _Operator(schema=flow_warp.SCHEMA, portable=flow_warp_function.portable, cpu=flow_warp_function.cpu),
)
OPERATORS: tuple[OperatorSchema, ...] = tuple(operator.schema for operator in _TABLE)
_PORTABLE: dict[str, Any] = {operator.schema.op_type: operator.portable for operator in _TABLE}
_CPU = _PORTABLE | {operator.schema.op_type: operator.cpu for operator in _TABLE if operator.cpu is not None}
_PLUGIN_NODES: dict[str, Any] = {
    operator.schema.op_type: operator.plugin_nodes for operator in _TABLE if operator.plugin_nodes is not None
}
# Not of the network, but a node of the same domain that a graph pass makes.
_PORTABLE[CONVOLUTION_3X3], _CPU[CONVOLUTION_3X3] = convolution_3x3_function.portable, convolution_3x3_function.cpu


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """`custom_translation_table` for `torch.onnx.export(dynamo=True)`: each operator becomes one node."""
    import torch

    for schema in OPERATORS:  # importing them registers them
        importlib.import_module(f"bsst.plugins.{schema.name}.torch_operator")
    return {getattr(torch.ops.bsst, schema.name).default: _translation(schema) for schema in OPERATORS}


def attach_functions(model: onnx.ModelProto, *, bodies: Bodies = "portable") -> onnx.ModelProto:
    """Copy of the model that carries a function body for every operator it uses; the nodes stay.

    Any target can still be lowered from the result.
    """
    return _with_functions(model, _CPU if bodies == "cpu" else _PORTABLE)


def lower(model: onnx.ModelProto, *, bodies: Bodies = "portable", plugins: bool = False) -> onnx.ModelProto:
    """Copy of the model in the form that a target runs.

    Args:
        model: opset 19, operators of this domain as nodes of the main graph, with or without function bodies.
        bodies: what operators are inlined as.
        plugins: turn operators that have an ahead-of-time compiled TensorRT plugin into its nodes instead.

    Returns:
        The lowered copy; without nodes of this domain unless `plugins`.

    Raises:
        ExportError: the graph does not state a shape that a plugin is compiled for.
    """
    kept = _PLUGIN_NODES if plugins else {}
    inlined = onnx.inliner.inline_selected_functions(
        _with_functions(model, _CPU if bodies == "cpu" else _PORTABLE, kept),
        [(DOMAIN, op_type) for op_type in _PORTABLE if op_type not in kept],
    )
    if all(node.domain != DOMAIN for node in inlined.graph.node):
        for index, opset in reversed(list(enumerate(inlined.opset_import))):
            if opset.domain == DOMAIN:
                del inlined.opset_import[index]
    lowered = simplify(inlined)  # static shapes turn the index arithmetic into constants
    return _as_plugins(lowered) if kept else lowered


def register_plugins(*, capability: int) -> None:
    """Make the plugins known to TensorRT in this process, once, before a graph lowered for `tensorrt` is parsed.

    Args:
        capability: compute capability times ten of the GPU that the engine is for.

    Raises:
        MissingDependencyError: TensorRT or Triton is not installed.
        ModelError: a version of TensorRT without working plugins.
    """
    from bsst.plugins.tensorrt_registration import register_plugin

    for plugin in _plugins():
        register_plugin(plugin, capability=capability)


def plugin_ptx(model: onnx.ModelProto, *, capability: int) -> dict[str, bytes]:
    """Kernels that an engine of a graph lowered for `tensorrt` will carry: part of its content key.

    Args:
        model: result of `lower(..., plugins=True)`.
        capability: compute capability times ten.

    Returns:
        PTX by plugin, geometry and dtype.
    """
    plugins = {plugin.name: plugin for plugin in _plugins()}
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = _types(inferred)
    kernels = {}
    for node in inferred.node:
        if node.op_type in plugins:
            numbers = next(tuple(a.ints) for a in node.attribute if a.name == "geometry")
            half = types[node.input[0]] == onnx.TensorProto.FLOAT16
            name = f"{DOMAIN}::{node.op_type}{numbers}{'fp16' if half else 'fp32'}"
            kernels[name] = plugins[node.op_type].compile_for(numbers, half, capability).ptx.encode()
    return kernels


def plugin_inputs() -> dict[str, tuple[str, ...]]:
    """Node type of every plugin -> what each of its inputs holds (`feature`, `float32` or `int32`)."""
    return {plugin.name: tuple(spec.dtype for spec in plugin.inputs) for plugin in _plugins()}


def _plugins() -> tuple[PluginDefinition, ...]:
    names = [operator.schema.name for operator in _TABLE if operator.plugin_nodes is not None]
    return tuple(importlib.import_module(f"bsst.plugins.{name}.trt_plugin").PLUGIN for name in names)


def _with_functions(model: onnx.ModelProto, bodies: dict[str, Any], kept: Container[str] = ()) -> onnx.ModelProto:
    result = _without_functions(model)
    for op_type in sorted({n.op_type for n in model.graph.node if n.domain == DOMAIN and n.op_type not in kept}):
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
    result = onnx.ModelProto()
    result.CopyFrom(model)
    shapes, types = _shapes(model), _types(model.graph)
    del result.graph.node[:]
    for node in model.graph.node:
        if node.domain != DOMAIN:
            result.graph.node.append(node)
            continue
        missing = [name for name in node.input if name not in shapes]
        if missing:
            raise ExportError(
                f"expected static shapes of the inputs of {node.name}, got none for {missing}; infer shapes"
            )
        nodes, numbers = _PLUGIN_NODES[node.op_type](node, shapes)
        for added in nodes:
            if added.domain == DOMAIN:
                attributes = {
                    "geometry": numbers,
                    "plugin_namespace": DOMAIN,
                    "plugin_version": str(VERSION),
                    "aot": 1,
                }
                added.attribute.extend(onnx.helper.make_attribute(*item) for item in attributes.items())
                if added.output[0] not in shapes:  # shape inference ends at operators that it does not know
                    result.graph.value_info.append(
                        onnx.helper.make_tensor_value_info(added.output[0], types[node.input[0]], None)
                    )
        result.graph.node.extend(nodes)
    return result


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Static shapes by name."""
    graph = model.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _types(graph: onnx.GraphProto) -> dict[str, int]:
    """Element types by name."""
    values = (*graph.input, *graph.value_info, *graph.output)
    stored = {tensor.name: int(tensor.data_type) for tensor in graph.initializer}
    return stored | {value.name: int(value.type.tensor_type.elem_type) for value in values}


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
