"""Cuts on photographs: different pictures are cuts; motion, light and noise within one are not."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from skimage.transform import resize

from bsst.runtime.frames.scenes import mark_cuts
from bsst.runtime.frames.windows import SourceFrame
from tests.media import photograph

NAMES = ("astronaut", "coffee", "chelsea", "rocket", "retina", "immunohistochemistry")


def _scene(name: str) -> np.ndarray:
    """(3, 320, 480) float32 in [0, 1]."""
    return np.ascontiguousarray(resize(photograph(name), (320, 480)).astype(np.float32).transpose(2, 0, 1))


@pytest.fixture(scope="module")
def scenes() -> dict[str, np.ndarray]:
    return {name: _scene(name) for name in NAMES}


def _pan(scene: np.ndarray, step: int, count: int) -> list[np.ndarray]:
    return [scene[:, 40:280, t * step % 160 : t * step % 160 + 320] for t in range(count)]


def _cuts(frames: list[np.ndarray]) -> list[int]:
    return [index for index, frame in enumerate(mark_cuts(map(SourceFrame, frames))) if frame.cut]


def test_every_pair_of_photographs_is_a_cut(scenes: dict[str, np.ndarray]) -> None:
    for a, b in combinations(NAMES, 2):
        assert _cuts([*_pan(scenes[a], 4, 9), *_pan(scenes[b], 4, 5)]) == [9], (a, b)


@pytest.mark.parametrize("step", [0, 3, 16, 32])
def test_a_pan_is_not_a_cut(scenes: dict[str, np.ndarray], step: int) -> None:
    for name in NAMES:
        assert _cuts(_pan(scenes[name], step, 160 // max(step, 20))) == [], name


def test_a_shaken_camera_is_not_a_cut(scenes: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    for name in NAMES:
        offsets = rng.integers(0, 40, (20, 2))
        frames = [scenes[name][:, 20 + y : 260 + y, 40 + x : 360 + x] for y, x in offsets]
        assert _cuts(frames) == [], name


def test_flashes_fades_and_noise_are_not_cuts(scenes: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    for name in NAMES:
        frames = _pan(scenes[name], 2, 12)
        frames[5] = np.clip(frames[5] * 1.6 + 0.1, 0, 1)
        frames[9:] = [frame * factor for frame, factor in zip(frames[9:], (0.8, 0.5, 0.25), strict=True)]
        noisy = [(frame + rng.normal(0, 0.04, frame.shape)).astype(np.float32) for frame in frames]
        assert _cuts(noisy) == [], name


def test_cuts_in_quick_succession_are_all_found(scenes: dict[str, np.ndarray]) -> None:
    shown = [scenes[name] for name in ("astronaut", "retina", "rocket", "coffee") for _ in range(2)]
    assert _cuts(shown) == [2, 4, 6]


def test_flat_and_tiny_frames_have_a_score_and_are_no_cuts() -> None:
    frame = np.full((3, 2, 3), 0.25, np.float32)
    with np.errstate(all="raise"):
        assert _cuts([frame, frame, 1 - frame, frame - 1, frame + 7]) == []
