"""TensorRT-RTX itself builds the stages that were hard; the packaged plan whole, and those of `release`, at night."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from bsst.calibration.precision.to_half import precision_shares
from bsst.engines.builder import BuildOptions, StageGraph
from bsst.engines.prepare import prepare_stage
from bsst.engines.rebuild import rebuild_plan
from bsst.engines.tensorrt_rtx import TensorRTRTXBuilder
from bsst.export.stages.decode import decode_stage
from bsst.export.trace import trace_stage
from bsst.plan.archive import open_plan
from bsst.runtime.network.device_memory import device_memory
from bsst.runtime.network.network import DEFAULT_PLAN
from tests.networks import SMALL, small_released
from tests.release_plan import release_plan

pytestmark = [pytest.mark.needs_rtx, pytest.mark.timeout(1500)]


@pytest.mark.nightly
@pytest.mark.parametrize("capability", ["7.5", "8.9"])
def test_the_packaged_plan_builds_whole_and_stays_small(capability: str, tmp_path: Path) -> None:
    manifest = rebuild_plan(
        DEFAULT_PLAN,
        tmp_path / "edge.plan",
        target="tensorrt-rtx",
        precision="fp16",
        options=BuildOptions(compute_capabilities=(capability,)),
        check=False,
    )
    source = open_plan(DEFAULT_PLAN).manifest
    assert [stage.name for stage in manifest.stages] == [stage.name for stage in source.stages]
    assert all(stage.precision == {"float16": 1.0} for stage in manifest.stages)
    assert manifest.compute_capabilities == (capability,)
    # Measured: 39 MB for SM 7.5, 31 MB for SM 8.9; 0.18 and 0.19 GB.
    assert sum(stage.size for stage in manifest.stages) < 60e6
    total = device_memory(manifest).total_bytes
    assert total is not None
    assert total < 0.3e9


def test_the_stage_of_many_groups_stays_small_on_turing() -> None:
    model = trace_stage(decode_stage(small_released(), SMALL))
    graph = prepare_stage(model, "tensorrt-rtx", "fp16", compute_capabilities=("7.5",))
    assert precision_shares(graph) == {"float16": 1.0}
    stage = StageGraph(name="decode", model=graph.SerializeToString())
    built = TensorRTRTXBuilder().build(stage, BuildOptions(compute_capabilities=("7.5",)))
    # 4.6 MB; 11.6 MB before groups were widened, and 390 MB at 256x256 and T = 12.
    assert len(built.data) < 7e6


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("stage", "capability"),
    [("flow", "8.9"), ("refine", "8.9"), ("decode", "8.9"), ("attend", "8.9"), ("decode", "7.5")],
)
def test_the_hardest_stages_of_release_build(stage: str, capability: str, tmp_path: Path) -> None:
    model = onnx.load_from_string(open_plan(release_plan()).member(stage))
    graph = prepare_stage(model, "tensorrt-rtx", "fp16", compute_capabilities=(capability,))
    built = TensorRTRTXBuilder().build(
        StageGraph(name=stage, model=graph.SerializeToString()),
        BuildOptions(compute_capabilities=(capability,), work_directory=tmp_path, memory_limit_bytes=2 << 30),
    )
    assert built.data.startswith(b"vtrt")
    assert built.facts["weight_bytes"] < 60e6


def test_attention_builds_in_bfloat16_with_its_transposed_convolution_in_float32(cpu_plan: Path) -> None:
    model = onnx.load_from_string(open_plan(cpu_plan).member("attend"))
    graph = prepare_stage(model, "tensorrt-rtx", "bf16", compute_capabilities=("8.9",))
    shares = precision_shares(graph)
    assert shares["bfloat16"] > 0.8 > 0.2 > shares["float32"] > 0
    stage = StageGraph(name="attend", model=graph.SerializeToString())
    built = TensorRTRTXBuilder().build(stage, BuildOptions(compute_capabilities=("8.9",)))
    assert built.data.startswith(b"vtrt")
