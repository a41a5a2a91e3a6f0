from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsst.errors import UsageError
from bsst.runtime.frames.windows import SourceFrame, Window, sliding_windows


class Recorder:
    """Flow of a pair is (index of t, index of t + 1), told apart by sign; every call is recorded."""

    def __init__(self) -> None:
        self.featured: list[int] = []
        self.paired: list[tuple[int, int]] = []

    def features(self, frame: np.ndarray) -> int:
        self.featured.append(int(frame[0, 0, 0]))
        return self.featured[-1]

    def flow(self, a: int, b: int) -> tuple[np.ndarray, np.ndarray]:
        self.paired.append((a, b))
        return _flow(a, b), _flow(b, a)


def _flow(on: int, to: int) -> np.ndarray:
    return np.array([on, to], np.float32).reshape(2, 1, 1)


def _run(scenes: list[int], length: int, overlap: int) -> tuple[list[Window], Recorder]:
    recorder = Recorder()
    starts = set(np.cumsum([0, *scenes]).tolist())
    frames = (SourceFrame(np.full((3, 4, 4), index, np.float32), cut=index in starts) for index in range(sum(scenes)))
    return list(sliding_windows(frames, recorder, length=length, overlap=overlap)), recorder


def _indices(window: Window) -> list[int]:
    return [int(frame[0, 0, 0]) for frame in window.frames]


scene_lists = st.lists(st.integers(1, 23), min_size=1, max_size=4)
shapes = st.integers(2, 9).flatmap(lambda length: st.tuples(st.just(length), st.integers(0, length - 1)))


@given(scene_lists, shapes)
def test_every_frame_is_output_once_in_order(scenes: list[int], shape: tuple[int, int]) -> None:
    windows, _ = _run(scenes, *shape)
    assert [index for window in windows for index in _indices(window)[window.keep]] == list(range(sum(scenes)))


@given(scene_lists, shapes)
def test_windows_have_static_length_and_stay_inside_one_scene(scenes: list[int], shape: tuple[int, int]) -> None:
    windows, _ = _run(scenes, *shape)
    scene_of = np.repeat(np.arange(len(scenes)), scenes)
    for window in windows:
        assert len(window.frames) == shape[0]
        assert len(window.pairs) == shape[0] - 1
        assert len({scene_of[index] for index in _indices(window)}) == 1


@given(scene_lists, shapes)
def test_features_and_flows_are_computed_once(scenes: list[int], shape: tuple[int, int]) -> None:
    _, recorder = _run(scenes, *shape)
    cuts = set(np.cumsum(scenes).tolist())
    assert recorder.featured == list(range(sum(scenes)))
    assert recorder.paired == [(a, b) for a, b in pairwise(range(sum(scenes))) if b not in cuts]


@given(scene_lists, shapes)
def test_flows_lie_between_the_frames_of_the_window(scenes: list[int], shape: tuple[int, int]) -> None:
    windows, _ = _run(scenes, *shape)
    for window in windows:
        for (a, b), (backward, forward) in zip(pairwise(_indices(window)), window.pairs, strict=True):
            if a == b:
                assert not backward.any()
                assert not forward.any()
            else:
                assert backward.ravel().tolist() == [a, b]
                assert forward.ravel().tolist() == [b, a]


@given(st.integers(1, 60), shapes)
def test_kept_frames_have_half_the_overlap_on_both_sides(count: int, shape: tuple[int, int]) -> None:
    length, overlap = shape
    windows, _ = _run([count], length, overlap)
    for window in windows:
        indices = _indices(window)
        kept = indices[window.keep]
        assert kept[0] == 0 or window.keep.start >= overlap // 2
        assert kept[-1] == count - 1 or length - window.keep.stop >= overlap - overlap // 2


def test_the_layout_drawn_in_the_docstring() -> None:
    windows, _ = _run([13], 6, 2)
    assert [(_indices(w)[0], _indices(w)[w.keep]) for w in windows] == [
        (0, [0, 1, 2, 3, 4]),
        (4, [5, 6, 7, 8]),
        (7, [9, 10, 11, 12]),
    ]


def test_a_short_scene_is_walked_back_and_forth() -> None:
    windows, _ = _run([3], 8, 2)
    assert [_indices(window) for window in windows] == [[0, 1, 2, 1, 0, 1, 2, 1]]
    assert windows[0].keep == slice(0, 3)


def test_windows_are_produced_while_frames_come_in() -> None:
    given_out = 0

    def frames():  # noqa: ANN202
        nonlocal given_out
        for index in range(100):
            given_out += 1
            yield SourceFrame(np.full((3, 4, 4), index, np.float32))

    first = next(sliding_windows(frames(), Recorder(), length=6, overlap=2))
    assert _indices(first) == [0, 1, 2, 3, 4, 5]
    assert given_out == 7  # one frame of look-ahead tells whether the window is the last


@pytest.mark.parametrize(("length", "overlap"), [(6, 6), (6, -1), (1, 0)])
def test_impossible_overlaps_are_refused(length: int, overlap: int) -> None:
    with pytest.raises(UsageError, match="--window-overlap"):
        list(sliding_windows([], Recorder(), length=length, overlap=overlap))
