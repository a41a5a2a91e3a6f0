"""Two tiny ONNX graphs that show whether a backend samples between pixels as it should.

Stored as bytes, because the runtime has no onnx package. Both move a picture `x` (1, 1, 2, 4) left by half a pixel
with zeros outside, so `y` is the mean of neighbours; a backend that rounds positions, as TensorRT does with GridSample
of opset 20, gives another picture. Made by `tests/engines/doctor/test_checks.py`, which compares them with their text.
"""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray

__all__ = ["DEFORM_CONV", "EXPECTED", "GRID_SAMPLE", "deform_conv_inputs", "grid_sample_inputs"]

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
