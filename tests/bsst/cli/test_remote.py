"""Sources and results behind URLs: copied here, restored, copied there, and nothing lost in between."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bsst import cli
from bsst.errors import MissingDependencyError
from bsst.runtime.jobs import opened
from bsst.runtime.video.remote import RemoteFile, is_url
from tests.media import Clip, Identity, decode

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A store in memory with a clip in it; the working directory and the cache are empty folders."""
    for name in ("here", "cache"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("BSST_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(opened, "load_network", lambda *plan, **options: Identity())
    monkeypatch.setattr(opened, "_fitting", lambda *plan: None)
    monkeypatch.setattr(opened, "_clips", lambda *video: 4)
    monkeypatch.setattr(opened, "fitting_plan", lambda plan, *size, **options: plan)
    system = fsspec.filesystem("memory")
    system.rm("/", recursive=True) if system.ls("/") else None
    system.pipe("/in/a clip.mp4", Clip(times=(0, 512), size=(48, 64)).write(tmp_path / "clip").read_bytes())
    return system


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.run, [str(argument) for argument in arguments])


def copies(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_clip_goes_from_url_to_url_and_leaves_no_copy(bucket: Any, tmp_path: Path) -> None:
    result = invoke("memory://in/a clip.mp4", "-o", "memory://out/deep/sharp.mkv")
    assert result.exit_code == 0, result.output
    assert "memory://out/deep/sharp.mkv: 2 frames" in result.stderr
    (tmp_path / "got.mkv").write_bytes(bucket.cat("/out/deep/sharp.mkv"))
    assert len(decode(tmp_path / "got.mkv").seconds) == 2
    assert copies(tmp_path) == []
    again = invoke("memory://in/a clip.mp4", "-o", "memory://out/deep/sharp.mkv")
    assert (again.exit_code, again.stderr.count("\n")) == (4, 1)


def test_a_result_without_a_name_lies_here_and_file_urls_are_files(bucket: Any, tmp_path: Path) -> None:
    assert invoke("memory://in/a clip.mp4").exit_code == 0
    assert (tmp_path / "here" / "a clip.deblurred.mp4").is_file()
    named = invoke(f"file://{tmp_path}/clip.mp4", "-o", f"file://{tmp_path}/there/x.mp4")
    assert named.exit_code == 0, named.output
    assert (tmp_path / "there" / "x.mp4").is_file()


def test_several_go_into_a_folder_behind_a_url_once(bucket: Any, tmp_path: Path) -> None:
    arguments = ["memory://in/a clip.mp4", tmp_path / "clip.mp4", "memory://in/none.mp4"]
    missing = invoke(*arguments, "-o", "memory://all/{stem}_sharp.mp4")
    assert (missing.exit_code, missing.stderr.count("\n")) == (3, 1)  # before any work
    result = invoke(*arguments[:2], "-o", "memory://all/{stem}_sharp.mp4")
    assert result.exit_code == 0, result.output
    assert sorted(bucket.ls("/all", detail=False)) == ["/all/a clip_sharp.mp4", "/all/clip_sharp.mp4"]
    again = invoke(*arguments[:2], "-o", "memory://all/{stem}_sharp.mp4")
    assert again.exit_code == 0
    assert again.stderr.count("is there, skipped") == 2


def test_a_result_that_cannot_be_copied_is_kept_here_and_said(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError("403 Forbidden\nby the bucket")

    monkeypatch.setattr(type(bucket), "put_file", refuse)
    result = invoke("memory://in/a clip.mp4", "-o", "memory://out/x.mp4", "-q")
    assert (result.exit_code, result.stderr.count("\n")) == (4, 1)
    assert "403 Forbidden by the bucket" in result.stderr
    assert "kept as" in result.stderr
    kept = next(path for path in copies(tmp_path) if path.name == "x.mp4")
    assert len(decode(kept).seconds) == 2


def test_a_copy_that_breaks_off_is_none(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = type(bucket).get_file

    def broken(self: Any, remote: str, local: str, **options: Any) -> None:
        genuine(self, remote, local, **options)
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(type(bucket), "get_file", broken)
    result = invoke("memory://in/a clip.mp4", "-q")
    assert (result.exit_code, result.stderr.count("\n")) == (3, 1)
    assert "reset by peer" in result.stderr
    assert copies(tmp_path) == []


def test_what_is_missing_is_one_line(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = invoke("nosuch://x/y.mp4")
    assert (unknown.exit_code, unknown.stderr.count("\n")) == (2, 1)
    if importlib.util.find_spec("s3fs") is None:
        with pytest.raises(MissingDependencyError, match=r"pip install 'bsst\[remote\]'"):
            RemoteFile("s3://x/y.mp4")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    bare = invoke("s3://x/y.mp4")
    assert (bare.exit_code, bare.stderr.count("\n")) == (5, 1)
    assert "needs fsspec" in bare.stderr


def test_names_that_are_no_urls() -> None:
    assert not any(map(is_url, ["C:/clip.mp4", "a:b.mp4", "-", "s3:/x", "clips/x://y.mp4"]))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def website(bucket: Any, tmp_path: Path) -> Iterator[str]:
    """The folder of the clip, behind http."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.skipif(importlib.util.find_spec("aiohttp") is None, reason="needs aiohttp, which is not here")
def test_a_clip_comes_from_a_web_server_and_what_is_missing_there_is_one_line(website: str, tmp_path: Path) -> None:
    result = invoke(f"{website}/clip.mp4", "-o", "sharp.mp4")
    assert result.exit_code == 0, result.output
    assert decode(tmp_path / "here" / "sharp.mp4").seconds == decode(tmp_path / "clip.mp4").seconds
    assert copies(tmp_path) == []
    for url, status in ((f"{website}/none.mp4", 3), ("http://127.0.0.1:1/clip.mp4", 3), (f"{website}/cache/", 3)):
        missing = invoke(url, "-o", "x.mp4")
        assert (missing.exit_code, missing.stderr.count("\n")) == (status, 1), missing.stderr
    there = invoke(tmp_path / "clip.mp4", "-o", f"{website}/sharp.mp4", "-q")  # which takes no files
    assert (there.exit_code, there.stderr.count("\n")) == (4, 1), there.stderr


@pytest.fixture
def s3(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A stand-in for S3 with one bucket in it, where s3fs and moto[server] are installed."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x"), ("ENDPOINT_URL", f"http://{host}:{port}")):
        monkeypatch.setenv(f"AWS_{name}", value)
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    system.mkdir("films")
    yield system
    server.stop()


@pytest.mark.filterwarnings("default")  # of the stand-in
def test_a_clip_goes_from_bucket_to_bucket(s3: Any, tmp_path: Path) -> None:
    s3.put_file(str(tmp_path / "clip.mp4"), "films/in/clip.mp4")
    result = invoke("s3://films/in/clip.mp4", "-o", "s3://films/out/sharp.mp4")
    assert result.exit_code == 0, result.output
    s3.invalidate_cache()
    s3.get_file("films/out/sharp.mp4", str(tmp_path / "got.mp4"))
    assert decode(tmp_path / "got.mp4").seconds == decode(tmp_path / "clip.mp4").seconds
    assert copies(tmp_path) == []
    for name, status in (("s3://films/none.mp4", 3), ("s3://nobody/clip.mp4", 3)):
        missing = invoke(name, "-o", "x.mp4")
        assert (missing.exit_code, missing.stderr.count("\n")) == (status, 1), missing.stderr
