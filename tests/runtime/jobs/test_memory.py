"""Memory of a long job: what a frame takes is given back."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from bsst.runtime.job import deblur
from bsst.runtime.jobs.report import Observer, Progress
from tests.media import Clip, Identity

FRAMES = 3000
SIZE = (48, 64)


@pytest.mark.nightly
def test_memory_is_flat_over_three_thousand_frames(tmp_path: Path) -> None:
    path = Clip(times=tuple(range(0, FRAMES * 512, 512)), size=SIZE).write(tmp_path / "clip")
    process, taken = psutil.Process(), dict[int, int]()

    def look(progress: Progress) -> None:
        if progress.frames // 500 not in taken:
            taken[progress.frames // 500] = process.memory_info().rss

    result = deblur(path, plan=Identity(in_flight=1, tile=(48, 64)), observer=Observer(progress=look))
    assert result.frames == FRAMES
    frame = 3 * 4 * SIZE[0] * SIZE[1]
    grown = max(taken[step] for step in range(3, 6)) - max(taken[step] for step in (1, 2))
    assert grown < 1500 * frame / 10  # 571 bytes a frame, where one takes 36,864
