from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsst.errors import UsageError
from bsst.runtime.frames.tiles import Axis, TiledFlow, flow_grid, tile_grid

sides = st.integers(1, 150)
tiles = st.tuples(st.sampled_from([32, 48, 64]), st.sampled_from([32, 40, 64]))
overlaps = st.sampled_from([0, 4, 16, 28])
blends = st.sampled_from(["feather", "release"])


@given(sides, sides, tiles, overlaps, blends, st.integers(0, 2**32 - 1))
def test_an_identity_comes_back(height, width, tile, overlap, blend, seed) -> None:
    grid = tile_grid(height, width, tile=tile, overlap=overlap, blend=blend)
    frame = np.random.default_rng(seed).random((3, height, width), dtype=np.float32)
    restored = grid.crop(grid.blend(grid.cut(grid.pad(frame))))
    assert restored.dtype == np.float32
    np.testing.assert_allclose(restored, frame, rtol=0, atol=1e-6)


@given(sides, sides, tiles, overlaps, blends)
def test_weights_sum_to_one_and_do_not_jump(height, width, tile, overlap, blend) -> None:
    grid = tile_grid(height, width, tile=tile, overlap=overlap, blend=blend)
    for axis in (grid.rows, grid.columns):
        total = np.zeros(axis.length)
        for start, weights in zip(axis.starts, axis.weights, strict=True):
            assert weights.min() >= 0
            total[start : start + axis.tile] += weights
            if blend == "feather" and len(axis.starts) == 2 and overlap:
                assert np.abs(np.diff(weights)).max() <= 1.6 / overlap  # slope of a raised cosine is pi / 2
        np.testing.assert_allclose(total, 1, rtol=0, atol=1e-6)


@given(sides, sides, tiles, overlaps)
def test_tiles_are_static_aligned_to_the_flow_grid_and_cover_the_frame(height, width, tile, overlap) -> None:
    grid = tile_grid(height, width, tile=tile, overlap=overlap)
    padded = grid.pad(np.zeros((1, height, width), np.float32))
    assert padded.shape[1:] == grid.padded
    assert all(side % 4 == 0 and 0 <= side - max(least, area) < 4 or side == area
               for side, least, area in zip(grid.padded, (height, width), tile, strict=True))  # fmt: skip
    pieces = list(grid.cut(padded))
    assert len(pieces) == len(grid)
    assert {piece.shape for piece in pieces} == {(1, *tile)}
    assert all(start % 4 == 0 for axis in (grid.rows, grid.columns) for start in axis.starts)
    for axis in (grid.rows, grid.columns):
        assert axis.starts[0] == 0
        assert axis.starts[-1] + axis.tile == axis.length
        assert all(b - a <= axis.tile - overlap for a, b in zip(axis.starts[:-1], axis.starts[1:], strict=True))


