from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bsst.engines.inspect_plan import describe_plan, extract_plan, plan_table
from bsst.errors import OutputError, PlanError
from bsst.plan.archive import Plan, open_plan, write_plan
from bsst.runtime.network.device_memory import device_memory
from bsst.runtime.network.wiring import clip_tensors
from tests.bsst.plan.manifests import MEMBERS, manifest


@pytest.fixture(scope="module")
def plan(cpu_plan: Path) -> Plan:
    return open_plan(cpu_plan)


def test_the_table_names_every_stage_and_what_people_ask_for(plan: Plan) -> None:
    text = plan_table(plan)
    assert all(stage.name in text for stage in plan.manifest.stages)
    for words in (
        "random weights, traced by torch",
        "7" * 64,
        plan.manifest.content_key,
        "4 frames",
        "64x128 pixels (height x width)",
        "any device",
    ):
        assert words in text
    assert "float32 100%" in text
    assert max(map(len, text.splitlines())) < 400


@pytest.mark.parametrize(
    ("facts", "cell"), [({"half_layers": 0.968}, "float32 100%, engine 97% half  "), ({}, "float32 100%  ")]
)
def test_the_table_shows_what_the_inspector_counted_where_it_did(
    plan: Plan, facts: dict[str, float], cell: str
) -> None:
    stages = tuple(
        dataclasses.replace(stage, precision={"float32": 1.0}, build=facts) for stage in plan.manifest.stages
    )
    text = plan_table(dataclasses.replace(plan, manifest=dataclasses.replace(plan.manifest, stages=stages)))
    assert text.count(cell) >= len(stages)
    assert ("half  " in text) == bool(facts)


def test_the_description_is_plain_json(plan: Plan) -> None:
    data = json.loads(json.dumps(describe_plan(plan)))
    assert data["manifest"]["frames"] == 4
    assert data["bytes"] == plan.path.stat().st_size
    assert data["memory"]["total_bytes"] is None


def test_memory_counts_what_is_needed_at_once_and_reuse_saves_some(plan: Plan) -> None:
    memory = device_memory(plan.manifest)
    tensors = clip_tensors(plan.manifest)
    assert set(tensors) >= {"frames", "full", "half", "quarter", "decoded", "sharp", "zero_state"}
    frames = 4 * 3 * 64 * 128 * 4
    features = 2 * 4 * 4 * plan.manifest.config["half_channels"] * 32 * 64
    # Pixels and first features live until the end; the skip of the decoder makes room for its result.
    assert 2 * frames + features <= memory.live_bytes <= memory.clip_bytes
    assert memory.clip_bytes < sum(4 * math.prod(tensor.shape) for tensor in tensors.values())


def test_a_plan_is_unpacked_into_files_that_other_tools_read(plan: Plan, tmp_path: Path) -> None:
    files = extract_plan(plan, tmp_path / "out")
    assert {file.name for file in files} == {s.member for s in plan.manifest.stages} | {"manifest.json"}
    for stage in plan.manifest.stages:
        assert (tmp_path / "out" / stage.member).read_bytes() == plan.member(stage.name)
    with pytest.raises(OutputError, match="expected an empty directory"):
        extract_plan(plan, tmp_path / "out")


POLYGRAPHY = """
import sys
from polygraphy.tools._main import main
for model in sys.argv[1:]:
    sys.argv = ["polygraphy", "run", model, "--onnxrt"]
    assert not main()
"""


@pytest.mark.skipif(importlib.util.find_spec("polygraphy") is None, reason="needs polygraphy")
def test_polygraphy_runs_the_unpacked_graphs(plan: Plan, tmp_path: Path) -> None:
    extract_plan(plan, tmp_path / "out")
    models = [str(tmp_path / "out" / f"{stage}.onnx") for stage in ("propagate_forward_1", "attend")]
    command = [sys.executable, "-c", POLYGRAPHY, *models]
    environment = os.environ | {"POLYGRAPHY_AUTOINSTALL_DEPS": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == len(models)


def test_a_plan_of_another_network_is_refused_and_not_described(tmp_path: Path) -> None:

    write_plan(tmp_path / "odd.plan", manifest(), MEMBERS)
    with pytest.raises(PlanError, match="export it again"):
        plan_table(open_plan(tmp_path / "odd.plan"))


def test_a_tile_is_printed_as_the_exporter_reads_it(plan: Plan) -> None:
    from bsst.cli.export import Size

    (line,) = [line for line in plan_table(plan).splitlines() if line.startswith("tile ")]
    assert Size().convert(line.split()[1], None, None) == plan.manifest.tile == (64, 128)
