"""Two restorers on the same clips: how far apart they are, and how close each is to the ground truth.

Differences are measured on restored frames as floating point, limited to [0, 1], because 8 bits hide everything beyond
about 59 dB. Scores against ground truth follow the published protocol: 8-bit RGB, mean over frames, and the mean of the
means of sub-sequences, which gives the 8 last frames of a clip the weight of 44 others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bsst.errors import InputError, MissingDependencyError
from bsst.runtime import metrics
from bsst.runtime.frames.restorer import Pair, Restorer
from bsst.runtime.restore import Tiling, deblur_frames

__all__ = [
    "KINDS",
    "Comparison",
    "Footage",
    "FrameFigures",
    "Kind",
    "Mean",
    "Score",
    "Tiling",
    "WorstFrame",
    "compare",
    "skimage_ssim",
]

Frame = NDArray[np.float32]
Image = NDArray[np.uint8]
Kind = Literal["input", "reference", "plan"]
Mean = Literal["frames", "sub-sequences"]
KINDS: tuple[Kind, ...] = ("input", "reference", "plan")
"""What is scored against ground truth: the blurry frame and both restorations."""


@dataclass(frozen=True, kw_only=True)
class Footage:
    """Frames that are restored as one video."""

    clip: str
    """Name shown to users."""
    start: int
    """Index in the clip of the first frame."""
    count: int
    """Frames, for progress; 0 if unknown."""
    blurry: Callable[[], Iterator[Frame]]
    """Starts reading from the first frame: (3, H, W) float32 RGB."""
    sharp: Callable[[], Iterator[Image]] | None
    """The same for the ground truth, (3, H, W) uint8; None where there is none."""
    keep: slice
    """Frames to score, counted from `start`; both ends given."""


@dataclass(frozen=True)
class Score:
    """One 8-bit frame against its ground truth."""

    psnr: float
    """dB over all pixels and channels; infinite for identical images."""
    ssim: float
    """Structural similarity as released, filtered across the colour axis too."""
    ssim_skimage: float
    """Structural similarity of scikit-image with the settings of Wang et al.: Gaussian of 1.5 pixels, per channel."""


@dataclass(frozen=True, kw_only=True)
class FrameFigures:
    """One frame."""

    clip: str
    start: int
    """First frame of its footage; with `clip` it names a sub-sequence."""
    index: int
    """Frame of the clip."""
    error: float
    """Mean square of plan minus reference, values in [0, 1]."""
    largest: float
    """Largest absolute difference, values in [0, 1]."""
    ssim: float
    """Released structural similarity of plan and reference at 8 bits."""
    scores: dict[Kind, Score]
    """Against ground truth; empty for frames that are not scored."""

    @property
    def psnr(self) -> float:
        """Decibels between plan and reference, peak 1."""
        return metrics.decibels(self.error)


@dataclass(frozen=True, kw_only=True)
class WorstFrame:
    """The frame on which plan and reference differ most."""

    figures: FrameFigures
    footage: Footage
    blurry: Frame
    reference: Frame
    plan: Frame
    sharp: Image | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All frames of all clips."""

    frames: tuple[FrameFigures, ...]
    worst: WorstFrame
    not_finite: dict[Literal["reference", "plan"], int]
    """NaN and infinite values that each side put out, in all windows and tiles."""

    @property
    def psnr(self) -> float:
        """Decibels between plan and reference over all pixels of all frames."""
        return metrics.decibels(float(np.mean([frame.error for frame in self.frames])))

    @property
    def ssim(self) -> float:
        """Mean over frames of the similarity of plan and reference."""
        return float(np.mean([frame.ssim for frame in self.frames]))

    @property
    def drift(self) -> float:
        """Slope of the difference over the frames of a footage, in dB per frame, mean over footages; 0 for one frame.

        Negative where plan and reference move apart as the clip goes on.
        """
        slopes = []
        for group in self.by_footage():
            levels = [frame.psnr for frame in group]
            slopes.append(float(np.polyfit(np.arange(len(levels)), levels, 1)[0]) if len(levels) > 1 else 0.0)
        return float(np.mean(slopes))

    def by_footage(self) -> list[list[FrameFigures]]:
        """Frames grouped by sub-sequence, in order."""
        groups: dict[tuple[str, int], list[FrameFigures]] = {}
        for frame in self.frames:
            groups.setdefault((frame.clip, frame.start), []).append(frame)
        return list(groups.values())

    def scores(self, kind: Kind, *, mean: Mean) -> Score | None:
        """Mean score against ground truth; None if no frame was scored."""
        groups = [[f.scores[kind] for f in group if f.scores] for group in self.by_footage()]
        groups = [group for group in groups if group]
        if not groups:
            return None
        if mean == "frames":
            return _mean([score for group in groups for score in group])
        return _mean([_mean(group) for group in groups])


