"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import stat
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
