"""What float16 costs on a clip: float16 graphs on the CPU, as they are and with every result rounded as a GPU does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from bsst.calibration.precision.emulate import emulate_half
from bsst.engines.prepare import prepare_stage
from bsst.engines.rebuild import MINIMUM_FP16_PSNR
from bsst.export.stage_spec import stage_spec
from bsst.plan.archive import Plan, open_plan
from bsst.runtime.metrics import float_psnr
from bsst.runtime.network.network import DEFAULT_PLAN, host_network
from bsst.runtime.one_clip import moving_texture, restore_clip
from bsst.runtime.sessions.ort import OrtSession
from tests.networks import city
from tests.release_plan import release_plan

pytestmark = [pytest.mark.timeout(1500), pytest.mark.usefixtures("prepared")]


def restored(plan: Plan, clip: np.ndarray, *, half: bool) -> np.ndarray:
    """The clip through the float32 graphs of the plan, or through their float16 form."""
    graphs = {stage.name: plan.member(stage.name) for stage in plan.manifest.stages}
    if half:
        for name, graph in graphs.items():
            prepared = prepare_stage(onnx.load_from_string(graph), "tensorrt-rtx", "fp16")
            graphs[name] = emulate_half(prepared).SerializeToString()
    sessions = {name: OrtSession(name, graph, threads=0) for name, graph in graphs.items()}
    return restore_clip(host_network(plan.manifest, sessions), clip)


def figure(path: Path) -> float:
    plan = open_plan(path)
    size = [max(pair) for pair in zip(plan.manifest.tile, plan.manifest.flow_size, strict=True)]
    clip = city(plan.manifest.frames, *size)
    exact = restored(plan, clip, half=False)
    decibels = float_psnr(exact, restored(plan, clip, half=True), 1.0)
    height, width = plan.manifest.tile
    assert (
        float_psnr(exact, clip[..., :height, :width], 1.0) < decibels - 20
    )  # the network does more to the clip than float16 does
    return decibels


@pytest.mark.parametrize(
    "network",
    [
        "small",
        pytest.param("edge", marks=pytest.mark.nightly),
        pytest.param("release", marks=pytest.mark.nightly),
    ],
)
def test_float16_keeps_fifty_decibels_on_a_real_clip(
    network: str, cpu_plan: Path, record_property: Callable[[str, object], None]
) -> None:
    path = {"small": lambda: cpu_plan, "edge": lambda: DEFAULT_PLAN, "release": release_plan}[network]()
    decibels = figure(path)
    record_property("fp16_psnr_db", decibels)
    print(f"{network}, {open_plan(path).manifest.frames} frames: float16 within {decibels:.1f} dB of float32")
    assert MINIMUM_FP16_PSNR <= decibels < 150


def test_tensors_between_stages_are_float16_and_onnx_runtime_restores_a_clip_with_them(cpu_plan: Path) -> None:
    plan = open_plan(cpu_plan)
    graphs = {
        stage.name: prepare_stage(onnx.load_from_string(plan.member(stage.name)), "cpu", "fp16")
        for stage in plan.manifest.stages
    }
    specs = tuple(stage_spec(name, graph, "cpu", precision={}, facts={}) for name, graph in graphs.items())
    kinds = {spec.name: spec.dtype for stage in specs for spec in stage.inputs + stage.outputs}
    assert {name for name, kind in kinds.items() if kind == "float16"} == {
        *("full", "half", "quarter", "state", "state1", "state2", "feature_0", "feature_1", "feature_2"),
        *("reconstruction", "attended", "decoded"),
    }
    assert kinds["motion"] == kinds["backward"] == kinds["sharp"] == kinds["frame"] == "float32"
    manifest = dataclasses.replace(plan.manifest, precision="fp16", stages=specs)
    sessions = {name: OrtSession(name, graph.SerializeToString(), threads=1) for name, graph in graphs.items()}
    clip = moving_texture(manifest.frames, *manifest.flow_size)
    exact = restored(plan, clip, half=False)
    assert 50 <= float_psnr(exact, restore_clip(host_network(manifest, sessions), clip), 1.0) < 150
