"""Stage -> ONNX: one static graph at opset 19 with named inputs and outputs."""

from __future__ import annotations

import logging
import math
import warnings

import numpy as np
import onnx
import onnx_ir
import onnx_ir.passes.common as common_passes
import torch
from onnx import helper, numpy_helper
from onnxscript.optimizer import fold_constants

from bsst.errors import ExportError
from bsst.export.split_gates import split_gates
from bsst.export.stage import Stage, example_inputs
from bsst.plugins.registry import translation_table

__all__ = ["OPSET", "spread_repeated_values", "trace_stage"]

OPSET = 19
"""DeformConv needs 19; from 20 on TensorRT reads bilinear GridSample as nearest (NVIDIA/TensorRT#4646)."""
LARGE_MAP = 2048
"""Values."""


def trace_stage(stage: Stage) -> onnx.ModelProto:
    """Trace a stage with custom operators as nodes of domain `bsst`.

    Raises:
        ExportError: the exporter failed, or produced another opset.
    """
    inputs = example_inputs(stage)
    registry_log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registry_log.level
    registry_log.setLevel(logging.ERROR)  # it reports that torchvision is absent on every call
    try:
        with warnings.catch_warnings(), torch.no_grad(), split_gates(stage.module):
            warnings.simplefilter("ignore")  # torch's exporter warns about its own internals
            program = torch.onnx.export(
                stage.module.eval(),
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=list(stage.outputs),
                dynamo=True,
                opset_version=OPSET,
                custom_translation_table=translation_table(),
                verbose=False,
                optimize=False,  # its rewrite rules take minutes on long graphs and find nothing ONNX Runtime does not
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(
            f"stage {stage.name}: expected a graph that torch can trace, got {error}; see --debug"
        ) from error
    finally:
        registry_log.setLevel(level)
    assert program is not None
    fold_constants(program.model, should_fold=_folds)
    for clean in (
        common_passes.RemoveUnusedNodesPass(),
        common_passes.RemoveUnusedOpsetsPass(),
        common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common_passes.DeduplicateInitializersPass(),
        common_passes.CommonSubexpressionEliminationPass(),
    ):
        clean(program.model)
    model = _without_provenance(program.model_proto)
    spread_repeated_values(model.graph)
    versions = {opset.domain: opset.version for opset in model.opset_import}
    if versions.get("") != OPSET:
        raise ExportError(f"stage {stage.name}: expected opset {OPSET}, got {versions}; use torch 2.13")
    return model


def spread_repeated_values(graph: onnx.GraphProto) -> None:
    """Put an Expand of one value in the place of each large constant that repeats it; see `_folds`."""
    for tensor in [t for t in graph.initializer if math.prod(t.dims) >= LARGE_MAP]:
        values = numpy_helper.to_array(tensor)
        if not (values == values.flat[0]).all():
            continue
        value, shape = f"{tensor.name}_value", f"{tensor.name}_shape"
        graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(values.reshape(-1)[:1], value))
        graph.initializer.append(numpy_helper.from_array(np.array(values.shape, np.int64), shape))
        graph.node.insert(0, helper.make_node("Expand", [value, shape], [tensor.name], name=f"node_{tensor.name}"))
        if all(known.name != tensor.name for known in graph.value_info):
            graph.value_info.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, values.shape))


def _folds(node: onnx_ir.Node) -> bool | None:
    """Leave what spreads few values over a whole map to whatever loads the graph, which folds it then.

    A plan would hold such a map once for each shape of its tiles.
    """
    shape = node.outputs[0].shape
    if node.domain != "" or shape is None or math.prod(shape.numpy()) < LARGE_MAP:
        return None
    if node.op_type == "Add":  # of a column and a row, as tables of indices are made
        known = [x.shape for x in node.inputs if x is not None and x.shape is not None]
        return False if all(math.prod(s.numpy()) < math.prod(shape.numpy()) for s in known) else None
    return False if node.op_type in ("Expand", "ConvTranspose") else None


def _without_provenance(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop source paths and stack traces, so that equal weights give equal bytes on every machine."""
    for value in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    for tensor in model.graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    model.graph.doc_string = ""
    return model
