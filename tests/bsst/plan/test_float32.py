"""Plans that carry the float32 stages they were made from: checked like the others, and no other plan notices."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from bsst.errors import PlanError
from bsst.plan.archive import open_plan, write_plan
from bsst.plan.manifest import Manifest, StageSpec
from bsst.plan.manifest_json import manifest_to_json
from bsst.runtime.network.network import DEFAULT_PLAN
from tests.bsst.plan.archives import edit, entries, rewrite
from tests.bsst.plan.manifests import MEMBERS, manifest, stage

KEPT: dict[str, Path | bytes] = {"encode_float32.onnx": b"first in float32", "flow_float32.onnx": b"second in float32"}


def kept(name: str, **changes: Any) -> StageSpec:
    """A stage as `bsst export --keep-float32` lists it: no tensor in half precision."""
    outputs = tuple(dataclasses.replace(spec, dtype=spec.dtype.replace("16", "32")) for spec in stage(name).outputs)
    spec = stage(name, member=f"{name}_float32.onnx", outputs=outputs, precision={"float32": 1.0}, build={})
    return dataclasses.replace(spec, **changes)


def keeping(**changes: Any) -> Manifest:
    """For GPUs, so that the target of the engines is not the one of what is kept."""
    stages = tuple(stage(name, member=f"{name}.engine") for name in ("flow", "encode"))
    settings: dict[str, Any] = {
        "target": "tensorrt",
        "compute_capabilities": ("8.9",),
        "plugins": ("bsst::A",),
        "stages": stages,
        "float32": (kept("flow"), kept("encode")),
    }
    return manifest(**settings | changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    engines: dict[str, Path | bytes] = {name.replace(".onnx", ".engine"): data for name, data in MEMBERS.items()}
    write_plan(tmp_path / "edge.plan", keeping(), engines | KEPT)
    return tmp_path / "edge.plan"


def test_the_plan_inside_is_one_for_the_cpu_with_members_of_its_own(path: Path) -> None:
    plan = open_plan(path)
    inner = plan.fallback
    assert inner is not None
    assert [plan.member("encode"), inner.member("encode")] == [MEMBERS["encode.onnx"], KEPT["encode_float32.onnx"]]
    told = inner.manifest
    assert (told.target, told.precision, told.compute_capabilities, told.plugins) == ("cpu", "fp32", (), ())
    assert [s.name for s in told.stages] == ["flow", "encode"]
    assert (told.frames, told.tile, told.weights_sha256) == (plan.manifest.frames, (65, 127), "0123456789abcdef" * 4)
    assert inner.fallback is None


def test_a_plan_without_them_is_written_as_before_they_existed() -> None:
    plan = open_plan(DEFAULT_PLAN)
    assert plan.fallback is None
    written = dict(entries(DEFAULT_PLAN))["manifest.json"]
    assert "float32" not in json.loads(written)
    assert manifest_to_json(plan.manifest) == written


@pytest.mark.parametrize("name", [*KEPT])
def test_a_corrupt_missing_or_extra_member_is_refused(path: Path, name: str) -> None:
    parts = dict(entries(path))
    rewrite(path, list((parts | {name: parts[name][:-1] + b"!"}).items()))
    with pytest.raises(PlanError, match=f"expected {name} with SHA-256"):
        open_plan(path)
    rewrite(path, list((parts | {name: parts[name] + b"!"}).items()))
    with pytest.raises(PlanError, match=f"expected {name} of"):
        open_plan(path)
    rewrite(path, [entry for entry in parts.items() if entry[0] != name])
    with pytest.raises(PlanError, match=rf"missing \['{name}'\]"):
        open_plan(path)
    rewrite(path, [*parts.items(), ("fuse_float32.onnx", b"x")])
    with pytest.raises(PlanError, match=r"unknown \['fuse_float32.onnx'\]"):
        open_plan(path)


def test_members_behind_a_manifest_that_lost_its_list_are_refused(path: Path) -> None:
    edit(path, lambda data: data.pop("float32"), key=True)
    with pytest.raises(PlanError, match=r"unknown \['encode_float32.onnx', 'flow_float32.onnx'\]"):
        open_plan(path)


@pytest.mark.parametrize("value", [None, True, "text", {}, ["x"], [{}]])
def test_a_list_of_any_other_type_is_refused(path: Path, value: Any) -> None:
    edit(path, lambda data: data.update(float32=value), key=True)
    with pytest.raises(PlanError, match="float32"):
        open_plan(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"member": "../flow.onnx"}, "plain file name ending in .onnx"),
        ({"member": "flow.engine"}, "a member of its own"),
        ({"member": "flow_float32.engine"}, "plain file name ending in .onnx"),
        ({"sha256": "A" * 64}, "64 hexadecimal digits"),
        ({"size": 0}, "more than 0 bytes"),
        ({"name": "fuse"}, "the same stages, tensors and shapes"),
        ({"inputs": []}, "the same stages, tensors and shapes"),
        ({"outputs": [{"name": "features", "dtype": "float32", "shape": [1]}]}, "the same stages, tensors and shapes"),
        ({"precision": {"float32": 0.5}}, "shares that sum to 1"),
        ({"surprise": 1}, "unknown: surprise"),
    ],
)
def test_an_impossible_stage_is_refused_even_with_a_fitting_content_key(
    path: Path, change: dict[str, Any], message: str
) -> None:
    edit(path, lambda data: data["float32"][0].update(change), key=True)
    with pytest.raises(PlanError, match=f"float32.*{message}|stages.member.*{message}"):
        open_plan(path)


def test_a_stage_without_its_float32_is_refused(path: Path) -> None:
    edit(path, lambda data: data["float32"].pop(), key=True)
    with pytest.raises(PlanError, match="float32: expected none, or the same stages"):
        open_plan(path)


def test_an_edited_stage_is_refused_by_the_content_key(path: Path) -> None:
    edit(path, lambda data: data["float32"][0]["build"].update(seconds=2.0), key=False)
    with pytest.raises(PlanError, match="content_key"):
        open_plan(path)


def test_members_that_do_not_fit_are_not_written(tmp_path: Path) -> None:
    engines: dict[str, Path | bytes] = {"flow.engine": b"x", "encode.engine": b"y"}
    with pytest.raises(PlanError, match=r"missing \['encode_float32.onnx', 'flow_float32.onnx'\]"):
        write_plan(tmp_path / "edge.plan", keeping(), engines)
    assert list(tmp_path.iterdir()) == []
