"""What the packets of a file tell before anything is decoded: how much there is, whether all of it, and its clock."""

from __future__ import annotations

import struct
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import av.error
from av.container import InputContainer

from bsst.errors import InputError
from bsst.runtime.video.facts import Stated, stated
from bsst.runtime.video.log import description, error_text
from bsst.runtime.video.memory import out_of_memory, ran_out
from bsst.runtime.video.sizes import Size, SizeFinder
from bsst.runtime.video.source import main_video_stream, not_a_video, open_source, quoted
from bsst.runtime.video.timeline import MICROSECONDS, JumpFinder, Timeline

__all__ = ["SPAN", "Scan", "scan"]

SPAN = 6
"""Frames within which an encoder reorders."""
MISSING_SECONDS = 0.5
"""A file that ends this much before its stated duration is truncated."""
MAY_JUMP = 0x0200
"""AVFMT_TS_DISCONT: formats of broadcasts and discs, whose clock may start again."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a file holds."""

    stream: int
    """Index of the film."""
    frames: int
    """Packets of the film that will be shown."""
    timeline: Timeline
    stated: Stated
    warnings: tuple[str, ...]
    span: Fraction = Fraction(0)
    """Seconds that `SPAN` frames in a row take at most; 0 where unknown."""
    sizes: tuple[Size, ...] = ()
    """Of some frames of a long film."""


def scan(path: Path) -> Scan:
    """Read all packets of a file.

    Raises:
        InputError: it cannot be opened or read to its end, is truncated, or has no video.
        OutOfMemoryError: FFmpeg ran out of memory.
    """
    try:
        container = open_source(path)
    except (av.error.FFmpegError, OSError) as error:
        raise not_a_video(path, error) from error
    with container:
        main_video_stream(container)
        text = description(container)
        packets: Counter[int] = Counter()
        shown: Counter[int] = Counter()
        times: defaultdict[int, array[int]] = defaultdict(lambda: array("q"))  # of video, in ticks
        longest, end = Fraction(0), 0.0
        finder = JumpFinder(may_jump=bool(int(container.format.flags) & MAY_JUMP))
        rates = {
            s.index: 1 / Fraction(s.average_rate) for s in container.streams.video if s.average_rate
        }  # seconds of a frame
        sizes = {s.index: SizeFinder(s) for s in container.streams.video}
        try:
            for packet in container.demux():
                finder.see(packet, frame_seconds=rates.get(packet.stream.index))
                if not packet.size:
                    continue
                if packet.pts is not None and packet.time_base:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                packets[packet.stream.index] += 1
                time = packet.dts if packet.pts is None else packet.pts
                if packet.stream.type == "video" and time is not None and packet.time_base:
                    known = times[packet.stream.index]
                    known.append(time + round(finder.offset / (MICROSECONDS * packet.time_base)))
                    longest = max(longest, (packet.duration or 0) * packet.time_base)
                    sizes[packet.stream.index].see(packet, (known[-1] - known[0]) * packet.time_base)
                shown[packet.stream.index] += not packet.is_discard
        except av.error.FFmpegError as error:
            if ran_out(error):
                raise out_of_memory(f"read {path}", error) from error
            raise InputError(
                f"expected a complete video in {path}, reading stopped after {end:.2f} s: {error_text(error)}; to "
                f"restore what is there, first copy it with: ffmpeg -i {quoted(path)} -c copy repaired.mkv"
            ) from error
        stream = main_video_stream(container, packets)
        said = stated(text, stream)
        warnings = [said.cropping] if said.cropping else []
        if seconds := _missing(container, packets[stream.index], end):
            if not _is_whole(path):
                raise InputError(
                    f"expected {seconds:.2f} s of video in {path}, found {end:.2f} s, so it is truncated; to restore "
                    f"what is there, first copy it with: ffmpeg -i {quoted(path)} -c copy repaired.mkv"
                )
            warnings.append(f"the header says {seconds:.2f} s, the file is whole and holds {end:.2f} s")
        if finder.seconds:
            places = [f"{second:.2f} s" for second in finder.seconds[:4]] + ["..."] * (len(finder.seconds) > 4)
            warnings.append(
                f"the clock of the file jumps, its parts follow each other without a gap: at {', '.join(places)}"
            )
        return Scan(
            stream=stream.index,
            frames=shown[stream.index],
            timeline=finder.timeline(),
            stated=said,
            warnings=tuple(warnings),
            span=max(longest, _span(times[stream.index]) * Fraction(stream.time_base or 0)),
            sizes=sizes[stream.index].found(),
        )


def _span(times: array[int]) -> int:
    """Ticks from a frame to the one `SPAN` later, or to the last, at most."""
    ascending = sorted(times)
    if len(ascending) <= SPAN:
        return ascending[-1] - ascending[0] if ascending else 0
    return max(b - a for a, b in zip(ascending, islice(ascending, SPAN, None), strict=False))


def _missing(container: InputContainer, packets: int, end: float) -> float:
    """Stated duration in seconds where the packets end well before it, else 0."""
    if container.duration is None or not packets:
        return 0
    # Some containers count from zero, some from the first frame: the smaller reading is safe.
    stated = (min(container.start_time or 0, 0) + container.duration) / av.time_base
    return stated if end + MISSING_SECONDS < stated else 0


def _is_whole(path: Path) -> bool:
    """Whether an AVI or FLV file ends where its own chunks say, whatever its header claims."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(12)
            if head[:3] == b"FLV":
                file.seek(max(size - 4, 0))
                last = int.from_bytes(file.read(4), "big")
                file.seek(max(size - 4 - last, 0))
                tag = file.read(4)
                return last >= 11 and tag[0] & 0x1F in (8, 9, 18) and int.from_bytes(tag[1:], "big") == last - 11
            place = 0
            while head[:4] == b"RIFF" and place < size:  # OpenDML puts several after each other
                place += 8 + struct.unpack("<I", head[4:8])[0]
                file.seek(place)
                head = file.read(12)
            return 0 < place <= size
    except (OSError, IndexError, struct.error):
        return False