def compare(
    footages: Sequence[Footage],
    plan: Restorer,
    reference: Restorer,
    *,
    tiling: Tiling | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> Comparison:
    """Restore every footage on both sides, frame by frame in step, and measure.

    Args:
        footages: at least one, each with at least one frame.
        plan: what is judged.
        reference: what it is judged by; of the same sizes.
        tiling: how frames are cut, the same on both sides; the plan is open in one shape of tiles already.
        progress: told about every frame.

    Raises:
        InputError: no frames, or blurry and sharp frames that differ in number or size.
    """
    sides = {"reference": _Counting(reference), "plan": _Counting(plan)}
    figures: list[FrameFigures] = []
    worst: WorstFrame | None = None
    options = dataclasses.asdict(tiling or Tiling())
    del options["tile"]
    for footage in footages:
        restored = zip(*(deblur_frames(footage.blurry(), side, **options) for side in sides.values()), strict=True)
        truth = footage.sharp() if footage.sharp else iter(())
        for offset, (blurry, (expected, got)) in enumerate(zip(footage.blurry(), restored, strict=True)):
            sharp = next(truth, None)
            if footage.sharp and sharp is None:
                raise _unpaired(footage, "fewer")
            kept = footage.keep.start <= offset < footage.keep.stop
            figure = _measure(footage, offset, blurry, sharp if kept else None, expected, got)
            figures.append(figure)
            progress(f"{footage.clip}: frame {figure.index}, {offset + 1} of {footage.count or '?'}")
            if worst is None or figure.error > worst.figures.error:
                worst = WorstFrame(
                    figures=figure, footage=footage, blurry=blurry, reference=expected, plan=got, sharp=sharp
                )
        if next(truth, None) is not None:
            raise _unpaired(footage, "more")
    if worst is None:
        raise InputError("expected at least one frame to compare, got none; give a longer clip")
    return Comparison(
        frames=tuple(figures),
        worst=worst,
        not_finite={"reference": sides["reference"].not_finite, "plan": sides["plan"].not_finite},
    )


def skimage_ssim(a: Image, b: Image) -> float:
    """Mean over channels of scikit-image's SSIM of two (3, H, W) uint8 images, settings of Wang et al."""
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise MissingDependencyError("scikit-image", "parity", "the SSIM of scikit-image") from error
    options = {"channel_axis": 0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(a, b, **options))  # type: ignore[no-untyped-call]


class _Counting:
    """Restores one clip at a time and counts values that are not finite before the pipeline repairs them."""

    in_flight, on_gpu, line = 1, False, ""

    def __init__(self, restorer: Restorer) -> None:
        self._restorer = restorer
        self.frames, self.tile, self.flow_size = restorer.frames, restorer.tile, restorer.flow_size
        self.tile_overlap, self.window_overlap = restorer.tile_overlap, restorer.window_overlap
        self.not_finite = 0

    def features(self, frame: np.ndarray) -> Any:
        return self._restorer.features(frame)

    def flow(self, a: Any, b: Any) -> Pair:
        return self._restorer.flow(a, b)

    def submit(self, clip: Sequence[np.ndarray], backward: np.ndarray, forward: np.ndarray) -> _Done:
        result = self._restorer.submit(clip, backward, forward).result()
        self.not_finite += result.size - int(np.count_nonzero(np.isfinite(result)))
        return _Done(result)

    def fallback(self) -> None:
        """What is measured is the plan itself."""

    def cancel(self) -> None:
        self._restorer.cancel()


@dataclass(frozen=True)
class _Done:
    restored: np.ndarray

    def result(self) -> np.ndarray:
        return self.restored


def _unpaired(footage: Footage, got: str) -> InputError:
    return InputError(
        f"{footage.clip}: expected a sharp frame for every blurry one, got {got}; give the ground truth of this clip"
    )


def _measure(
    footage: Footage, offset: int, blurry: Frame, sharp: Image | None, expected: Frame, got: Frame
) -> FrameFigures:
    difference = got.clip(0, 1).astype(np.float64) - expected.clip(0, 1)
    images: dict[Kind, Image] = {
        "input": metrics.to_uint8(blurry),
        "reference": metrics.to_uint8(expected),
        "plan": metrics.to_uint8(got),
    }
    if sharp is not None and sharp.shape != blurry.shape:
        raise InputError(
            f"{footage.clip}: expected ground truth of {blurry.shape[1]}x{blurry.shape[2]}, got "
            f"{sharp.shape[1]}x{sharp.shape[2]} (height x width) at frame {footage.start + offset}; "
            "give the ground truth of this clip"
        )
    return FrameFigures(
        clip=footage.clip,
        start=footage.start,
        index=footage.start + offset,
        error=float(np.mean(difference**2)),
        largest=float(np.abs(difference).max()),
        ssim=metrics.ssim(images["plan"], images["reference"]),
        scores={} if sharp is None else _scores(images, sharp),
    )


def _scores(images: dict[Kind, Image], sharp: Image) -> dict[Kind, Score]:
    """Score of each image; equal images, as both restorations of an fp32 plan mostly are, are scored once."""
    scores: dict[Kind, Score] = {}
    for kind, image in images.items():
        known = (score for other, score in scores.items() if np.array_equal(images[other], image))
        scores[kind] = next(known, None) or _score(image, sharp)
    return scores


def _score(image: Image, sharp: Image) -> Score:
    return Score(metrics.psnr(image, sharp), metrics.ssim(image, sharp), skimage_ssim(image, sharp))


def _mean(scores: Sequence[Score]) -> Score:
    return Score(*(float(np.mean([getattr(s, f.name) for s in scores])) for f in dataclasses.fields(Score)))
