"""Tiny ONNX graphs that show whether a backend samples between pixels and adds up channels as it should.

Stored as bytes, because the runtime has no onnx package. Two move a picture `x` (1, 1, 2, 4) left by half a pixel
with zeros outside, so `y` is the mean of neighbours; a backend that rounds positions, as TensorRT does with GridSample
of opset 20, gives another picture. One is a convolution of any number of channels, of which WebGPU's gives a wrong
picture where they are divisible by 3 and not by 4. Made by
`tests/engines/doctor/test_checks.py`, which compares them with their text.
"""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CONV",
    "DEFORM_CONV",
    "EXPECTED",
    "GRID_SAMPLE",
    "conv_expected",
    "conv_inputs",
    "deform_conv_inputs",
    "grid_sample_inputs",
]

DEFORM_CONV = base64.b64decode(
    "CAk6qgEKMQoBeAoBdwoBcBIBeSIKRGVmb3JtQ29udioVCgxrZXJuZWxfc2hhcGVAAUABoAEHOgASAWdaGwoBeBIWChQIARIQCgIIAQoCCAEKAggC"
    "CgIIBFobCgF3EhYKFAgBEhAKAggBCgIIAQoCCAEKAggBWhsKAXASFgoUCAESEAoCCAEKAggCCgIIAgoCCARiGwoBeRIWChQIARIQCgIIAQoCCAEK"
    "AggCCgIIBEIECgAQEw=="
)
"""Inputs x, w, p."""
GRID_SAMPLE = base64.b64decode(
    "CAk6uAEKXAoBeAoBcBIBeSIKR3JpZFNhbXBsZSoTCgRtb2RlIghiaWxpbmVhcqABAyoYCgxwYWRkaW5nX21vZGUiBXplcm9zoAEDKhQKDWFsaWdu"
    "X2Nvcm5lcnMYAaABAjoAEgFnWhsKAXgSFgoUCAESEAoCCAEKAggBCgIIAgoCCARaGwoBcBIWChQIARIQCgIIAQoCCAIKAggECgIIAmIbCgF5EhYK"
    "FAgBEhAKAggBCgIIAQoCCAIKAggEQgQKABAT"
)
"""Inputs x, p."""
CONV = base64.b64decode(
    "CAk6ggEKJAoBeAoBdxIBeSIEQ29udioRCgRwYWRzQABAAUAAQAGgAQc6ABIBZ1ocCgF4EhcKFQgBEhEKAggBCgMSAUMKAggCCgIIBFocCgF3EhcK"
    "FQgBEhEKAggECgMSAUMKAggBCgIIA2IbCgF5EhYKFAgBEhAKAggBCgIIBAoCCAIKAggEQgQKABAT"
)
"""Inputs x (1, C, 2, 4), w (4, C, 1, 3); one pixel of zeros at the left and at the right."""

_PICTURE = np.array([[[[1, 2, 4, 8], [16, 32, 64, 128]]]], np.float32)
EXPECTED = np.array([[[[1.5, 3, 6, 4], [24, 48, 96, 64]]]], np.float32)
"""Mean of each pixel and its right neighbour, which is zero at the border."""


def deform_conv_inputs() -> dict[str, NDArray[np.float32]]:
    """A 1x1 kernel of weight one, moved by (0, 0.5) pixels."""
    offset = np.zeros((1, 2, 2, 4), np.float32)
    offset[:, 1] = 0.5
    return {"x": _PICTURE, "w": np.ones((1, 1, 1, 1), np.float32), "p": offset}


def grid_sample_inputs() -> dict[str, NDArray[np.float32]]:
    """Positions of the pixels plus (0, 0.5), normalised so that the outer pixels lie at -1 and 1."""
    rows, columns = np.mgrid[0:2, 0:4].astype(np.float32)
    grid = np.stack([(columns + 0.5) * 2 / 3 - 1, rows * 2 - 1], -1)[None]
    return {"x": _PICTURE, "p": grid}


def conv_inputs(channels: int) -> dict[str, NDArray[np.float32]]:
    """Pixels and weights that differ everywhere."""
    x = np.arange(channels * 8, dtype=np.float32).reshape(1, channels, 2, 4) % 7 - 3
    w = np.arange(channels * 12, dtype=np.float32).reshape(4, channels, 1, 3) % 5 - 2
    return {"x": x, "w": w}


def conv_expected(inputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """(1, 4, 2, 4): sums of products of small whole numbers, exact."""
    x = np.pad(inputs["x"], [(0, 0), (0, 0), (0, 0), (1, 1)])
    shifted = np.stack([x[0, :, :, tap : tap + 4] for tap in range(3)], -1)  # (C, 2, 4, 3)
    return np.einsum("chwk,ock->ohw", shifted, inputs["w"][:, :, 0])[None]
