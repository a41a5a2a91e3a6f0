from __future__ import annotations

import dataclasses
import hashlib
import json
import resource
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsst.engines.manifest import FORMAT_VERSION, content_key, manifest_to_json
from bsst.engines.plan import Compiler, Manifest, StageSpec, TensorSpec, open_plan, require, write_plan
from bsst.errors import OutputError, PlanError

from .manifests import MEMBERS, manifest, stage


@pytest.fixture
def plan_path(tmp_path: Path) -> Path:
    path = tmp_path / "edge.plan"
    write_plan(path, manifest(), MEMBERS)
    return path


def rewrite(path: Path, entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=compression)


def entries(path: Path) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def edit(path: Path, change: Any, *, key: bool) -> None:
    """Rewrite the manifest of a plan; with `key` as a forger would, its content key recomputed."""
    parts = dict(entries(path))
    data = json.loads(parts["manifest.json"])
    change(data)
    if key:
        text = json.dumps(data | {"content_key": ""}, sort_keys=True, separators=(",", ":"))
        data["content_key"] = hashlib.sha256(text.encode()).hexdigest()
    parts["manifest.json"] = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
    rewrite(path, list(parts.items()))


def test_a_plan_reads_back_as_written(plan_path: Path) -> None:
    plan = open_plan(plan_path)
    assert plan.member("encode") == MEMBERS["encode.onnx"]
    assert plan.member("flow") == MEMBERS["flow.onnx"]
    written = plan.manifest
    emptied = tuple(dataclasses.replace(s, sha256="", size=0) for s in written.stages)
    assert dataclasses.replace(written, stages=emptied, content_key="") == manifest()
    assert written.content_key == content_key(written)


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    (tmp_path / "flow.bin").write_bytes(b"\0\xff second")
    write_plan(tmp_path / "a.plan", manifest(), MEMBERS)
    write_plan(
        tmp_path / "b.plan", manifest(), {"flow.onnx": tmp_path / "flow.bin", "encode.onnx": b"first engine" * 7}
    )
    assert (tmp_path / "a.plan").read_bytes() == (tmp_path / "b.plan").read_bytes()


def test_members_lie_uncompressed_and_the_manifest_last(plan_path: Path) -> None:
    with zipfile.ZipFile(plan_path) as archive:
        assert archive.namelist() == ["encode.onnx", "flow.onnx", "manifest.json"]
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    assert b"first engine" * 7 in plan_path.read_bytes()


def test_every_truncation_is_refused(plan_path: Path) -> None:
    data = plan_path.read_bytes()
    for size in [*range(0, 200), *range(200, len(data), 37), *range(len(data) - 120, len(data))]:
        plan_path.write_bytes(data[:size])
        with pytest.raises(PlanError):
            open_plan(plan_path)


@settings(max_examples=400)
@given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_changes_nothing(
    position: float, flip: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("flip") / "edge.plan"
    expected = write_plan(path, manifest(), MEMBERS)
    data = bytearray(path.read_bytes())
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
    path = tmp_path_factory.mktemp("noise") / "noise.plan"
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


FIELDS = [field.name for field in dataclasses.fields(Manifest)]
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


@pytest.mark.parametrize(
    ("level", "field", "value"),
    [
        (*place, value)
        for place in EVERY_FIELD
        for value in WRONG_TYPES
        if place[1] not in FITTING.get(repr(value), set())
    ],
)
def test_a_field_of_any_other_type_is_refused(plan_path: Path, level: str, field: str, value: Any) -> None:
    edit(plan_path, lambda data: levels(data)[level].update({field: value}), key=field != "content_key")
    with pytest.raises(PlanError, match=f"{field}|stages"):
        open_plan(plan_path)


IMPOSSIBLE = [
    ("manifest", "target", "tensorrt-rtx2"),
    ("manifest", "weights_sha256", "0" * 63),
    ("manifest", "frames", 0),
    ("manifest", "tile", [0, 64]),
    ("manifest", "tile", [64]),
    ("manifest", "flow_size", [8, -8]),
    ("manifest", "tile_overlap", 65),
    ("manifest", "tile_overlap", -1),
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
    ("manifest", "tile_overlap", 17),
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


def test_a_missing_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="got no such file; make one with bsst-export"):
        open_plan(tmp_path / "none.plan")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError):
        open_plan(tmp_path)


def test_a_plan_replaced_while_open_is_noticed(plan_path: Path) -> None:
    plan = open_plan(plan_path)
    data = plan_path.read_bytes().replace(b"first engine", b"other engine")
    plan_path.write_bytes(data)
    with pytest.raises(PlanError, match="do not replace a plan while it runs"):
        plan.member("encode")


