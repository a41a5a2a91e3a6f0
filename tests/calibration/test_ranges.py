"""Ranges that somebody edited."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bsst.calibration.ranges import Ranges, read_ranges, write_ranges
from bsst.calibration.samples import clip_record
from bsst.errors import InputError, ModelError


def test_windows_edited_to_none_are_refused(tmp_path: Path) -> None:
    ranges = Ranges(
        stages_sha256="0" * 64, method="minmax", percentile=100.0, windows=0, clips=(), tensors={"flow": {"x": (0, 1)}}
    )
    write_ranges(tmp_path / "r.json", ranges)
    with pytest.raises(ModelError, match="expected 1 or more windows of each clip, got 0; write them again"):
        read_ranges(tmp_path / "r.json")


def test_a_pipe_is_no_clip(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(InputError, match="found a pipe or device at"):
        clip_record(tmp_path / "pipe.mp4", None)
