"""Every field of a manifest is checked: present, known, of its type, possible, and covered by the content key."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from bsst.errors import PlanError
from bsst.plan.archive import Manifest, StageSpec, TensorSpec, open_plan
from bsst.plan.manifest import FORMAT_VERSION
from tests.bsst.plan.archives import edit, entries, rewrite


def test_a_huge_manifest_is_refused(plan_path: Path) -> None:
    parts = dict(entries(plan_path))
    parts["manifest.json"] = b" " * (9 << 20)
    rewrite(plan_path, list(parts.items()))
    with pytest.raises(PlanError, match="manifest of at most"):
        open_plan(plan_path)


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"format_version":1,"format_version":1}', b'{"a":NaN}', b"null"],
)
def test_a_manifest_that_is_no_object_is_refused(plan_path: Path, text: bytes) -> None:
    parts = dict(entries(plan_path))
    parts["manifest.json"] = text
    rewrite(plan_path, list(parts.items()))
    with pytest.raises(PlanError, match="manifest"):
        open_plan(plan_path)


OPTIONAL = {"float32", "shapes", "licence"}  # see test_plan_float32.py
FIELDS = [field.name for field in dataclasses.fields(Manifest) if field.name not in OPTIONAL]
STAGE_FIELDS = [field.name for field in dataclasses.fields(StageSpec)]
TENSOR_FIELDS = [field.name for field in dataclasses.fields(TensorSpec)]


def levels(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    first = data["stages"][0]
    return {
        "manifest": data,
        "stages[0]": first,
        "stages[0].inputs[0]": first["inputs"][0],
        "compiler": data["compiler"],
    }


EVERY_FIELD = [
    *[("manifest", name) for name in FIELDS],
    *[("stages[0]", name) for name in STAGE_FIELDS],
    *[("stages[0].inputs[0]", name) for name in TENSOR_FIELDS],
    *[("compiler", "name"), ("compiler", "version")],
]


@pytest.mark.parametrize(("level", "field"), EVERY_FIELD)
def test_removing_any_field_is_refused(plan_path: Path, level: str, field: str) -> None:
    edit(plan_path, lambda data: levels(data)[level].pop(field), key=field != "content_key")
    with pytest.raises(PlanError, match=rf"missing: {field}|{field}"):
        open_plan(plan_path)


@pytest.mark.parametrize("level", ["manifest", "stages[0]", "stages[0].inputs[0]", "compiler"])
def test_an_unknown_field_is_refused(plan_path: Path, level: str) -> None:
    edit(plan_path, lambda data: levels(data)[level].update(surprise=1), key=True)
    with pytest.raises(PlanError, match="unknown: surprise"):
        open_plan(plan_path)


WRONG_TYPES: list[Any] = [None, True, 3.5, "text", [], ["x", 1], {"a": []}]
FITTING = {
    "'text'": {"bsst_version", "label", "version", "name"},
    "[]": {"compute_capabilities", "plugins", "shape", "inputs"},
    "{'a': []}": {"config", "parity"},
}


@pytest.mark.parametrize(("level", "field"), EVERY_FIELD)
def test_a_field_of_any_other_type_is_refused(plan_path: Path, level: str, field: str) -> None:
    whole = plan_path.read_bytes()
    for value in (value for value in WRONG_TYPES if field not in FITTING.get(repr(value), set())):
        plan_path.write_bytes(whole)

        def change(data: dict[str, Any], value: Any = value) -> None:
            levels(data)[level][field] = value

        edit(plan_path, change, key=field != "content_key")
        message = refusal(plan_path)
        assert field in message or "stages" in message, f"{value!r}: {message}"


def refusal(path: Path) -> str:
    """Why a plan is refused; "accepted" if it is not."""
    try:
        open_plan(path)
    except PlanError as error:
        return str(error)
    return "accepted"


IMPOSSIBLE = [
    ("manifest", "target", "tensorrt-rtx2"),
    ("manifest", "weights_sha256", "0" * 63),
    ("manifest", "frames", 0),
    ("manifest", "tile", [0, 64]),
    ("manifest", "tile", [64]),
    ("manifest", "flow_size", [8, -8]),
    ("manifest", "tile_overlap", 65),
    ("manifest", "tile_overlap", -1),
    ("manifest", "tile_overlap", 5),
    ("manifest", "window_overlap", 2),
    ("manifest", "precision", "fp8"),
    ("manifest", "compute_capabilities", ["sm_89"]),
    ("manifest", "stages", []),
    ("stages[0]", "name", "encode"),
    ("stages[0]", "name", "../flow"),
    ("stages[0]", "member", "encode.onnx"),
    ("stages[0]", "member", "../flow.onnx"),
    ("stages[0]", "member", "flow.engine"),
    ("stages[0]", "member", "manifest.json"),
    ("stages[0]", "sha256", "A" * 64),
    ("stages[0]", "size", 0),
    ("stages[0]", "size", 1 << 62),
    ("stages[0]", "outputs", []),
    ("stages[0]", "precision", {"float16": 0.5}),
    ("stages[0]", "precision", {"float16": 1.5, "float32": -0.5}),
    ("stages[0].inputs[0]", "dtype", "float64"),
    ("stages[0].inputs[0]", "shape", [1, 0]),
    ("stages[0].inputs[0]", "shape", [1, "N"]),
    ("stages[0].inputs[0]", "name", "features"),
]


@pytest.mark.parametrize(("level", "field", "value"), IMPOSSIBLE)
def test_an_impossible_value_is_refused_even_with_a_fitting_content_key(
    plan_path: Path, level: str, field: str, value: Any
) -> None:
    edit(plan_path, lambda data: levels(data)[level].update({field: value}), key=True)
    with pytest.raises(PlanError, match="expected"):
        open_plan(plan_path)


PLAUSIBLE = [
    ("manifest", "bsst_version", "0.2.0"),
    ("manifest", "label", "release weights"),
    ("manifest", "target", "ort-cuda"),
    ("manifest", "weights_sha256", "1" * 64),
    ("manifest", "frames", 3),
    ("manifest", "tile", [66, 127]),
    ("manifest", "flow_size", [33, 65]),
    ("manifest", "tile_overlap", 20),
    ("manifest", "window_overlap", 0),
    ("manifest", "precision", "fp32"),
    ("compiler", "name", "tensorrt"),
    ("compiler", "version", "1.32.1"),
    ("manifest", "compute_capabilities", ["8.9"]),
    ("manifest", "plugins", ["bsst::X"]),
    ("manifest", "parity", {}),
    ("manifest", "config", {}),
    ("stages[0]", "name", "flow2"),
    ("stages[0]", "precision", {}),
    ("stages[0]", "build", {}),
    ("stages[0].inputs[0]", "name", "image"),
    ("stages[0].inputs[0]", "dtype", "float16"),
    ("stages[0].inputs[0]", "shape", [1, 3, 66, 127]),
]


@pytest.mark.parametrize(("level", "field", "value"), PLAUSIBLE)
def test_an_edited_field_is_refused_by_the_content_key(plan_path: Path, level: str, field: str, value: Any) -> None:
    edit(plan_path, lambda data: levels(data)[level].update({field: value}), key=False)
    with pytest.raises(PlanError, match="content_key"):
        open_plan(plan_path)


def test_the_edits_above_flip_every_field() -> None:
    digests = {("stages[0]", "member"), ("stages[0]", "inputs"), ("stages[0]", "sha256"), ("stages[0]", "size")}
    versions = {("manifest", "format_version"), ("manifest", "content_key"), ("manifest", "compiler")}
    covered = {(level, field) for level, field, _ in PLAUSIBLE + IMPOSSIBLE}
    assert set(EVERY_FIELD) - covered <= digests | versions | {("manifest", "stages")}


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 0, True, "1", None, 1.0])
def test_another_format_version_is_refused_first(plan_path: Path, version: Any) -> None:
    edit(plan_path, lambda data: data.update(format_version=version, surprise=1), key=True)
    with pytest.raises(PlanError, match=r"format_version: expected 1"):
        open_plan(plan_path)
