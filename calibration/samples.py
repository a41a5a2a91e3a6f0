"""Windows of real clips to calibrate and measure on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bsst.calibration.ranges import ClipRecord
from bsst.errors import InputError, UsageError
from bsst.files import what_is_at

__all__ = ["Sample", "clip_record", "read_samples"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One window of one clip."""

    name: str
    """Clip and first frame, for messages."""
    blurry: NDArray[np.float32]
    """(T, 3, H, W) RGB in [0, 1]."""
    sharp: NDArray[np.float32] | None
    """The ground truth, same shape; None where there is none."""


def clip_record(path: Path, truth: Path | None) -> ClipRecord:
    """Note a clip, a video or a folder or pattern of pictures, and its ground truth with their digests.

    Raises:
        InputError: a file cannot be read.
    """
    return ClipRecord(
        path=str(path.absolute()),
        sha256=_digest(path),
        truth_path=None if truth is None else str(truth.absolute()),
        truth_sha256=None if truth is None else _digest(truth),
    )


def read_samples(clips: Sequence[ClipRecord], *, frames: int, size: tuple[int, int], windows: int) -> Iterator[Sample]:
    """Windows spread evenly over each clip: the middle of the picture, mirrored where picture or clip are too small.

    Args:
        clips: from `clip_record`; a file that changed since is refused.
        frames: T.
        size: (H, W) in pixels.
        windows: at most so many per clip.

    Raises:
        UsageError: no clips.
        InputError: a file is missing, changed, not a video, not finite, or unlike its ground truth.
    """
    if not clips:
        raise UsageError("expected one or more clips, got none; name videos like those the plan will restore")
    for clip in clips:
        blurry = _windows(Path(clip.path), clip.sha256, frames, size, windows)
        sharp: dict[int, NDArray[np.float32]] = {}
        if clip.truth_path is not None and clip.truth_sha256 is not None:
            sharp = _windows(Path(clip.truth_path), clip.truth_sha256, frames, size, windows)
            if set(sharp) != set(blurry):
                raise InputError(
                    f"expected as many frames in {clip.truth_path} as in {clip.path}, got another number; "
                    "give the sharp recording of the same frames with --truth"
                )
        for start, window in blurry.items():
            yield Sample(name=f"{Path(clip.path).name} from frame {start}", blurry=window, sharp=sharp.get(start))


def _windows(
    path: Path, sha256: str, frames: int, size: tuple[int, int], windows: int
) -> dict[int, NDArray[np.float32]]:
    """First frame -> window."""
    from bsst.runtime.video.sources import open_reader  # needs PyAV, which other plans are rebuilt without

    if _digest(path) != sha256:
        raise InputError(f"expected {path} as it was calibrated on, got another file; run bsst calibrate again")
    with open_reader(path) as reader:
        last = max(reader.info.frames - frames, 0)
        starts = sorted({round(start) for start in np.linspace(0, last, windows)})
        wanted = {index for start in starts for index in range(start, start + frames)}
        pictures = {index: _middle(frame.rgb, size) for index, frame in enumerate(reader) if index in wanted}
    found: dict[int, NDArray[np.float32]] = {}
    for start in starts:
        held = [pictures[index] for index in range(start, start + frames) if index in pictures]
        if not held:
            continue
        window = np.pad(np.stack(held), [(0, frames - len(held)), (0, 0), (0, 0), (0, 0)], mode="symmetric")
        if not np.isfinite(window).all():
            raise InputError(
                f"expected finite pixels in {path}, got NaN or infinity from frame {start} on; decode it again"
            )
        found[start] = window
    return found


def _middle(picture: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    grow = [(0, 0), *((0, max(0, wanted - given)) for wanted, given in zip(size, picture.shape[1:], strict=True))]
    grown = np.pad(picture, grow, mode="symmetric")
    top, left = ((given - wanted) // 2 for wanted, given in zip(size, grown.shape[1:], strict=True))
    return np.ascontiguousarray(grown[:, top : top + size[0], left : left + size[1]])


def _digest(path: Path) -> str:
    """Of a file, or of all pictures with their names."""
    from bsst.runtime.video.sources import paths_of  # see above

    if (found := what_is_at(path)) == "a pipe or device":  # which may never end
        raise InputError(f"expected a video file, found {found} at {path}; check the name")
    files = paths_of(path)
    try:
        digests = [_file_digest(file) for file in files]
    except OSError as error:
        raise InputError(f"expected a video file at {path}, got {error.strerror}; check the name") from error
    if files == (path,):
        return digests[0]
    named = [f"{file.name} {digest}" for file, digest in zip(files, digests, strict=True)]
    return hashlib.sha256("\n".join(named).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