@given(sides, sides, tiles, overlaps, blends, st.integers(0, 2**32 - 1))
def test_quarter_scale_maps_follow_the_same_grid(height, width, tile, overlap, blend, seed) -> None:
    grid = tile_grid(height, width, tile=tile, overlap=overlap, blend=blend)
    quarter = grid.scaled(4)
    assert len(quarter) == len(grid)
    assert quarter.padded == (grid.padded[0] // 4, grid.padded[1] // 4)
    flow = np.random.default_rng(seed).random((2, *quarter.padded), dtype=np.float32)
    np.testing.assert_allclose(quarter.blend(quarter.cut(flow)), flow, rtol=0, atol=1e-6)
    full = flow.repeat(4, 1).repeat(4, 2)
    for coarse, fine in zip(quarter.cut(flow), grid.cut(full), strict=True):
        np.testing.assert_array_equal(coarse, fine[:, ::4, ::4])


def test_release_starts_and_averages() -> None:
    rows, columns = (Axis(side, 256, 64, "release") for side in (720, 1280))
    assert rows.starts == (0, 192, 384, 464)
    assert columns.starts == (0, 192, 384, 576, 768, 960, 1024)
    for axis in (rows, columns):
        masks = []
        for start in axis.starts:  # as the specification writes it
            mask = np.zeros(axis.length)
            mask[start + 32 * (start > 0) : start + 256 - 32 * (start < axis.starts[-1])] = 1
            masks.append(mask)
        total = np.sum(masks, axis=0)
        for start, weights, mask in zip(axis.starts, axis.weights, masks, strict=True):
            np.testing.assert_allclose(weights, (mask / total)[start : start + 256], rtol=0, atol=1e-7)
    both = [w[s2 - s : s2 - s + 1] for s, s2, w in ((384, 500, rows.weights[2]), (464, 500, rows.weights[3]))]
    assert [float(w[0]) for w in both] == [0.5, 0.5]


def test_release_blend_equals_the_specified_accumulation() -> None:
    rng = np.random.default_rng(1)
    grid = tile_grid(300, 480, tile=(256, 256), overlap=64, blend="release")
    results = [rng.random((2, 3, 256, 256), dtype=np.float32) for _ in range(len(grid))]
    ys, xs = [0, 44], [0, 192, 224]
    total, weight = np.zeros((2, 3, 300, 480), np.float32), np.zeros((300, 480), np.float32)
    for (y, x), result in zip([(y, x) for y in ys for x in xs], results, strict=True):
        mask = np.ones((256, 256), np.float32)
        if y > ys[0]:
            mask[:32] = 0
        if y < ys[-1]:
            mask[-32:] = 0
        if x > xs[0]:
            mask[:, :32] = 0
        if x < xs[-1]:
            mask[:, -32:] = 0
        total[..., y : y + 256, x : x + 256] += result * mask
        weight[y : y + 256, x : x + 256] += mask
    np.testing.assert_allclose(grid.crop(grid.blend(results)), total / weight, rtol=0, atol=1e-6)


def test_small_frames_are_reflected_and_single_pixels_replicated() -> None:
    grid = tile_grid(1, 3, tile=(8, 8), overlap=0)
    padded = grid.pad(np.array([[[1.0, 2.0, 3.0]]], np.float32))
    assert padded[0].tolist() == [[1, 2, 3, 2, 1, 2, 3, 2]] * 8


@pytest.mark.parametrize(("tile", "overlap"), [((64, 64), 64), ((64, 64), -8), ((64, 64), 6), ((64, 62), 8)])
def test_impossible_tiles_are_refused(tile: tuple[int, int], overlap: int) -> None:
    with pytest.raises(UsageError, match="--tile"):
        tile_grid(100, 100, tile=tile, overlap=overlap)


class Ramp:
    """Flow that a tile can compute exactly from its own pixels: the mean of each 4x4 block, and its negative."""

    def __init__(self) -> None:
        self.calls = 0

    def features(self, frame: np.ndarray) -> np.ndarray:
        self.calls += 1
        return frame[0].reshape(frame.shape[1] // 4, 4, frame.shape[2] // 4, 4).mean(axis=(1, 3))

    def flow(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.stack([a, b]), -np.stack([b, a])


@pytest.mark.parametrize(("size", "overlap", "shared"), [((256, 256), 32, 32), ((128, 256), 64, 32), ((64, 64), 0, 0)])
def test_flow_areas_share_what_tiles_share_but_at_most_a_quarter(
    size: tuple[int, int], overlap: int, shared: int
) -> None:
    grid = flow_grid((720, 1280), size=size, overlap=overlap)
    assert (grid.rows.overlap, grid.columns.overlap) == (shared, shared)
    assert len(grid) == len(tile_grid(720, 1280, tile=size, overlap=shared))


@pytest.mark.parametrize("size", [(64, 96), (64, 64), (160, 256), (200, 96)], ids=str)
def test_tiled_flow_equals_flow_of_the_whole(size: tuple[int, int]) -> None:
    a, b = np.random.default_rng(2).random((2, 3, 128, 200), dtype=np.float32)
    estimator = Ramp()
    tiled = TiledFlow(estimator, size=size, frame=(128, 200), overlap=16)
    backward, forward = tiled.flow(tiled.features(a), tiled.features(b))
    whole = Ramp()
    expected = whole.flow(whole.features(a), whole.features(b))
    assert backward.shape == forward.shape == (2, 32, 50)
    np.testing.assert_allclose(backward, expected[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(forward, expected[1], rtol=0, atol=1e-6)
