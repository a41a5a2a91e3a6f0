"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bsst.errors import OutputError
from bsst.files import atomic_file, what_is_at


def test_a_pipe_or_device_is_never_renamed_over(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with (
        pytest.raises(OutputError, match="expected a file or nothing at .*pipe, got a pipe or device"),
        atomic_file(pipe),
    ):
        pytest.fail("opened")
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


def test_what_a_name_leads_to_is_said_even_where_it_cannot_be_looked_at(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    file = tmp_path / "file"
    file.touch()
    found = [what_is_at(path) for path in (file, tmp_path, Path(os.devnull), loop, file / "x", tmp_path / ("x" * 999))]
    assert found == ["a file", "a folder", "a pipe or device", "nothing", "nothing", "nothing"]


KILLED = """
import os, signal, sys
from pathlib import Path
from bsst.files import atomic_file
with atomic_file(Path(sys.argv[1])) as file:
    file.write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_is_removed_by_the_next_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    path, other = tmp_path / "a[1].plan", tmp_path / "a.plan"
    for name in (path, other):
        done = subprocess.run([sys.executable, "-c", KILLED, str(name)], check=False)
        assert done.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 2
    with atomic_file(path) as living:
        living.write(b"first")
        with atomic_file(path) as file:
            file.write(b"second")
        assert path.read_bytes() == b"second"
        assert len(list(tmp_path.glob("*.partial"))) == 2  # the living one, and what is left of another file
    assert path.read_bytes() == b"first"
    assert [name.split(".partial")[0][:8] for name in os.listdir(tmp_path) if name != path.name] == [".a.plan."]
