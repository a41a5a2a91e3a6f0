"""Comparisons count what they say: decibels, means of the protocol, broken values, drift, and the budgets on top."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bsst.calibration.parity import compare as parity
from bsst.calibration.parity.budget import Budgets, default_budgets, verdict
from bsst.calibration.parity.compare import Comparison, Footage, FrameFigures, Score, Tiling, compare, skimage_ssim
from bsst.calibration.parity.datasets import ClipFolder, read_image, read_layout
from bsst.calibration.parity.footage import dataset_footages, video_footage, worst_clip
from bsst.calibration.parity.stages import StageError, StageFigures
from bsst.errors import InputError
from bsst.runtime.metrics import psnr, ssim, to_uint8
from tests.golden_inputs import video
from tests.media import Identity
from tests.networks import CITY

DATA = Path(__file__).parents[2] / "data"
STAGES = tuple(
    StageFigures(name=name, isolated=StageError(psnr), accumulated=StageError(10), steps=(), worst_inputs={})
    for name, psnr in (("encode", 120.0), ("decode", 90.0))
)
LOOSE = Budgets(psnr=10, loss=1, stage=10)


class Offset(Identity):
    """Adds something to every restored clip (T, 3, h, w)."""

    def __init__(self, change: Callable[[np.ndarray], np.ndarray], **sizes: tuple[int, int] | int) -> None:
        super().__init__(**sizes)  # type: ignore[arg-type]
        self._change = change

    def restore(self, clip: np.ndarray, backward: np.ndarray, forward: np.ndarray) -> np.ndarray:
        return self._change(super().restore(clip, backward, forward))


def footage(count: int = 7, *, size: tuple[int, int] = (50, 70), **changes: object) -> Footage:
    frames = video(count, *size, seed=4).astype(np.float32) * np.float32(0.5) + np.float32(0.25)
    values = {
        "clip": "a",
        "start": 0,
        "count": count,
        "blurry": lambda: iter(frames),
        "sharp": lambda: iter(to_uint8(frames * np.float32(0.9))),
        "keep": slice(0, count),
    }
    return Footage(**{**values, **changes})  # type: ignore[arg-type]


def test_equal_sides_differ_by_nothing() -> None:
    result = compare([footage()], Identity(), Identity())
    assert result.psnr == 200
    assert result.ssim == pytest.approx(1, abs=1e-6)
    assert result.drift == pytest.approx(0, abs=1e-9)
    assert result.not_finite == {"plan": 0, "reference": 0}
    assert len(result.frames) == 7


def test_a_difference_too_small_for_eight_bits_is_measured() -> None:
    result = compare([footage()], Offset(lambda clip: clip + np.float32(1e-4)), Identity())
    assert result.psnr == pytest.approx(80, abs=0.05)
    assert max(frame.largest for frame in result.frames) == pytest.approx(1e-4, rel=0.01)


def test_scores_are_the_published_metrics_of_each_frame() -> None:
    clip = footage(5)
    result = compare([clip], Offset(lambda x: x * np.float32(0.95)), Identity())
    frames, truth = list(clip.blurry()), list(clip.sharp())  # type: ignore[misc]
    for figure, frame, sharp in zip(result.frames, frames, truth, strict=True):
        image, plan = to_uint8(frame), to_uint8(frame * np.float32(0.95))
        for kind, restored in (("input", image), ("reference", image), ("plan", plan)):
            score = figure.scores[kind]  # type: ignore[index]
            assert score.psnr == psnr(restored, sharp)
            assert score.ssim == ssim(restored, sharp)
            assert score.ssim_skimage == skimage_ssim(restored, sharp)
        assert figure.scores["plan"].psnr > figure.scores["input"].psnr


GOLDEN_CLASSIC = [(0.002, 0.996629350722702), (0.01, 0.9510246525126679), (0.05, 0.47458236040229734)]


def test_scikit_image_ssim_equals_the_classic_golden_values() -> None:
    frames = video(3, 96, 120, seed=3).astype(np.float64)
    rng = np.random.Generator(np.random.PCG64(5))
    for frame, (sigma, expected) in zip(frames, GOLDEN_CLASSIC, strict=True):
        noise = rng.standard_normal((96, 120, 3)).transpose(2, 0, 1)
        got = skimage_ssim(to_uint8(frame), to_uint8(np.clip(frame + sigma * noise, 0, 1)))
        assert got == pytest.approx(expected, abs=1e-6)


def test_both_means_are_taken_as_published() -> None:
    def frame(start: int, index: int, value: float | None) -> FrameFigures:
        scores = {} if value is None else dict.fromkeys(parity.KINDS, Score(value, value / 100, 0.5))
        return FrameFigures(clip="a", start=start, index=index, error=1e-8, largest=0, ssim=1, scores=scores)

    frames = [frame(0, i, 30.0) for i in range(4)] + [frame(0, 4, None), frame(2, 2, None), frame(2, 3, 20.0)]
    result = Comparison(frames=tuple(frames), worst=None, not_finite={})  # type: ignore[arg-type]
    assert result.scores("plan", mean="frames") == Score(28.0, pytest.approx(0.28), 0.5)  # type: ignore[arg-type]
    assert result.scores("plan", mean="sub-sequences") == Score(25.0, 0.25, 0.5)


def test_frames_outside_keep_are_compared_but_not_scored() -> None:
    result = compare([footage(7, keep=slice(2, 5))], Identity(), Identity())
    assert [bool(frame.scores) for frame in result.frames] == [False, False, True, True, True, False, False]
    without = compare([footage(4, sharp=None)], Identity(), Identity())
    assert without.scores("plan", mean="frames") is None
    assert without.worst.sharp is None


def test_broken_values_are_counted_on_the_side_that_made_them() -> None:
    def poison(clip: np.ndarray) -> np.ndarray:
        clip[1, 2, 3, 4:6] = np.nan, np.inf
        return clip

    sizes = {"frames": 4, "window_overlap": 0, "tile": (64, 128), "flow_size": (64, 128)}
    result = compare([footage(8)], Offset(poison, **sizes), Identity(**sizes))
    assert result.not_finite == {"plan": 4, "reference": 0}
    assert not verdict(result, STAGES, LOOSE)[2].within
    assert compare([footage(8)], Identity(**sizes), Offset(poison, **sizes)).not_finite == {"plan": 0, "reference": 4}


def test_drift_is_the_slope_over_frames_and_the_worst_frame_is_found() -> None:
    def fade(clip: np.ndarray) -> np.ndarray:
        return clip + np.float32(1e-4) * 10 ** (np.arange(len(clip), dtype=np.float32) / 10)[:, None, None, None]

    sizes = {"frames": 8, "tile": (64, 128), "flow_size": (64, 128)}
    result = compare([footage(8)], Offset(fade, **sizes), Identity(**sizes))
    assert result.drift == pytest.approx(-2, abs=0.02)
    assert result.worst.figures.index == 7
    np.testing.assert_allclose(result.worst.plan - result.worst.reference, 1e-4 * 10**0.7, rtol=0.02)


def test_the_worst_window_holds_the_worst_pixel_of_the_worst_frame() -> None:
    frames = np.random.default_rng(0).random((9, 3, 150, 170), dtype=np.float32)

    def mark(clip: np.ndarray) -> np.ndarray:
        hit = np.abs(clip - frames[6, :, 120, 20][:, None, None]).max(axis=1) < 1e-6
        return clip + hit[:, None] * np.float32(0.2)

    sizes = {"frames": 4, "tile": (64, 64), "flow_size": (64, 96)}
    clip = footage(9, sharp=None, blurry=lambda: iter(frames))
    result = compare([clip], Offset(mark, **sizes), Identity(**sizes))
    assert result.worst.figures.index == 6
    got = worst_clip(result.worst, frames=4, size=(64, 96))
    np.testing.assert_array_equal(got, frames[5:9, :, 86:150, 0:96])
    small = worst_clip(result.worst, frames=16, size=(192, 64))
    assert small.shape == (16, 3, 192, 64)
    np.testing.assert_array_equal(small[:9, :, :150], frames[:, :, :, 0:64])
    np.testing.assert_array_equal(small[9], small[8])


def test_released_tiling_changes_only_how_tiles_are_joined() -> None:
    clip = footage(5, size=(100, 130))
    tiling = Tiling(tile_overlap=32, blend="release", scene_cuts=False)
    assert compare([clip], Identity(), Identity(), tiling=tiling).scores("plan", mean="frames") == compare(
        [clip], Identity(), Identity()
    ).scores("plan", mean="frames")


def test_ground_truth_that_does_not_pair_up_is_refused() -> None:
    def shortened(count: int) -> Callable[[], Iterator[np.ndarray]]:
        return lambda: iter(np.zeros((count, 3, 50, 70), np.uint8))

    for count, message in ((6, "got fewer"), (8, "got more")):
        with pytest.raises(InputError, match=message):
            compare([footage(7, sharp=shortened(count))], Identity(), Identity())
    wrong = footage(7, sharp=lambda: iter(np.zeros((7, 3, 50, 60), np.uint8)))
    with pytest.raises(InputError, match="ground truth of 50x70, got 50x60"):
        compare([wrong], Identity(), Identity())


def test_a_video_is_read_from_its_start_each_time_and_cut_to_the_limit() -> None:
    clip = video_footage(CITY, CITY.with_name("city_sharp.mp4"), limit=3)
    assert clip.count == 3
    assert len(list(clip.blurry())) == len(list(clip.blurry())) == len(list(clip.sharp())) == 3  # type: ignore[misc]
    assert video_footage(CITY).count == 28
    assert video_footage(CITY).sharp is None
    with pytest.raises(InputError, match="nothing.mp4"):
        video_footage(CITY, CITY.with_name("nothing.mp4"))


def test_a_folder_of_pictures_is_footage_like_a_video() -> None:
    root = next((DATA / "gopro" / "test" / "blur").iterdir())
    clip = video_footage(root, DATA / "gopro" / "test" / "GT" / root.name, limit=2)
    (blurry, second), sharp = clip.blurry(), list(clip.sharp())  # type: ignore[misc]
    expected = read_image(sorted(root.iterdir())[0])
    assert (clip.clip, clip.count, len(sharp)) == (root.name, 2, 2)
    np.testing.assert_allclose(blurry * 255, expected, atol=1e-3)
    assert np.abs(second - blurry).max() > 0


@pytest.mark.dvd
def test_data_sets_become_one_footage_per_sub_sequence() -> None:
    clips = read_layout(DATA / "dvd")
    parts = dataset_footages(clips)
    assert [(part.start, part.count, part.keep) for part in parts] == [(0, 48, slice(2, 46)), (3, 48, slice(43, 46))]
    first = next(parts[1].blurry())
    assert first.dtype == np.float32
    np.testing.assert_array_equal(to_uint8(first), parity_image(clips[0], 3))
    assert [part.count for part in dataset_footages(clips, limit=6)] == [6]


def parity_image(clip: ClipFolder, index: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(clip.blurry[index])).transpose(2, 0, 1)


def test_budgets_are_judged_one_by_one() -> None:
    darker = Offset(lambda x: x - np.float32(0.002))  # away from the ground truth or towards it, 54 dB from its source
    result = compare([footage()], darker, Identity())
    lost = result.scores("reference", mean="frames").psnr - result.scores("plan", mean="frames").psnr  # type: ignore[union-attr]
    by_name = {check.name: check for check in verdict(result, STAGES, Budgets(psnr=50, loss=lost + 0.01, stage=0))}
    assert all(check.within for check in by_name.values())
    assert len(by_name) == 5
    assert not all(check.within for check in verdict(result, STAGES, Budgets(psnr=60, loss=9, stage=0)))
    assert not all(check.within for check in verdict(result, STAGES, Budgets(psnr=50, loss=lost - 0.01, stage=0)))
    stage_checks = [verdict(result, STAGES, Budgets(psnr=0, loss=9, stage=limit))[1] for limit in (80, 91)]
    assert [check.within for check in stage_checks] == [True, False]
    assert "decode" in stage_checks[0].name
    changed = dataclasses.replace(STAGES[0], isolated=StageError(200, entries_changed=2))
    for exact in (True, False):
        judged = verdict(result, (changed,), Budgets(psnr=0, loss=9, stage=80, exact_tables=exact))
        assert all(check.within for check in judged) is not exact
    perfect = compare([footage(sharp=lambda: map(to_uint8, footage().blurry()))], Identity(), Identity())
    assert math.isinf(perfect.scores("plan", mean="frames").psnr)  # type: ignore[union-attr]
    assert all(check.within for check in verdict(perfect, STAGES, Budgets(psnr=80, loss=0, stage=80)))


def test_default_budgets_are_the_published_ones() -> None:
    assert default_budgets("fp32", ground_truth=True).psnr == 80
    assert default_budgets("fp16", ground_truth=True) == Budgets(psnr=50, loss=0.02, stage=40, exact_tables=False)
    assert default_budgets("int8", ground_truth=False).psnr == 45
    assert default_budgets("int8", ground_truth=True).loss == 0.1
