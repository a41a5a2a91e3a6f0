"""Windows and macOS, as far as Linux can play them: what they lack is taken away."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from bsst import system
from bsst.engines.child import run_limited
from bsst.runtime.devices.cuda_driver import find_gpus
from tests.media import Clip

LIKE_WINDOWS = """
import errno, fcntl, multiprocessing.connection, os, signal, sys
import av, click, filelock, numpy, onnxruntime, platformdirs, psutil, rich.progress  # they find their own way
from pathlib import Path

sync, read_text = os.fsync, Path.read_text

def fsync_of_windows(descriptor):
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")
    sync(descriptor)

def read_text_of_windows(path, *args, **kwargs):
    if str(path).startswith(("/proc", "/etc", "/sys")):
        raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
    return read_text(path, *args, **kwargs)

os.fsync, Path.read_text = fsync_of_windows, read_text_of_windows
for name in ("resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "readline"):
    sys.modules[name] = None
for name in ("killpg", "sched_getaffinity", "sysconf", "getuid", "geteuid", "mkfifo", "posix_fallocate", "statvfs"):
    delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGPIPE"):
    delattr(signal, name)
"""


def like_windows(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LIKE_WINDOWS + script, *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"ORT_DISABLE_TELEMETRY": "1"},
    )


def test_a_file_is_restored_without_what_windows_lacks(tmp_path: Path) -> None:
    source = Clip(size=(64, 96), times=tuple(range(0, 3 * 512, 512))).write(tmp_path / "clip")
    out = tmp_path / "sharp.mp4"
    script = "import bsst\nbsst.deblur(sys.argv[1], sys.argv[2])\n"
    result = like_windows(script, str(source), str(out))
    assert result.returncode == 0, result.stderr
    assert out.stat().st_size > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "sharp.mp4"]


def test_every_command_starts_and_the_machine_is_examined_without_what_windows_lacks() -> None:
    script = (
        "from bsst.cli import main\nfrom bsst.system import *\n"
        "import bsst.engines.child, bsst.engines.doctor.report, bsst.runtime.jobs.processes\n"
        "print(usable_cores() > 0, processor_name() != '')\nmain(['--help'])\n"
    )
    result = like_windows(script)
    assert (result.returncode, result.stdout.splitlines()[0]) == (0, "True True"), result.stderr


def test_a_compiler_and_all_that_it_started_end_at_its_limit_where_there_are_no_process_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "killpg")
    seen = tmp_path / "pid"
    grandchild = "import time; time.sleep(600)"
    script = (
        f"import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', {grandchild!r}]); "
        f"open({str(seen)!r}, 'w').write(str(c.pid)); c.wait()"
    )
    result = run_limited([sys.executable, "-c", script], time_limit_seconds=2.0, memory_limit_bytes=4 << 30)
    assert result.failure == "stopped at its time limit of 2 s"
    deadline = time.monotonic() + 10
    while _alive(int(seen.read_text())):
        assert time.monotonic() < deadline, "the grandchild goes on"
        time.sleep(0.05)


def test_a_process_that_is_gone_already_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], text=True, start_new_session=True)
    process.wait()
    system.kill_tree(process)
    monkeypatch.delattr(os, "killpg")
    system.kill_tree(process)
    assert system.resident_bytes(process.pid) == 0


def test_cores_are_counted_where_processes_are_not_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = system.usable_cores()
    assert pinned == len(os.sched_getaffinity(0))
    monkeypatch.delattr(psutil.Process, "cpu_affinity")
    assert system.usable_cores() == os.cpu_count()


def test_peak_memory_is_that_of_windows_and_macos_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    linux = system.peak_bytes()
    monkeypatch.setattr(system.Path, "read_text", _not_there)
    assert 0.5 * linux < system.peak_bytes() <= 1.5 * linux  # getrusage counts kilobytes on Linux

    import resource

    usage = namedtuple("usage", "ru_maxrss")(linux)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(resource, "getrusage", lambda who: usage)
    assert system.peak_bytes() == linux  # bytes on macOS

    windows = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=12345))
    monkeypatch.setattr(psutil, "Process", lambda: windows)
    assert system.peak_bytes() == 12345


@pytest.mark.parametrize(("platform", "library"), [("win32", "nvcuda.dll"), ("linux", "libcuda.so.1")])
def test_the_driver_is_asked_by_the_name_that_it_has_on_the_system(
    platform: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load(name: str) -> None:
        asked.append(name)
        raise OSError(name)

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr("ctypes.CDLL", load)
    assert find_gpus() == ()
    assert asked == [library]


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _not_there(path: Path, *args: object, **kwargs: object) -> str:
    raise FileNotFoundError(path)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_frames_that_were_freed_are_not_kept_among_what_lives_longer() -> None:
    """Frames of 12 MB between small blocks, after one of 24 MB was freed, which makes glibc keep smaller ones."""
    script = """
import numpy, sys
from bsst.system import resident_bytes, return_freed_frames
import os
if sys.argv[1] == "1":
    return_freed_frames()
large = bytearray(24 << 20)
del large
frames, small = [], []
for _ in range(8):
    frames.append(bytearray(12 << 20))
    small.append(bytearray(100 << 10))
before = resident_bytes(os.getpid())
del frames
print(before - resident_bytes(os.getpid()))
"""
    freed = [
        int(subprocess.run([sys.executable, "-c", script, on], check=True, capture_output=True, text=True).stdout)
        for on in "01"
    ]
    assert freed[0] < 48 << 20 < 90 << 20 < freed[1]
