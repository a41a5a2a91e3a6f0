"""What float16 costs on a real clip: float16 graphs with every result rounded as a GPU rounds it, run on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from bsst.calibration.precision.emulate import emulate_half
from bsst.engines.prepare import prepare_stage
from bsst.engines.rebuild import MINIMUM_FP16_PSNR
from bsst.plan.archive import Plan, open_plan
from bsst.runtime.network.network import DEFAULT_PLAN, host_network
from bsst.runtime.one_clip import psnr, restore_clip
from bsst.runtime.sessions.ort import OrtSession
from tests.networks import city
from tests.release_plan import release_plan

pytestmark = pytest.mark.timeout(1500)


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
    clip = city(plan.manifest.frames, *plan.manifest.tile)
    exact = restored(plan, clip, half=False)
    decibels = psnr(exact, restored(plan, clip, half=True), 1.0)
    assert psnr(exact, clip, 1.0) < decibels - 20  # the network does more to the clip than float16 does
    return decibels


@pytest.mark.slow
def test_float16_keeps_fifty_decibels_on_a_real_clip_for_edge(record_property: Callable[[str, object], None]) -> None:
    decibels = figure(DEFAULT_PLAN)
    record_property("fp16_psnr_db", decibels)
    print(f"edge, 12 frames, 256x256: float16 within {decibels:.1f} dB of float32")
    assert MINIMUM_FP16_PSNR <= decibels < 150


@pytest.mark.nightly
def test_float16_keeps_fifty_decibels_on_a_real_clip_for_release(
    record_property: Callable[[str, object], None],
) -> None:
    decibels = figure(release_plan())
    record_property("fp16_psnr_db", decibels)
    print(f"release, seeded weights, 4 frames, 256x256: float16 within {decibels:.1f} dB of float32")
    assert MINIMUM_FP16_PSNR <= decibels < 150
