"""A finished video is never lost, and never takes the place of another file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bsst.errors import OutputError, VerificationError
from bsst.runtime.job import deblur
from bsst.runtime.jobs.report import Observer, Progress
from bsst.runtime.video import publish
from tests.media import Clip, Identity, decode


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return Clip(audio="aac").write(tmp_path / "clip")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_a_file_that_appeared_meanwhile_stays_and_the_result_gets_another_name(
    clip: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    out, taken = clip.with_name("out.mp4"), clip.with_name("out.new.mp4")
    taken.write_bytes(b"an earlier one")

    def appear(state: Progress) -> None:
        out.write_bytes(b"precious")

    def no_links(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(OutputError, match=r"one appeared meanwhile; the result is kept as .*out\.new-2\.mp4$"):
        deblur(clip, out, plan=Identity(), observer=Observer(progress=appear))
    assert (out.read_bytes(), taken.read_bytes()) == (b"precious", b"an earlier one")
    assert len(decode(clip.with_name("out.new-2.mp4")).seconds) == 12
    assert names(clip.parent) == ["clip.mp4", "out.mp4", "out.new-2.mp4", "out.new.mp4"]


def test_without_links_a_result_gets_its_name_all_the_same(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    deblur(clip, clip.with_name("out.mp4"), plan=Identity())
    assert names(clip.parent) == ["clip.mp4", "out.mp4"]


def test_a_result_that_lost_frames_is_kept_under_another_name(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = publish.packet_times
    monkeypatch.setattr(publish, "packet_times", lambda path: (genuine(path)[0][:-2], genuine(path)[1]))
    with pytest.raises(
        VerificationError, match=r"12 frames in the result, read back 10; .*deblurred\.unverified\.mp4$"
    ):
        deblur(clip, plan=Identity())
    assert names(clip.parent) == ["clip.deblurred.unverified.mp4", "clip.mp4"]
    assert len(decode(clip.with_name("clip.deblurred.unverified.mp4")).seconds) == 12


def test_a_result_that_shifted_is_kept_under_another_name(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = publish.packet_times
    monkeypatch.setattr(publish, "packet_times", lambda path: ([t + 100 for t in genuine(path)[0]], genuine(path)[1]))
    with pytest.raises(VerificationError, match="expected frame 0"):
        deblur(clip, plan=Identity())
    assert names(clip.parent) == ["clip.deblurred.unverified.mp4", "clip.mp4"]


def test_segments_stay_where_a_result_can_get_no_name_at_all(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(publish, "_name", fail)
        with pytest.raises(OutputError, match=r"Input/output error; .*; 12 frames are kept in .*\.bsst-"):
            deblur(clip, plan=Identity())
    assert not clip.with_name("clip.deblurred.mp4").exists()
    assert len(names(clip.parent)) == 2


def test_a_link_that_leads_nowhere_is_refused_before_any_work(clip: Path) -> None:
    clip.with_name("out.mp4").symlink_to("nowhere.mp4")
    restorer = Identity()
    with pytest.raises(OutputError, match="a link that leads nowhere"):
        deblur(clip, clip.with_name("out.mp4"), plan=restorer)
    assert restorer.clips == 0
