"""Plans read back as they were written, and are written whole or not at all."""

from __future__ import annotations

import dataclasses
import os
import resource
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from bsst.errors import OutputError, PlanError
from bsst.plan.archive import open_plan, write_plan
from bsst.plan.manifest_json import content_key, manifest_to_json
from tests.bsst.plan.archives import entries
from tests.bsst.plan.manifests import MEMBERS, manifest, stage


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


OPTIONAL = {"float32", "shapes"}  # see test_plan_float32.py


def test_a_missing_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="got no such file; make one with bsst export"):
        open_plan(tmp_path / "none.plan")


def test_a_pipe_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.plan")
    with pytest.raises(PlanError, match="expected a plan file, got a pipe or device"):
        open_plan(tmp_path / "pipe.plan")


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
from bsst.plan.archive import write_plan
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
    script = "import sys, bsst.plan.archive; print(*{'onnx', 'torch', 'onnxruntime', 'tensorrt'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "\n"


def test_manifest_bytes_are_canonical(plan_path: Path) -> None:
    assert dict(entries(plan_path))["manifest.json"] == manifest_to_json(open_plan(plan_path).manifest)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096
