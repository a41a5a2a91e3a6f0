"""The part of a video with most blur, shown side by side: the source on the left, what becomes of it on the right.

Blur comes from motion while the shutter is open, so it is looked for as the network does (its blur map,
`reference/SPECIFICATION.md` section 7): by the magnitude of the plan's own flow. Two neighbouring frames are looked at
in a few places of the video only, made small enough for one run of the flow stages.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from itertools import chain, dropwhile, islice, takewhile
from pathlib import Path

import av.error
import numpy as np

from bsst.errors import InputError, UsageError
from bsst.runtime.frames.restorer import Restorer
from bsst.runtime.frames.scenes import THRESHOLD, change_score
from bsst.runtime.jobs.opened import OpenedJob
from bsst.runtime.jobs.output import PICTURE_FILES, folder_beside
from bsst.runtime.jobs.stream import restore_stream
from bsst.runtime.video.cut import Cut
from bsst.runtime.video.decoded import Frame
from bsst.runtime.video.facts import VideoInfo
from bsst.runtime.video.publish import publish
from bsst.runtime.video.sources import Reader, open_reader, other_streams
from bsst.runtime.video.writer import VideoWriter

__all__ = ["blurriest", "restore_preview"]

ONE_FILE = (
    "expected one process and a video file for a preview, got workers or pictures; leave --devices, --workers and "
    "--ray out, and name a file with -o"
)
SAMPLES = 24
"""Places of a video that are looked at, evenly spread."""


def blurriest(
    path: Path, network: Restorer, seconds: Fraction | float, *, rate: Fraction | None = None
) -> tuple[Fraction, Fraction]:
    """The part of a video with most blur by the motion of its frames, found without decoding all of it.

    Places between two scenes do not count. Of equal parts the first is taken; where nothing moves, the start.

    Args:
        path: file, folder of pictures or pattern.
        network: an opened plan; only its flow stages run, in the calling thread.
        seconds: length of the part; all of a video that is shorter.
        rate: pictures a second, see `open_reader`.

    Returns:
        Start and end in seconds after the first frame, as `Part.of` takes them.

    Raises:
        InputError: the video cannot be read.
        UsageError: see `open_reader`.
    """
    with open_reader(path, rate=rate) as reader:
        length = reader.scan.frames / reader.info.rate
        wanted = min(Fraction(seconds).limit_denominator(1_000_000), length)
        found = [(time, _motion(network, a, b)) for time, a, b in _pairs(reader, length)]
    best, most = Fraction(0), 0.0
    for time, _ in found:
        start = max(Fraction(0), min(time - wanted / 2, length - wanted))
        inside = [motion for at, motion in found if start <= at <= start + wanted]
        if (mean := sum(inside) / len(inside)) > most:
            best, most = start, mean
    return best, best + wanted


def restore_preview(job: OpenedJob, seconds: Fraction) -> None:
    """Write the part with most blur: the source on the left and restored on the right, as players turn them.

    It is restored as a video of its own, decoded from a key frame before it.

    Args:
        job: whose output is a video file.
        seconds: length of the part.

    Raises:
        UsageError: the output is pictures, or other processes would restore it.
        InputError: the video cannot be read.
        OutputError: the output cannot be written.
        VerificationError: the finished file has other frames.
    """
    restorer, output, meter = job.restorer_here(ONE_FILE), job.output, job.meter
    if output.container == PICTURE_FILES:
        raise UsageError(ONE_FILE)
    start, end = blurriest(job.video, restorer, seconds, rate=job.rate)
    with open_reader(job.video, rate=job.rate) as reader, folder_beside(output.place) as folder:
        reader.accelerate(job.execution.hwaccel)
        info, shown = reader.info, deque[Frame]()
        begin, stop = info.start + start, info.start + end
        coming = _frames_between(reader, begin, stop)
        opening = next(coming, None)
        if opening is None:
            raise InputError(f"expected frames of {job.video} from {float(start):.2f} s on, got none; is it complete?")
        meter.info(f"of the video, {float(start):.2f} s to {float(end):.2f} s move most")
        meter.resume(math.ceil((end - start) * info.rate), [])

        def frames() -> Iterator[Frame]:
            for frame in chain([opening], coming):
                shown.append(frame)
                yield frame

        with VideoWriter(
            folder / "result.tmp",
            output.container,
            _doubled(info),
            source=other_streams(job.video),
            lossless=job.output_format.lossless,
            crf=job.output_format.crf,
            hwaccel=job.execution.hwaccel,
            audio=job.output_format.audio,
            cut=Cut(start=opening.pts * info.time_base, end=stop),
        ) as writer:
            if restorer.line:
                meter.info(restorer.line)
            meter.info(f"decoder {reader.decoder}, encoder {writer.encoder}")
            meter.warn(writer.warnings)
            sink = _Pairs(writer, shown, info)
            times = restore_stream(frames(), restorer, job.tiling, sink, meter, trace=job.trace)
        times = array("q", (time - writer.origin for time in times))
        publish(folder / "result.tmp", output.place, overwrite=output.overwrite, times=times,
                time_base=info.time_base, earliest=writer.earliest)  # fmt: skip
        meter.warn(reader.warnings + writer.warnings)


class _Pairs:
    """Takes restored frames and writes each beside its source, which `shown` holds."""

    def __init__(self, writer: VideoWriter, shown: deque[Frame], info: VideoInfo) -> None:
        self._writer, self._shown = writer, shown
        self._axis, self._turned = _across(info)

    def write(self, rgb: np.ndarray, *, pts: int, duration: int) -> None:
        """Append a frame (3, H, W) float32 RGB."""
        pair = [self._shown.popleft().rgb, rgb]
        self._writer.write(np.concatenate(pair[::-1] if self._turned else pair, self._axis), pts=pts, duration=duration)


def _pairs(reader: Reader, length: Fraction) -> Iterator[tuple[Fraction, np.ndarray, np.ndarray]]:
    """Seconds after the first frame, and two neighbouring frames of one scene there."""
    reading = iter(reader)
    first = next(reading)
    for index in range(SAMPLES):
        time = length * (2 * index + 1) / (2 * SAMPLES)
        ticks = first.pts + math.floor(time / reader.info.time_base)
        with suppress(av.error.FFmpegError, InputError):  # what is damaged elsewhere does not matter here
            frames = reader.seek(ticks) if first.exact else reading
            pair = [frame.rgb for frame in islice(_from(frames, ticks), 2)]
            if len(pair) == 2 and change_score(*pair) <= THRESHOLD:
                yield time, pair[0], pair[1]


def _from(frames: Iterator[Frame], ticks: int) -> Iterator[Frame]:
    return dropwhile(lambda frame: frame.pts < ticks, frames)


def _frames_between(reader: Reader, start: Fraction, end: Fraction) -> Iterator[Frame]:
    """Frames of a part in seconds of the file's clock, from a key frame on where frames are found by their times."""
    reading = iter(reader)
    first = next(reading)
    begin, stop = (round(time / reader.info.time_base) for time in (start, end))
    frames = reading
    if first.pts >= begin:
        yield first
    elif first.exact:
        frames = reader.seek(begin)
    yield from takewhile(lambda frame: frame.pts < stop, _from(frames, begin))


