"""The inner iterator of restored windows: what comes out belongs to what went in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bsst.errors import InputError
from bsst.runtime.frames.windows import RestoredWindow, SourceFrame, TileDone
from bsst.runtime.restore import Tiling, deblur_frames, restored_windows
from tests.media import Identity


@pytest.mark.parametrize("in_flight", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 4, 5, 17])
def test_the_time_of_a_frame_comes_out_with_its_pixels(in_flight: int, count: int) -> None:
    # Times that no counting would find again; a cut in the middle; scenes shorter than a window are reflected.
    frames = [
        SourceFrame(np.full((3, 70, 101), index / 20, np.float32), time=(index * 37 % 11, str(index)), cut=index == 9)
        for index in range(count)
    ]
    restorer = Identity(in_flight=in_flight)
    results = list(restored_windows(iter(frames), restorer, Tiling(scene_cuts=False)))
    windows = [result for result in results if isinstance(result, RestoredWindow)]
    assert [time for window in windows for time in window.times] == [frame.time for frame in frames]
    pixels = [pixels for window in windows for pixels in window.frames]
    np.testing.assert_allclose(pixels, [frame.pixels for frame in frames], rtol=0, atol=1e-6)
    assert [window.first for window in windows] == np.cumsum([0, *(len(w.frames) for w in windows)])[:-1].tolist()
    assert not any(window.fallback or window.repaired for window in windows)


def test_a_window_comes_after_a_report_of_each_of_its_tiles() -> None:
    frames = (SourceFrame(np.zeros((3, 70, 101), np.float32)) for _ in range(7))
    done = 0.0
    tiles = 0
    for result in restored_windows(frames, Identity(window_overlap=1)):
        if isinstance(result, TileDone):
            assert result.frames > done
            done = result.frames
            tiles += 1
        else:
            assert (done, tiles) == (result.first + len(result.frames), 4)  # 2 rows, 2 columns
            tiles = 0
    assert done == 7


@pytest.mark.parametrize("in_flight", [1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_costs_its_own_frame_and_no_other(in_flight: int, value: float) -> None:
    frames = np.random.default_rng(3).random((9, 3, 70, 101), dtype=np.float32)
    frames[0, 1, 5, 7] = frames[6, 0, 69, 100] = value

    class Darker(Identity):
        def restore(self, clip: np.ndarray, backward: np.ndarray, forward: np.ndarray) -> np.ndarray:
            assert np.isfinite(clip).all()
            return super().restore(clip, backward, forward) - np.float32(0.01)

    restorer = Darker(in_flight=in_flight)
    windows = [result for result in restored_windows(map(SourceFrame, frames), restorer, Tiling(scene_cuts=False))
               if isinstance(result, RestoredWindow)]  # fmt: skip
    assert [index for window in windows for index in window.repaired] == [0, 6]
    pixels = [pixels for window in windows for pixels in window.frames]
    for index, (got, source) in enumerate(zip(pixels, frames, strict=True)):
        expected = source if index in (0, 6) else np.clip(source - np.float32(0.01), 0, 1)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    assert len(list(deblur_frames(iter(frames), Darker(in_flight=in_flight)))) == 9


@pytest.mark.parametrize("frames", [None, 5])
def test_what_holds_no_frames_is_refused_in_one_sentence(frames: Any) -> None:
    with pytest.raises(InputError, match="expected frames one after another, got a .*; give a list or a generator"):
        list(deblur_frames(frames, Identity()))
