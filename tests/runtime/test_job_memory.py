"""A decoder or an encoder that gets too little memory ends a job with the error of memory, never with another one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av
import pytest

from bsst.errors import BsstError, InputError, OutOfMemoryError
from bsst.runtime.jobs.worker import portable
from bsst.runtime.video.memory import ran_out
from bsst.runtime.video.reader import VideoReader
from tests.media import Clip

SIZE = (1200, 1200)
STARVED = """
import resource, sys
from pathlib import Path

from bsst.errors import BsstError
from bsst.runtime.job import deblur
from tests.media import Identity

def taken():
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

folder = Path(sys.argv[1])
for small in ("small.mp4", "small"):  # what is loaded once, and what OpenBLAS allocates, which ends a process
    deblur(folder / small, folder / f"{small}.mkv", Identity(in_flight=1))
for source, out in ((folder / "clip.mp4", "out.mkv"), (folder / "pictures", "out")):
    for megabytes in (4, 16, 60):
        resource.setrlimit(resource.RLIMIT_AS, (taken() + megabytes * 1_000_000, resource.RLIM_INFINITY))
        try:
            deblur(source, folder / f"{megabytes}{out}", Identity(in_flight=1, tile=(1200, 1200)))
            status, words = 0, ""
        except BsstError as error:
            status, words = error.exit_code, str(error)
        except (MemoryError, RuntimeError) as error:  # the command line knows these words
            status, words = (6 if isinstance(error, MemoryError) or "start new thread" in str(error) else 1), str(error)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(status, source.name, megabytes, words)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's")
def test_too_little_memory_for_ffmpeg_is_told_as_such(tmp_path: Path) -> None:
    for name, folder, size in (("small", "small", (64, 64)), ("clip", "pictures", SIZE)):
        clip = Clip(size=size, times=(0, 512), options={"preset": "ultrafast"}).write(tmp_path / name)
        (tmp_path / folder).mkdir()
        with av.open(str(clip)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                frame.to_image().save(tmp_path / folder / f"{index}.png", compress_level=1)
    command = [sys.executable, "-c", STARVED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    statuses = [line.split()[0] for line in done.stdout.splitlines()]
    assert len(statuses) == 6, done.stderr[-600:]
    assert statuses[0] == statuses[3] == "6", done.stdout
    assert set(statuses) <= {"0", "6"}, done.stdout


def test_a_decoder_that_calls_its_lack_of_memory_damage_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = av.error.InvalidDataError(1094995529, "Invalid data found when processing input")
    with VideoReader(Clip(times=(0, 512)).write(tmp_path / "clip")) as reader:
        assert isinstance(reader._damage(3, failure), InputError)
        monkeypatch.setattr("bsst.runtime.video.memory.DECODER_BYTES", 2**44)
        assert isinstance(reader._damage(3, failure), OutOfMemoryError)


def test_threads_that_cannot_be_started_are_a_lack_of_memory_in_a_worker_too() -> None:
    lacking = av.error.BlockingIOError(11, "Resource temporarily unavailable")
    assert ran_out(lacking)
    sent: BsstError = portable(lacking)
    assert isinstance(sent, OutOfMemoryError)