def _motion(network: Restorer, a: np.ndarray, b: np.ndarray) -> float:
    """Mean magnitude of the flow from one frame (3, H, W) to the next, in pixels of the frames."""
    height, width = network.flow_size
    step = max(1, math.ceil(max(a.shape[1] / height, a.shape[2] / width)))
    small = [_smaller(frame, step) for frame in (a, b)]
    _, h, w = small[0].shape
    edges = ((0, 0), (0, height - h), (0, width - w))
    features = [network.features(np.pad(frame.clip(0, 1), edges, mode="edge")) for frame in small]
    backward, _ = network.flow(*features)
    magnitude = np.hypot(*backward[:, : max(1, h // 4), : max(1, w // 4)])
    mean = float(magnitude.mean()) * 4 * step
    return mean if math.isfinite(mean) else 0.0


def _smaller(frame: np.ndarray, step: int) -> np.ndarray:
    """Means of squares of `step` pixels; what is left over at the edges is dropped."""
    _, height, width = frame.shape
    rows, columns = height // step, width // step
    return frame[:, : rows * step, : columns * step].reshape(3, rows, step, columns, step).mean((2, 4))


def _across(info: VideoInfo) -> tuple[int, bool]:
    """Axis of (3, H, W) along which a player shows left and right, and whether it shows it from right to left.

    Source: FFmpeg, libavutil/display.h: x' = a x + c y with the matrix (a b u, c d v, x y w).
    """
    a, c = (info.display_matrix[0], info.display_matrix[3]) if info.display_matrix else (1, 0)
    return (2, a < 0) if abs(a) >= abs(c) else (1, c < 0)


def _doubled(info: VideoInfo) -> VideoInfo:
    axis, _ = _across(info)
    return replace(info, width=info.width * 2) if axis == 2 else replace(info, height=info.height * 2)
