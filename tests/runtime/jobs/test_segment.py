"""A segment restored alone equals the same frames of the whole video, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from bsst.runtime.frames.windows import RestoredWindow, SourceFrame
from bsst.runtime.jobs.segment import Segment, plan_segments, stretches
from bsst.runtime.restore import Tiling, restored_windows
from tests.media import Identity

GENERATOR = np.random.default_rng(5)


class Contextual(Identity):
    """Every frame depends on all frames of its window, on its place in it, and on all flows."""

    def flow(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        height, width = a.shape[1] // 4, a.shape[2] // 4
        return np.full((2, height, width), a.mean() - b.mean()), np.full((2, height, width), b.std() - a.std())

    def restore(self, clip: np.ndarray, backward: np.ndarray, forward: np.ndarray) -> np.ndarray:
        weights = np.linspace(0.1, 0.4, len(clip), dtype=np.float32)[:, None, None, None]
        context = (clip * weights).mean(0) + np.float32(backward.sum() - 2 * forward.sum()) / 1000
        return clip * 0.5 + context * weights


def restored(frames: list[np.ndarray], first: int, last: int, starts: set[int], in_flight: int) -> Iterator[np.ndarray]:
    sources = (SourceFrame(frames[index], cut=index in starts) for index in range(first, last))
    tiling = Tiling(scene_cuts=False)
    for result in restored_windows(sources, Contextual(in_flight=in_flight, window_overlap=2, frames=6), tiling):
        if isinstance(result, RestoredWindow):
            yield from result.frames


@pytest.mark.parametrize(
    ("scenes", "count"), [((0,), 29), ((0, 3, 9, 10, 23), 40), ((0, 6), 13)], ids=["one-scene", "short-scenes", "edges"]
)
@pytest.mark.parametrize("wanted", [1, 7])
def test_a_segment_alone_equals_the_whole_bit_for_bit(scenes: tuple[int, ...], count: int, wanted: int) -> None:
    frames = [GENERATOR.random((3, 40, 56), dtype=np.float32) for _ in range(count)]
    whole = list(restored(frames, 0, count, set(scenes), in_flight=2))
    segments = plan_segments(scenes, count, length=6, overlap=2, wanted=wanted)
    assert [index for segment in segments for index in segment.kept] == list(range(count))
    for number, segment in enumerate(segments):
        alone = list(restored(frames, segment.first, segment.last, set(scenes), in_flight=1 + number % 2))
        for index in segment.kept:
            np.testing.assert_array_equal(alone[index - segment.first], whole[index], err_msg=f"{segment} {index}")


@pytest.mark.parametrize("kept", [range(0, 1), range(7, 20), range(28, 29)])
def test_a_range_is_restored_as_within_the_whole_video(kept: range) -> None:
    whole = plan_segments((0, 11), 29, length=6, overlap=2, wanted=1)
    part = plan_segments((0, 11), 29, length=6, overlap=2, wanted=1, kept=kept)
    assert [index for segment in part for index in segment.kept] == list(kept)
    assert {(s.first, s.last) for s in part} == {(s.first, s.last) for s in whole if set(s.kept) & set(kept)}


def test_neighbours_are_restored_in_one_run() -> None:
    segments = plan_segments((0,), 40, length=6, overlap=2, wanted=4)
    left = [segment for number, segment in enumerate(segments) if number not in (0, 4)]
    assert [len(run) for run in stretches(left)] == [3, len(segments) - 5]
    assert not list(stretches([]))
    assert segments[0] == Segment(first=0, last=6, keep_from=0, keep_to=5)
