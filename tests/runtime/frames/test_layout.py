"""Frames as callers have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import bsst
from bsst.errors import InputError
from tests.media import Identity

CODES = np.random.default_rng(5).integers(0, 256, (7, 50, 66, 3), dtype=np.uint8)


@pytest.mark.parametrize("planar", [False, True], ids=["HWC", "CHW"])
def test_uint8_comes_back_as_uint8_in_the_same_layout(planar: bool) -> None:
    frames = [np.ascontiguousarray(f.transpose(2, 0, 1)) if planar else f for f in CODES]
    out = list(bsst.deblur_frames(frames, Identity()))
    assert all(o.dtype == np.uint8 and np.array_equal(o, f) for o, f in zip(out, frames, strict=True))


def test_a_caller_who_fills_one_buffer_again_gets_the_frames_of_one_who_does_not() -> None:
    planes = CODES.transpose(0, 3, 1, 2) / np.float32(255)

    def refilled() -> Iterator[np.ndarray]:
        buffer = np.empty_like(planes[0])
        for frame in planes:
            buffer[:] = frame
            yield buffer

    expected = list(bsst.deblur_frames(list(planes), Identity()))
    np.testing.assert_array_equal(list(bsst.deblur_frames(refilled(), Identity())), expected)


@pytest.mark.parametrize(
    "frame",
    [
        CODES[0].tolist(),
        CODES[0, ..., 0],
        CODES[None, 0],
        np.zeros((4, 50, 66), np.float32),
        np.zeros((50, 66, 3), np.float32),
        np.full((3, 50, 66), 200, np.float32),
        np.zeros((3, 50, 66), np.int32),
        np.zeros((3, 0, 0), np.float32),
        np.zeros((50, 66, 4), np.uint8),
    ],
    ids=["list", "grey", "batch", "rgba", "float-hwc", "0-255", "int", "empty", "uint8-rgba"],
)
def test_anything_else_is_refused_in_one_sentence_that_says_what_is_wanted(frame: Any) -> None:
    with pytest.raises(InputError, match=r"expected \(3, H, W\) float32 RGB in \[0, 1\]"):
        list(bsst.deblur_frames([frame] * 3, Identity()))
