"""What many tests make of the same stages, or for every stage, before they get to their claim, made once a process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import onnx
import pytest

from bsst.engines import ort
from bsst.engines.builder import BuildOptions, BuiltEngine, StageGraph
from bsst.plugins import registry

__all__ = ["operators_listed_once", "prepared_once"]

_LOWERED: dict[str, bytes] = {}
_LOADED: dict[str, BuiltEngine] = {}


@contextmanager
def prepared_once() -> Iterator[None]:
    """Simplify equal graphs once, and let a child of ONNX Runtime load them once: both depend on the graph alone.

    For tests of what is done with such graphs; `tests/plugins` and `tests/engines/test_child.py` do without.
    """
    simplify, compile_stage = registry.simplify, ort.compile_stage

    def simplified(model: onnx.ModelProto) -> onnx.ModelProto:
        key = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
        if key not in _LOWERED:
            _LOWERED[key] = simplify(model).SerializeToString()
        return onnx.load_from_string(_LOWERED[key])

    def loaded(stage: StageGraph, options: BuildOptions, **request: Any) -> BuiltEngine:
        key = hashlib.sha256(stage.model).hexdigest()
        if key not in _LOADED:
            _LOADED[key] = compile_stage(stage, options, **request)
        return _LOADED[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "simplify", simplified)
        patch.setattr(ort, "compile_stage", loaded)
        yield


@contextmanager
def operators_listed_once() -> Iterator[None]:
    """Let PyTorch's exporter list what it can translate, and what it must decompose, for the first graph only.

    Both lists are the same for every graph of a process, and take most of the time of a small one.
    """
    from onnxscript._framework_apis import torch_2_11 as onnxscript_apis
    from torch.onnx._internal.exporter import _decomp

    decompositions = _decomp.create_onnx_friendly_decomposition_table
    kept = cache(decompositions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxscript_apis, "get_torchlib_ops", cache(onnxscript_apis.get_torchlib_ops))
        patch.setattr(_decomp, decompositions.__name__, lambda registered: dict(kept(frozenset(registered))))
        yield
