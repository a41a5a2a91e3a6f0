"""A plan with two shapes of tiles: the one that fits a video restores it, here and in workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bsst.plan.archive import open_plan
from bsst.runtime.frames.fit import fitting_plan
from bsst.runtime.job import deblur
from bsst.runtime.jobs.options import Execution, OutputFormat
from bsst.runtime.network.network import DEFAULT_PLAN, load_network
from bsst.runtime.restore import deblur_frames
from bsst.runtime.video.reader import VideoReader
from tests.media import Clip, decode
from tests.networks import SMALL, UPRIGHT


def planes(path: Path) -> list[bytes]:
    return [plane.tobytes() for frame in decode(path).planes for plane in frame]


@pytest.mark.slow
def test_a_plan_of_two_shapes_runs_in_the_one_that_computes_fewer_pixels(shaped_plan: Path, tmp_path: Path) -> None:
    opened = open_plan(shaped_plan)
    assert shaped_plan.stat().st_size < 1.25 * sum(stage.size for stage in opened.manifest.stages)
    clip = Clip(times=tuple(range(0, 5 * 512, 512)), size=(121, 57), suffix=".mkv", codec="ffv1")
    video = clip.write(tmp_path / "upright")
    fitting = fitting_plan(opened, 121, 57)
    assert fitting.manifest.tile == UPRIGHT.tile
    here = deblur(
        video,
        tmp_path / "a.mkv",
        shaped_plan,
        output_format=OutputFormat(lossless=True),
        execution=Execution(threads=1, in_flight=1),
    )
    workers = Execution(threads=1, in_flight=1, devices=("cpu",))
    there = deblur(video, tmp_path / "b.mkv", shaped_plan, output_format=OutputFormat(lossless=True), execution=workers)
    assert planes(here.output) == planes(there.output) != planes(video)
    with VideoReader(video) as reader:
        frames = [frame.rgb for frame in reader]
    results = []
    for shape in (fitting, opened):
        with load_network(shape, threads=1, in_flight=1) as network:
            results.append(np.stack(list(deblur_frames(frames, network))))
    apart, changed = np.abs(results[0] - results[1]).mean(), np.abs(results[0] - np.stack(frames)).mean()
    assert apart < 0.5 * changed  # random weights change every place strongly, what lies beyond an edge included


@pytest.mark.parametrize(
    ("size", "tile"),
    [((256, 256), (256, 256)), ((192, 320), (192, 320)), ((720, 1280), (384, 448)), ((1080, 1920), (256, 256))],
)
def test_larger_tiles_of_the_packaged_plan_are_taken_where_they_save_more_than_a_seventh_of_the_work(
    size: tuple[int, int], tile: tuple[int, int]
) -> None:
    assert fitting_plan(open_plan(DEFAULT_PLAN), *size).manifest.tile == tile


@pytest.mark.parametrize(("size", "tile"), [(None, SMALL.tile), ((60, 120), SMALL.tile), ((121, 57), UPRIGHT.tile)])
def test_a_network_is_loaded_in_the_shape_that_suits_the_frames(
    shaped_plan: Path, size: tuple[int, int] | None, tile: tuple[int, int]
) -> None:
    with load_network(shaped_plan, size=size, threads=1, in_flight=1) as network:
        assert network.tile == tile
