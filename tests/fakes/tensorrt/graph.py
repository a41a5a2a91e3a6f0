"""How TensorRT's parser finds plugins, and how its builder asks one for its kernel.

Rules of ModelImporter.cpp from 10.15 on: an attribute `plugin_namespace` decides alone (the domain of the node is not
read); without it a built-in operator of the same name wins over everything, then a local function, then a plugin whose
namespace is the domain.
"""

import numpy as np
import onnx
import onnx.defs
import onnx.helper
import onnx.shape_inference

from .native import (
    DataType,
    DynamicPluginTensorDesc,
    ExprBuilder,
    IDimensionExpr,
    KernelLaunchParams,
    PluginField,
    PluginFieldCollection,
    PluginFieldType,
    PluginTensorDesc,
    QuickPluginCreationRequest,
    TensorFormat,
    TensorRTPhase,
    get_plugin_registry,
)

_TYPES = {
    onnx.TensorProto.FLOAT: DataType.FLOAT,
    onnx.TensorProto.FLOAT16: DataType.HALF,
    onnx.TensorProto.INT32: DataType.INT32,
    onnx.TensorProto.INT64: DataType.INT64,
    onnx.TensorProto.BOOL: DataType.BOOL,
}


def parse(model):
    """(kernels that the engine would carry, errors of the parser)."""
    try:
        graph = onnx.load_from_string(model)
        inferred = onnx.shape_inference.infer_shapes(graph).graph
    except Exception:
        return [], ["Failed to parse ONNX model from buffer"]
    values = {v.name: v.type.tensor_type for v in (*inferred.input, *inferred.value_info, *inferred.output)}
    shapes = {name: tuple(dim.dim_value for dim in t.shape.dim) for name, t in values.items()}
    types = {name: t.elem_type for name, t in values.items()}
    for tensor in inferred.initializer:
        shapes[tensor.name], types[tensor.name] = tuple(tensor.dims), tensor.data_type
    functions = {function.name for function in graph.functions}
    kernels = []
    for node in inferred.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        named = "plugin_namespace" in attributes
        if not named and (onnx.defs.has(node.op_type) or node.op_type in functions):
            continue
        namespace = attributes.get("plugin_namespace", node.domain.encode()).decode()
        version = attributes.get("plugin_version", b"1").decode()
        creator = get_plugin_registry().get_creator(node.op_type, version, namespace)
        if creator is None:
            return [], [
                f"No importer registered for op: {node.op_type}. Attempting to import as plugin. Plugin not found"
            ]
        inputs = [(shapes[name], _TYPES[types[name]]) for name in node.input]
        request = {1: "STRICT_AOT", 0: "STRICT_JIT"}.get(attributes.get("aot"), "UNKNOWN")
        fields = {name: value for name, value in attributes.items() if name in {f.name for f in creator.field_names}}
        kernel = play(f"{namespace}::{node.op_type}", inputs, fields, request=request)
        stated = _TYPES[types[node.output[0]]]
        if kernel["types"][-1] is not stated:
            return [], [f"{node.output[0]}: expected {stated}, the plugin gives {kernel['types'][-1]}"]
        kernels.append(kernel | {"types": [kind.value for kind in kernel["types"]]})
    return kernels, []


def play(plugin_id, inputs, fields, *, request="STRICT_AOT"):
    """What the builder asks of one plugin: output types, shapes, combinations, launch, kernel."""
    namespace, name = plugin_id.split("::")
    creator = get_plugin_registry().get_creator(name, "1", namespace)
    known = {field.name: field for field in creator.field_names}
    if unknown := set(fields) - set(known):
        raise AssertionError(f"Unexpected attribute {unknown}")
    # The parser hands integers over as 32 bits.
    collection = PluginFieldCollection(
        PluginField(name, np.asarray(value, np.int32), PluginFieldType.INT32) for name, value in fields.items()
    )
    plugin = creator.create_plugin(
        name, namespace, collection, TensorRTPhase.BUILD, QuickPluginCreationRequest[request]
    )
    output_types = plugin.get_output_data_types([kind for _, kind in inputs], [len(shape) for shape, _ in inputs])
    builder = ExprBuilder()
    dims = [[IDimensionExpr(size, constant=False) for size in shape] for shape, _ in inputs]
    output_dims = [[size.value for size in out] for out in plugin.get_output_shapes(dims, [], builder)]
    tensors = [*inputs, *zip(output_dims, output_types, strict=True)]
    described = [DynamicPluginTensorDesc(PluginTensorDesc(shape, kind, TensorFormat.LINEAR)) for shape, kind in tensors]
    types = tuple(kind for _, kind in tensors)
    offered = plugin.get_supported_format_combinations(described, len(inputs))
    rows = [offered[start : start + len(tensors)] for start in range(0, len(offered), len(tensors))]
    linear = {tuple(desc.type for desc in row) for row in rows if all(d.format is TensorFormat.LINEAR for d in row)}
    if types not in linear:
        raise RuntimeError(f"no implementation for {types}")
    plugin.configure_plugin(described[: len(inputs)], described[len(inputs) :])
    for tactic in plugin.get_valid_tactics() or [0]:
        plugin.set_tactic(tactic)
    launch, setter = KernelLaunchParams(), _SymExprs()
    plugin.get_launch_params(dims, described, len(inputs), launch, setter, ExprBuilder())
    entry, ptx = plugin.get_kernel(
        [d.desc for d in described[: len(inputs)]], [d.desc for d in described[len(inputs) :]]
    )
    size = lambda name: getattr(launch, name).expr.value  # noqa: E731
    if max(size("grid_y"), size("grid_z")) > 65535:
        raise RuntimeError("cuLaunchKernel: at most 65535 blocks along y and z")
    return {
        "entry": entry if isinstance(entry, str) else entry.decode(),
        "ptx": ptx.decode(),
        "grid": tuple(map(size, ("grid_x", "grid_y", "grid_z"))),
        "block": tuple(map(size, ("block_x", "block_y", "block_z"))),
        "shared_bytes": size("shared_mem"),
        "sizes": tuple(item.expr.value for item in setter.items),
        "output_shape": tuple(output_dims[0]),
        "types": types,
    }


class _SymExprs:
    nbSymExprs = 0  # noqa: N815

    def __init__(self):
        self.items = []

    def __setitem__(self, index, value):
        if index != len(self.items) or index >= self.nbSymExprs:
            raise IndexError(index)
        self.items.append(value)
