"""A plan of target `ort-webgpu`: what it holds, and a clip of it on a real WebGPU implementation."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from bsst.calibration.precision.pad_channels import pad_channels
from bsst.engines.rebuild import rebuild_plan
from bsst.plan.archive import open_plan
from bsst.runtime.metrics import float_psnr
from bsst.runtime.network.network import load_network
from bsst.runtime.one_clip import moving_texture, restore_clip

CHILD = """
import sys
from pathlib import Path
import numpy as np
from bsst.runtime.network.network import load_network
from bsst.runtime.one_clip import restore_clip
with load_network(Path(sys.argv[1])) as network:
    print(network.line)
    np.save(sys.argv[3], restore_clip(network, np.load(sys.argv[2])))
"""


@pytest.fixture(scope="module")
def webgpu_plan(prepared: None, cpu_plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("webgpu") / "webgpu.plan"
    rebuild_plan(cpu_plan, path, target="ort-webgpu")
    return path


@pytest.fixture(scope="module")
def clip(cpu_plan: Path) -> np.ndarray:
    manifest = open_plan(cpu_plan).manifest
    return moving_texture(manifest.frames, *map(max, zip(manifest.tile, manifest.flow_size, strict=True)))


@pytest.mark.slow
def test_the_plan_avoids_what_webgpu_gets_wrong_and_runs_on_the_cpu_where_there_is_none(
    cpu_plan: Path, webgpu_plan: Path, clip: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    plan = open_plan(webgpu_plan)
    graphs = {stage.name: onnx.load_from_string(plan.member(stage.name)) for stage in plan.manifest.stages}
    used = {node.op_type for graph in graphs.values() for node in graph.graph.node}
    assert "GridSample" in used
    assert "DeformConv" not in used
    assert {"Pad"} <= {node.op_type for node in graphs["propagate_forward_1"].graph.node}
    assert all(pad_channels(graph) == graph for graph in graphs.values()), "nothing is left to pad"
    with load_network(cpu_plan) as network:
        expected = restore_clip(network, clip)
    with load_network(webgpu_plan) as network:
        got = restore_clip(network, clip)
    assert (
        "runs on ONNX Runtime, CPUExecutionProvider (WebGpuExecutionProvider: not in this onnxruntime)" in caplog.text
    )
    assert float_psnr(expected, got, 1.0) > 100


@pytest.mark.slow
@pytest.mark.needs_webgpu
@pytest.mark.timeout(3600)
def test_a_clip_on_webgpu_equals_the_cpu(cpu_plan: Path, webgpu_plan: Path, clip: np.ndarray, tmp_path: Path) -> None:
    source, result = tmp_path / "clip.npy", tmp_path / "result.npy"
    np.save(source, clip)
    child = subprocess.run(
        [os.environ["BSST_WEBGPU_PYTHON"], "-c", CHILD, webgpu_plan, source, result],
        env=os.environ | {"VK_ICD_FILENAMES": os.environ.get("SWIFTSHADER", "")},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.strip() == "plan of target ort-webgpu runs on ONNX Runtime, WebGpuExecutionProvider"
    with load_network(cpu_plan) as network:
        expected = restore_clip(network, clip)
    assert float_psnr(expected, np.load(result), 1.0) > 100
