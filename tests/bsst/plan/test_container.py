"""A container that is not byte for byte what was written is refused."""

from __future__ import annotations

import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsst.errors import PlanError
from bsst.plan.archive import open_plan, write_plan
from bsst.plan.manifest import Manifest
from tests.bsst.plan.archives import entries, rewrite
from tests.bsst.plan.manifests import MEMBERS, manifest


def test_every_truncation_is_refused(plan_path: Path) -> None:
    data = plan_path.read_bytes()
    for size in [*range(0, 200), *range(200, len(data), 37), *range(len(data) - 120, len(data))]:
        plan_path.write_bytes(data[:size])
        with pytest.raises(PlanError):
            open_plan(plan_path)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Manifest]:
    path = tmp_path_factory.mktemp("written") / "edge.plan"
    described = write_plan(path, manifest(), MEMBERS)
    return path.read_bytes(), described


@settings(max_examples=400)
@given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_changes_nothing(
    position: float, flip: int, written: tuple[bytes, Manifest], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.plan"
    whole, expected = written
    data = bytearray(whole)
    data[int(position * len(data))] ^= flip
    path.write_bytes(data)
    try:
        plan = open_plan(path)
    except PlanError:
        return
    # Dates and attributes of the container carry no meaning; everything else must be as written.
    assert plan.manifest == expected
    assert {s.member: plan.member(s.name) for s in plan.manifest.stages} == MEMBERS


@settings(max_examples=200)
@given(data=st.binary(max_size=300))
def test_no_file_content_escapes_as_another_error(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.plan"
    path.write_bytes(data + b"PK\x05\x06" + data[:18].ljust(18, b"\0"))
    with pytest.raises(PlanError):
        open_plan(path)


def test_swapped_members_are_refused(plan_path: Path) -> None:
    parts = dict(entries(plan_path))
    parts["encode.onnx"], parts["flow.onnx"] = parts["flow.onnx"], parts["encode.onnx"]
    rewrite(plan_path, list(parts.items()))
    with pytest.raises(PlanError, match=r"expected encode\.onnx of 84 bytes|expected flow\.onnx of"):
        open_plan(plan_path)


def test_a_member_of_the_same_size_with_other_bytes_is_refused(plan_path: Path) -> None:
    parts = dict(entries(plan_path))
    parts["encode.onnx"] = b"x" * len(parts["encode.onnx"])
    rewrite(plan_path, list(parts.items()))
    with pytest.raises(PlanError, match="with SHA-256"):
        open_plan(plan_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../evil.onnx", "plain member names"),
        ("/etc/evil.onnx", "plain member names"),
        ("a\\evil.onnx", "plain member names"),
        (".hidden", "plain member names"),
        ("folder/", "plain member names"),
        ("extra.onnx", r"unknown \['extra.onnx'\]"),
    ],
)
def test_an_extra_member_is_refused(plan_path: Path, name: str, message: str) -> None:
    rewrite(plan_path, [*entries(plan_path), (name, b"")])
    with pytest.raises(PlanError, match=message):
        open_plan(plan_path)


def test_a_missing_member_is_refused(plan_path: Path) -> None:
    rewrite(plan_path, [entry for entry in entries(plan_path) if entry[0] != "flow.onnx"])
    with pytest.raises(PlanError, match=r"missing \['flow.onnx'\]"):
        open_plan(plan_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["manifest.json", "flow.onnx"])
def test_a_member_stated_twice_is_refused(plan_path: Path, name: str) -> None:
    parts = entries(plan_path)
    rewrite(plan_path, [*parts, (name, dict(parts)[name])])
    with pytest.raises(PlanError, match="twice"):
        open_plan(plan_path)


def test_a_zip_bomb_is_refused_before_it_is_inflated(plan_path: Path) -> None:
    parts = dict(entries(plan_path))
    parts["encode.onnx"] = bytes(256 << 20)
    rewrite(plan_path, list(parts.items()), zipfile.ZIP_DEFLATED)
    assert plan_path.stat().st_size < 2 << 20
    tracemalloc.start()
    with pytest.raises(PlanError, match="compressed"):
        open_plan(plan_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_members_that_overlap_are_refused(plan_path: Path) -> None:
    data = bytearray(plan_path.read_bytes())
    with zipfile.ZipFile(plan_path) as archive:
        start = archive.start_dir
    second = data.index(b"PK\x01\x02", start + 4)
    data[second + 42 : second + 46] = struct.pack("<L", 0)  # the second member claims the place of the first
    plan_path.write_bytes(data)
    with pytest.raises(PlanError):
        open_plan(plan_path)


@pytest.mark.parametrize("where", ["before", "after", "gap"])
def test_stray_bytes_are_refused(plan_path: Path, where: str) -> None:
    data = plan_path.read_bytes()
    if where == "before":
        data = b"#!/bin/sh\n" + data
    elif where == "after":
        data += b"tail"
    else:
        with zipfile.ZipFile(plan_path) as archive:
            start = archive.start_dir
        end = bytearray(data[-22:])
        end[16:20] = struct.pack("<L", start + 5)
        data = data[:start] + b"stray" + data[start:-22] + end
    plan_path.write_bytes(data)
    with pytest.raises(PlanError):
        open_plan(plan_path)
