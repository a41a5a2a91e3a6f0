"""Frames as GPUs give them, NV12 and P010, mean the same RGB as the planar frames that software decoders give."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from bsst.runtime.job import deblur
from bsst.runtime.jobs.options import OutputFormat
from bsst.runtime.video.colour import Encoding, rgb_from_planes
from bsst.runtime.video.frame import frame_to_rgb, is_interleaved, plane_format
from bsst.runtime.video.reader import VideoReader
from tests.media import Clip, Identity

RANDOM = np.random.default_rng(5)


def frame_of(planes: list[np.ndarray], name: str, width: int, height: int) -> av.VideoFrame:
    """A frame whose rows end in garbage, as rows of real decoders do."""
    frame = av.VideoFrame(width, height, name)
    for plane, samples in zip(frame.planes, planes, strict=True):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size).view(samples.dtype)
        rows[...] = 77
        rows[: samples.shape[0], : samples.shape[1]] = samples
    return frame


@pytest.mark.parametrize("full_range", [True, False], ids=["full", "limited"])
@pytest.mark.parametrize("size", [(96, 128), (97, 131), (2, 3)], ids=str)
@pytest.mark.parametrize(("name", "bits", "empty"), [("nv12", 8, 0), ("p010le", 10, 6)])
def test_interleaved_frames_give_exactly_the_rgb_of_planar_ones(
    name: str, bits: int, empty: int, size: tuple[int, int], full_range: bool
) -> None:
    encoding = Encoding(matrix="bt709", full_range=full_range, bits=bits, subsampling=(2, 2))
    planes = [RANDOM.integers(0, 2**bits, shape).astype(encoding.dtype) for shape in encoding.plane_shapes(*size)]
    both = np.stack(planes[1:], axis=2).reshape(planes[1].shape[0], -1)
    interleaved = frame_of([planes[0] << empty, both << empty], name, size[1], size[0])
    planar = frame_of(planes, plane_format(encoding), size[1], size[0])
    assert is_interleaved(interleaved, encoding)
    assert not is_interleaved(planar, encoding)
    got, same = (frame_to_rgb(frame, encoding, VideoReformatter()) for frame in (interleaved, planar))
    np.testing.assert_array_equal(got, rgb_from_planes((planes[0], planes[1], planes[2]), encoding))
    np.testing.assert_array_equal(got, same)


@pytest.mark.parametrize(
    ("name", "bits", "subsampling"), [("nv12", 10, (2, 2)), ("p016le", 12, (2, 2)), ("p010le", 10, (1, 2))]
)
def test_frames_that_store_something_else_are_not_taken_for_it(
    name: str, bits: int, subsampling: tuple[int, int]
) -> None:
    encoding = Encoding(matrix="bt709", full_range=False, bits=bits, subsampling=subsampling)
    assert not is_interleaved(av.VideoFrame(64, 48, name), encoding)


@pytest.mark.parametrize(
    ("name", "size"),
    [("yuv411p", (50, 70)), ("yuv410p", (50, 70)), ("gbrap16le", (48, 64)), ("yuv420p", (47, 9)), ("gbrp", (40, 1))],
    ids=str,
)
def test_rare_layouts_and_sizes_lose_no_sample(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    recipe = Clip(suffix=".nut", codec="rawvideo", pixel_format=name, size=size, times=(0, 512))
    source = recipe.write(tmp_path / "clip")
    deblur(source, tmp_path / "out.mkv", Identity(in_flight=1), output_format=OutputFormat(lossless=True))
    with av.open(str(source)) as raw, VideoReader(source) as before, VideoReader(tmp_path / "out.mkv") as after:
        for frame, read, written in zip(raw.decode(video=0), before, after, strict=True):
            dtype = np.uint16 if name.endswith("16le") else np.uint8
            planes = [
                np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size).view(dtype)[:, : plane.width]
                for plane in frame.planes[:3]
            ]
            stored = planes if name.startswith("yuv") else [planes[2], planes[0], planes[1]]
            assert all(np.array_equal(*pair) for pair in zip(stored, read.planes, strict=True))
            assert all(np.array_equal(*pair) for pair in zip(stored, written.planes, strict=True))
