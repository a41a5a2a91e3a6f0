"""Values of the released metric code for three reproducible image pairs; tolerances as published with them."""

from __future__ import annotations

import numpy as np
import pytest

from bsst.errors import UsageError
from bsst.runtime.metrics import psnr, ssim, to_uint8
from tests.golden_inputs import video

GOLDEN = [
    (0.002, 51.83480832504532, 0.9994063973426819),
    (0.01, 39.918053371605964, 0.9908148646354675),
    (0.05, 26.03373014534923, 0.8520841598510742),
]


@pytest.fixture(scope="module")
def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    frames = video(3, 96, 120, seed=3).astype(np.float64)
    rng = np.random.Generator(np.random.PCG64(5))
    noisy = []
    for frame, (sigma, _, _) in zip(frames, GOLDEN, strict=True):
        noise = rng.standard_normal((96, 120, 3)).transpose(2, 0, 1)
        noisy.append(np.clip(frame + sigma * noise, 0, 1))
    return [(to_uint8(a), to_uint8(b)) for a, b in zip(frames, noisy, strict=True)]


@pytest.mark.parametrize("index", range(3))
def test_metrics_equal_the_released_ones(pairs: list[tuple[np.ndarray, np.ndarray]], index: int) -> None:
    a, b = pairs[index]
    assert psnr(a, b) == pytest.approx(GOLDEN[index][1], abs=1e-6)
    assert ssim(a, b) == pytest.approx(GOLDEN[index][2], abs=1e-5)
    assert psnr(b, a) == psnr(a, b)
    assert ssim(b[::-1], a[::-1]) == pytest.approx(ssim(a, b), abs=1e-6)


def test_identical_images_are_perfect(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    image = pairs[0][0]
    assert psnr(image, image) == float("inf")
    assert ssim(image, image) == pytest.approx(1, abs=1e-6)


def test_eight_bits_round_half_to_even_after_clamping() -> None:
    assert to_uint8(np.array([-1, 0.5 / 255, 1.5 / 255, 2.5 / 255, 2.0])).tolist() == [0, 0, 2, 2, 255]


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_other_images_are_refused(metric) -> None:
    image = np.zeros((3, 8, 8), np.uint8)
    for other in (image.astype(np.float32), image[:, :7]):
        with pytest.raises(UsageError, match="to_uint8"):
            metric(image, other)
