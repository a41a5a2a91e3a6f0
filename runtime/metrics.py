"""PSNR and SSIM exactly as the released evaluation computes them, on 8-bit RGB images; PSNR of floating point beside.

8 bits hide what is beyond about 59 dB, so results of one network on two devices are compared with `float_psnr`.

Source: BasicSR-style metrics of the released BSSTNet code; its SSIM filters across the colour axis too, so published
SSIM values are comparable to this function only, not to the classic per-channel SSIM.
"""

from __future__ import annotations

import numpy as np

from bsst.errors import UsageError

__all__ = ["decibels", "float_psnr", "psnr", "ssim", "to_uint8"]

SIGMA = 1.5
RADIUS = 6  # 4 sigma
C1, C2 = np.float32(0.01**2), np.float32(0.03**2)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Float image in [0, 1], any shape -> uint8: clamped, times 255, rounded half to even."""
    return np.asarray(np.rint(np.clip(image, 0, 1) * 255), np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 images of one shape, over all pixels and channels jointly.

    Returns:
        dB; infinity for identical images.

    Raises:
        UsageError: images that are not uint8 or differ in shape.
    """
    _check(a, b)
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def float_psnr(expected: np.ndarray, got: np.ndarray, peak: float) -> float:
    """Peak signal-to-noise ratio in dB of two arrays of any one shape, at most 200; NaN if either is not finite."""
    return decibels(float(np.mean(np.square(np.subtract(expected, got, dtype=np.float64)))), peak)


def decibels(error: float, peak: float = 1) -> float:
    """Mean square error of values with a peak -> PSNR in dB, at most 200."""
    return 10 * float(np.log10(peak**2 / max(error, peak**2 * 1e-20)))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of two uint8 images (3, H, W), in float32, filtered over all three axes.

    Raises:
        UsageError: images that are not uint8 or differ in shape.
    """
    _check(a, b)
    x, y = (image.astype(np.float32) / np.float32(255) for image in (a, b))
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x * mean_x
    variance_y = _blur(y * y) - mean_y * mean_y
    covariance = _blur(x * y) - mean_x * mean_y
    similarity = ((2 * mean_x * mean_y + C1) * (2 * covariance + C2)) / (
        (mean_x**2 + mean_y**2 + C1) * (variance_x + variance_y + C2)
    )
    return float(similarity.mean())


def _check(a: np.ndarray, b: np.ndarray) -> None:
    if a.dtype != np.uint8 or b.dtype != np.uint8 or a.shape != b.shape:
        raise UsageError(
            f"expected two uint8 images of one shape, got {a.dtype} {a.shape} and {b.dtype} {b.shape}; see to_uint8"
        )


def _blur(image: np.ndarray) -> np.ndarray:
    """Gaussian filter along every axis of a float32 array; edges are mirrored with the edge pixel repeated."""
    offsets = np.arange(-RADIUS, RADIUS + 1)
    kernel = np.exp(-0.5 * (offsets / SIGMA) ** 2)
    kernel /= kernel.sum()
    for axis in range(image.ndim):
        pad = [(RADIUS, RADIUS) if i == axis else (0, 0) for i in range(image.ndim)]
        padded = np.pad(image, pad, mode="symmetric")
        size = image.shape[axis]
        taps = (weight * np.take(padded, np.arange(k, k + size), axis) for k, weight in enumerate(kernel))
        image = sum(taps, np.zeros(image.shape)).astype(np.float32)
    return image
