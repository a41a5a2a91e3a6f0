"""Lowered graph -> the same graph with its index arithmetic folded and its batch norms in convolutions.

`onnxscript.optimizer.optimize` tries 46 rewrite rules on every node: a minute for the flow of `release`. These are its
passes in its order with the rules that apply to some stage, which gives the same bytes in a fifth of the time
(`tests/plugins/test_simplify.py`).
"""

from __future__ import annotations

import onnx
import onnx_ir
import onnx_ir.passes.common as common_passes
from onnxscript.optimizer import fold_constants
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules import common as rules

__all__ = ["simplify"]

_RULES = (
    rules.mul_by_1_rule,
    rules.add_0_rule,
    rules.sub_0_rule,
    rules.div_by_1_rule,
    rules.collapse_slice_rule,
    rules.collapse_slice2_rule,
    rules.max_min_rule,
    rules.cast_cast_rule,
    rules.no_op_cast_rule,
    rules.no_op_transpose_rule,
    rules.reshape_reshape_rule,
    rules.unsqueeze_unsqueeze_rule,
    rules.fuse_batchnorm_into_conv_rule,
    rules.remove_optional_bias_from_conv_rule,
)
_ROUNDS = 2
"""A rewrite can leave constants to fold."""


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy of a static graph with constants folded and without what nothing uses.

    Args:
        model: functions of custom operators are inlined.
    """
    graph = onnx_ir.from_proto(model)
    for _ in range(_ROUNDS):
        fold_constants(graph, onnx_shape_inference=True)
        RewritePass(_RULES)(graph)
        common_passes.RemoveUnusedNodesPass()(graph)
    for clean in (
        common_passes.RemoveUnusedOpsetsPass(),
        common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common_passes.DeduplicateInitializersPass(),
        common_passes.CommonSubexpressionEliminationPass(),
        common_passes.OutputFixPass(),
        common_passes.NameFixPass(),
    ):
        clean(graph)
    return onnx_ir.to_proto(graph)
