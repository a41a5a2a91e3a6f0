from __future__ import annotations

from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from hypothesis import given
from hypothesis import strategies as st

from bsst.runtime.video.colour import Encoding, luma_from_planes, matrix_from_tag, planes_from_rgb, rgb_from_planes
from tests.media import photograph

encodings = st.builds(
    Encoding,
    matrix=st.sampled_from(["bt601", "bt709", "bt2020", "smpte240m", "fcc"]),
    full_range=st.booleans(),
    bits=st.sampled_from([8, 9, 10, 12, 14, 16]),
    subsampling=st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2), (1, 4), (4, 4)]),
)


@given(encodings, st.integers(1, 33), st.integers(1, 33), st.integers(0, 2**32 - 1))
def test_any_code_values_return_exactly(encoding: Encoding, height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    planes = tuple(
        rng.integers(0, 2**encoding.bits, shape).astype(encoding.dtype)
        for shape in encoding.plane_shapes(height, width)
    )
    for before, after in zip(planes, planes_from_rgb(rgb_from_planes(planes, encoding), encoding), strict=True):
        assert after.dtype == encoding.dtype
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("full", [True, False], ids=["full", "limited"])
@pytest.mark.parametrize(("matrix", "tag"), [("bt601", 5), ("bt709", 1), ("bt2020", 9), ("smpte240m", 7), ("fcc", 4)])
def test_rgb_equals_swscale(matrix: str, tag: int, full: bool) -> None:
    colour_range = 2 if full else 1
    rgb = photograph()[:128, 100:228]
    yuv = VideoReformatter().reformat(
        av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb)), format="yuv444p", dst_colorspace=tag,
        dst_color_range=colour_range,
    )  # fmt: skip
    expected = VideoReformatter().reformat(
        yuv, format="gbrpf32le", src_colorspace=tag, dst_colorspace=tag, src_color_range=colour_range, dst_color_range=2
    )
    encoding = Encoding(matrix=matrix, full_range=full, bits=8, subsampling=(1, 1))
    ours = rgb_from_planes(tuple(yuv.to_ndarray()), encoding)
    assert np.abs(ours.clip(0, 1) - expected.to_ndarray().transpose(2, 0, 1)).max() < 1.1 / 255
    assert np.abs(ours - rgb.transpose(2, 0, 1) / 255).max() < 2.5 / 255
    np.testing.assert_allclose(np.stack(planes_from_rgb(ours, encoding)), yuv.to_ndarray(), atol=0)


@pytest.mark.parametrize(
    ("matrix", "full", "bits", "rgb", "codes"),
    [
        ("bt709", False, 8, (1, 1, 1), (235, 128, 128)),
        ("bt709", False, 8, (0, 0, 0), (16, 128, 128)),
        ("bt709", False, 10, (1, 1, 1), (940, 512, 512)),
        ("bt709", True, 8, (1, 1, 1), (255, 128, 128)),
        ("bt601", False, 8, (1, 0, 0), (81, 90, 240)),
        ("bt709", False, 8, (1, 0, 0), (63, 102, 240)),
        ("bt709", False, 8, (0, 0, 1), (32, 240, 118)),
        ("bt2020", False, 10, (1, 0, 0), (294, 387, 960)),
        ("rgb", True, 10, (1, 0, 0.5), (1023, 0, 512)),
    ],
)
def test_standard_colours(matrix: str, full: bool, bits: int, rgb: tuple, codes: tuple) -> None:
    encoding = Encoding(matrix=matrix, full_range=full, bits=bits, subsampling=(1, 1))
    pixel = np.array(rgb, np.float32).reshape(3, 1, 1)
    assert [int(plane[0, 0]) for plane in planes_from_rgb(pixel, encoding)] == list(codes)


def test_a_wrong_matrix_is_visible() -> None:
    red = [np.full((1, 1), value, np.uint8) for value in (81, 90, 240)]
    right, wrong = (
        rgb_from_planes(tuple(red), Encoding(matrix=matrix, full_range=False, bits=8, subsampling=(1, 1)))
        for matrix in ("bt601", "bt709")
    )
    assert np.abs(right - wrong).max() * 255 > 20


@pytest.mark.parametrize(
    ("tag", "lines", "matrix"),
    [
        (1, 480, "bt709"),
        (5, 1080, "bt601"),
        (6, 1080, "bt601"),
        (9, 480, "bt2020"),
        (2, 719, "bt601"),
        (2, 720, "bt709"),
    ],
)
def test_tags_win_and_untagged_video_follows_its_lines(tag: int, lines: int, matrix: str) -> None:
    assert matrix_from_tag(tag, lines=lines) == matrix


@pytest.mark.parametrize("matrix", ["rgb", "bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2), (1, 4)])
@pytest.mark.parametrize("step", [1, 3])
def test_luma_alone_is_that_of_the_colours(matrix: Any, subsampling: tuple[int, int], step: int) -> None:
    subsampling = (1, 1) if matrix == "rgb" else subsampling
    encoding = Encoding(matrix=matrix, full_range=False, bits=10, subsampling=subsampling)
    generator = np.random.default_rng(3)
    planes = tuple(generator.integers(0, 1024, shape).astype(np.uint16) for shape in encoding.plane_shapes(37, 51))
    wanted = np.tensordot([0.2126, 0.7152, 0.0722], rgb_from_planes(planes, encoding)[:, ::step, ::step], 1)
    np.testing.assert_allclose(luma_from_planes(planes, encoding, step=step), wanted, atol=2e-6)