def test_an_unknown_stage_is_refused(plan_path: Path) -> None:
    with pytest.raises(PlanError, match="got flow, encode"):
        open_plan(plan_path).member("decode")


@pytest.mark.parametrize("members", [{}, {"flow.onnx": b"x"}, {**MEMBERS, "more.onnx": b"x"}])
def test_members_that_do_not_fit_the_manifest_are_not_written(tmp_path: Path, members: dict[str, Path | bytes]) -> None:
    with pytest.raises(PlanError, match="expected members"):
        write_plan(tmp_path / "edge.plan", manifest(), members)
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_would_be_refused_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="tile_overlap"):
        write_plan(tmp_path / "edge.plan", manifest(tile_overlap=65), MEMBERS)
    with pytest.raises(PlanError, match="finite JSON"):
        write_plan(tmp_path / "edge.plan", manifest(parity={"psnr": float("nan")}), MEMBERS)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_plan_and_no_leftovers(plan_path: Path) -> None:
    # A file size limit makes the kernel refuse writes halfway, as a full disk does; it needs a process of its own.
    before = plan_path.read_bytes()
    script = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pathlib import Path
from manifests import MEMBERS, manifest
from bsst.engines.plan import write_plan
from bsst.errors import OutputError
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_plan(Path({str(plan_path)!r}), manifest(), MEMBERS | {{"encode.onnx": bytes(100_000)}})
except OutputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "File too large; free space" in done.stdout
    assert plan_path.read_bytes() == before
    assert list(plan_path.parent.iterdir()) == [plan_path]


def test_a_full_device_is_reported_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OutputError, match="a full disk; free space"):
        write_plan(tmp_path / "edge.plan", manifest(), MEMBERS)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_plan(tmp_path / "none" / "edge.plan", manifest(), MEMBERS)


def test_large_members_are_never_held_twice(tmp_path: Path) -> None:
    size = 64 << 20
    big = tmp_path / "big.bin"
    with big.open("wb") as file:
        file.truncate(size)
    path = tmp_path / "big.plan"
    tracemalloc.start()
    write_plan(path, manifest(stages=(stage("flow"),)), {"flow.onnx": big})
    plan = open_plan(path)
    assert tracemalloc.get_traced_memory()[1] < size // 8
    data = plan.member("flow")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(data) == size
    assert peak < size * 1.2


def test_a_plan_is_read_without_torch_onnx_or_a_runtime() -> None:
    script = "import sys, bsst.engines.plan; print(*{'onnx', 'torch', 'onnxruntime', 'tensorrt'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "\n"


class TestRequire:
    rtx = manifest(
        target="tensorrt-rtx",
        compiler=Compiler(name="tensorrt-rtx", version="1.7.1.116"),
        compute_capabilities=("8.6", "12.0"),
    )

    def test_a_fitting_machine_passes(self) -> None:
        require(self.rtx, targets=["cpu", "tensorrt-rtx"], compiler_version="1.7.1.116", compute_capability="8.6")
        require(self.rtx)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"targets": ["cpu"]}, "expected a plan for cpu, got target tensorrt-rtx"),
            ({"targets": []}, "got target tensorrt-rtx"),
            ({"compiler_version": "1.7.1.117"}, r"1\.7\.1\.117 \(installed here\), got 1\.7\.1\.116"),
            ({"compute_capability": "8.9"}, r"capability 8\.9 \(this GPU\), got 8\.6, 12\.0.*--sm 89"),
            ({"compute_capability": "12.1"}, "got 8.6, 12.0"),
        ],
    )
    def test_each_difference_is_refused_with_a_remedy(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(PlanError, match=message) as refusal:
            require(self.rtx, **arguments)
        assert "bsst-export" in str(refusal.value)

    @pytest.mark.parametrize(("capability", "fits"), [("7.5", False), ("8.0", True), ("8.9", True), ("12.0", True)])
    def test_a_plus_covers_newer_gpus_only(self, capability: str, fits: bool) -> None:
        spec = dataclasses.replace(self.rtx, compute_capabilities=("8.0+",))
        if fits:
            require(spec, compute_capability=capability)
        else:
            with pytest.raises(PlanError, match="8.0"):
                require(spec, compute_capability=capability)

    def test_an_onnx_plan_runs_in_another_version_and_on_any_gpu(self) -> None:
        require(manifest(), targets=["cpu"], compiler_version="1.99", compute_capability="7.5")


def test_manifest_bytes_are_canonical(plan_path: Path) -> None:
    assert dict(entries(plan_path))["manifest.json"] == manifest_to_json(open_plan(plan_path).manifest)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096
