"""TensorRT-RTX itself builds the portable body of every operator: the target that takes no plugins."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bsst.engines.builder import BuildOptions, StageGraph
from bsst.engines.tensorrt_rtx import TensorRTRTXBuilder
from bsst.plugins import registry
from tests.plugins.cases import ATTENTION_CASES, CASES, CONVOLUTION_CASES, WARP_CASES, Case
from tests.plugins.node_model import node_model

pytestmark = pytest.mark.needs_rtx


def test_every_operator_is_built() -> None:
    assert {case.schema.name for case in CASES} == {schema.name for schema in registry.OPERATORS}


def build(case: Case, dtype: torch.dtype, capability: str, folder: Path) -> dict[str, float]:
    model = registry.lower(node_model(case, dtype))
    options = BuildOptions(compute_capabilities=(capability,), work_directory=folder)
    built = TensorRTRTXBuilder().build(StageGraph(name=case.schema.name, model=model.SerializeToString()), options)
    assert built.data.startswith(b"vtrt")
    return dict(built.facts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("case", [CONVOLUTION_CASES[0], ATTENTION_CASES[0], WARP_CASES[0]], ids=lambda c: c.schema.name)
def test_the_compiler_takes_the_body(case: Case, dtype: torch.dtype, tmp_path: Path) -> None:
    facts = build(case, dtype, "8.6", tmp_path)
    # Index arithmetic is folded: what is left beside the operands are tables and grids, not a copy of the maps.
    assert facts["weight_bytes"] < 1e6


@pytest.mark.parametrize("case", [CONVOLUTION_CASES[0], ATTENTION_CASES[0], WARP_CASES[0]], ids=lambda c: c.schema.name)
def test_turing_takes_the_body_in_half_precision(case: Case, tmp_path: Path) -> None:
    build(case, torch.float16, "7.5", tmp_path)
