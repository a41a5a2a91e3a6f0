"""Frames in any order are those of the whole video, from bounded memory."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from bsst.errors import InputError, ModelError
from bsst.runtime.frames.windows import RestoredWindow, SourceFrame
from bsst.runtime.random_access import RandomAccess
from bsst.runtime.restore import Tiling, restored_windows
from tests.media import moving_photograph
from tests.runtime.jobs.test_segment import Contextual

COUNT = 40


@pytest.fixture(scope="module")
def video() -> list[np.ndarray]:
    """Scenes of 17, 4 and 19 frames."""
    cuts = ((17, "astronaut"), (4, "rocket"), (19, "coffee"))
    frames = [f for count, name in cuts for f in moving_photograph(count, 40, 56, name=name)]
    return [np.ascontiguousarray(f.transpose(2, 0, 1), np.float32) / 255 for f in frames]


def restorer() -> Contextual:
    return Contextual(in_flight=1, frames=6, window_overlap=2)


def whole(video: list[np.ndarray], tiling: Tiling) -> list[np.ndarray]:
    results = restored_windows((SourceFrame(frame) for frame in video), restorer(), tiling)
    return [frame for result in results if isinstance(result, RestoredWindow) for frame in result.frames]


ORDERS = {
    "forward": list(range(COUNT)),
    "backward": list(range(COUNT))[::-1],
    "shuffled": [int(i) for i in np.random.default_rng(3).permutation(COUNT)],
    "pairs swapped": [i ^ 1 for i in range(COUNT)],
    "every seventh, then again": [*range(0, COUNT, 7), *range(0, COUNT, 7)],
}


@pytest.mark.parametrize("cuts", [True, False], ids=["cuts", "one scene"])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_frames_in_any_order_equal_the_whole_video(video: list[np.ndarray], order: list[int], cuts: bool) -> None:
    tiling = Tiling(scene_cuts=cuts)
    expected = whole(video, tiling)
    access = RandomAccess(video.__getitem__, COUNT, restorer(), tiling)
    for index in order:
        np.testing.assert_array_equal(access.frame(index), expected[index], err_msg=str(index))
        assert sum(len(window) for window in access._held) <= 12
    access.close()


def test_a_pass_in_order_restores_and_reads_nothing_twice(video: list[np.ndarray]) -> None:
    reads: Counter[int] = Counter()

    def read(index: int) -> np.ndarray:
        reads[index] += 1
        return video[index]

    network, once = restorer(), restorer()
    access = RandomAccess(read, COUNT, network)
    list(restored_windows((SourceFrame(frame) for frame in video), once, Tiling()))
    for index in range(COUNT):
        access.frame(index ^ 1)  # as two threads of a frame server ask
    assert network.clips == once.clips
    assert sum(reads.values()) <= COUNT + 2 * 6 + 2, "the start alone looks for a cut in two windows more"


def test_a_walk_backward_restores_each_window_once(video: list[np.ndarray]) -> None:
    network, once = restorer(), restorer()
    access = RandomAccess(video.__getitem__, COUNT, network, Tiling(scene_cuts=False))
    list(restored_windows((SourceFrame(frame) for frame in video), once, Tiling(scene_cuts=False)))
    for index in reversed(range(COUNT)):
        access.frame(index)
    assert network.clips <= 2 * once.clips


def test_a_failure_is_told_and_the_next_request_starts_afresh(video: list[np.ndarray]) -> None:
    network, ready = restorer(), True
    flow = network.flow

    def failing(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not ready:
            raise ModelError("no more memory")
        return flow(a, b)

    network.flow = failing  # type: ignore[method-assign]
    access = RandomAccess(video.__getitem__, COUNT, network, Tiling(scene_cuts=False))
    access.frame(3)
    ready = False
    with pytest.raises(ModelError, match="no more memory"):
        access.frame(30)
    ready = True
    np.testing.assert_array_equal(access.frame(30), whole(video, Tiling(scene_cuts=False))[30])


def test_a_frame_that_is_none_is_named_by_its_place_in_the_clip(video: list[np.ndarray]) -> None:
    frames = [*video[:30], video[30] * 255, *video[31:]]
    access = RandomAccess(frames.__getitem__, COUNT, restorer(), Tiling(scene_cuts=False))
    access.frame(12)
    with pytest.raises(InputError, match="got values from 0 to .* in frame 30; divide by 255"):
        access.frame(28)
