"""The guard takes back what no sharpening does, and leaves alone what sharpening does."""

from __future__ import annotations

import numpy as np
import pytest

from bsst.runtime.frames.guard import FLOOR, guarded, implausibility


@pytest.fixture(scope="module")
def city() -> np.ndarray:
    from tests.networks import city as frames

    return frames(1, 150, 203)[0]


def test_a_plausible_sharpening_passes_untouched(city: np.ndarray) -> None:
    soft = (city + np.roll(city, 3, 1) + np.roll(city, 3, 2)) / 3
    result, changed = guarded(soft, city)
    assert result is city
    assert not changed


def test_a_burnt_out_patch_becomes_the_source_again_and_the_rest_stays(city: np.ndarray) -> None:
    sharper = np.clip(city + 0.3 * (city - np.roll(city, 1, 2)), 0, 1).astype(np.float32)
    burnt = sharper.copy()
    place = np.s_[:, 32:80, 80:144]
    burnt[place] = np.where(city[place] > 0.5, 0, 1)
    result, changed = guarded(city, burnt)
    assert changed
    assert np.abs(result - city)[place].mean() < 0.02 * np.abs(burnt - city)[place].mean()
    np.testing.assert_array_equal(result[:, 120:, :], sharper[:, 120:, :])
    assert result.shape == city.shape
    assert result.dtype == np.float32


def test_a_whole_frame_of_noise_becomes_the_source(city: np.ndarray) -> None:
    noise = np.random.default_rng(0).random(city.shape).astype(np.float32)
    result, _ = guarded(np.full_like(city, 0.5), noise)
    np.testing.assert_array_equal(result, 0.5)


def test_blocks_are_judged_one_by_one_at_odd_sizes(city: np.ndarray) -> None:
    wrong = city.copy()
    wrong[:, -1, -1] = 5.0
    judged = implausibility(city, wrong)
    assert judged.shape == (10, 13)
    assert judged[-1, -1] > 1
    assert judged[:-1].max() == 0


def test_changes_within_the_floor_are_within_every_limit(city: np.ndarray) -> None:
    sign = np.random.default_rng(0).choice([-1, 1], city.shape)
    for picture in (city, np.full_like(city, 0.4)):
        assert implausibility(picture, (picture + 0.999 * FLOOR * sign).astype(np.float32)).max() <= 1
