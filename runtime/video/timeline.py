"""Timestamps that start again or jump, as in recordings joined with `cat`, and the correction that the scan finds.

Only formats whose clock may jump are corrected, all streams of a file by the same amount and from the same packet on,
as the ffmpeg program does: a jump is a step back of more than 0.1 s, or one of more than 10 s either way, against
where the last packet of the same stream ended. Source: FFmpeg, fftools/ffmpeg_demux.c, `ts_discontinuity_process`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from av.packet import Packet

__all__ = ["MICROSECONDS", "Correction", "JumpFinder", "Timeline"]

MICROSECONDS = 1_000_000
BACK = MICROSECONDS // 10
JUMP = 10 * MICROSECONDS


@dataclass(frozen=True)
class Timeline:
    """What to add to the timestamps of a file."""

    steps: dict[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    """Stream -> (ordinal of a packet in its stream, microseconds to add from there on), ascending."""

    def correction(self) -> Correction:
        """A correction for one pass over the packets from the start."""
        return Correction(self)


class Correction:
    """One pass over packets in file order."""

    def __init__(self, timeline: Timeline) -> None:
        self._steps = {stream: list(reversed(steps)) for stream, steps in timeline.steps.items()}
        self._offset: dict[int, int] = {}
        self._count: dict[int, int] = {}

    def apply(self, packet: Packet[Any]) -> None:
        """Correct a packet in place."""
        if not self._steps:
            return
        stream = packet.stream.index
        count = self._count.get(stream, 0)
        self._count[stream] = count + 1
        steps = self._steps.get(stream, [])
        while steps and steps[-1][0] <= count:
            self._offset[stream] = steps.pop()[1]
        if offset := self._offset.get(stream, 0):
            ticks = round(Fraction(offset, MICROSECONDS) / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts + ticks
            packet.dts = None if packet.dts is None else packet.dts + ticks


class JumpFinder:
    """Sees every packet of a file in order and finds its `Timeline`."""

    def __init__(self, *, may_jump: bool) -> None:
        self.seconds: list[float] = []
        """Where the clock jumped, corrected."""
        self.offset = 0
        """Microseconds to add to timestamps from the last packet on."""
        self._may_jump = may_jump
        self._last: int | None = None  # of any stream
        self._of_stream: dict[int, tuple[int, int]] = {}  # last dts, and where the next is expected
        self._count: dict[int, int] = {}
        self._steps: dict[int, list[tuple[int, int]]] = {}

    def see(self, packet: Packet[Any], *, frame_seconds: Fraction | None) -> None:
        """Take note of a packet.

        Args:
            packet: as it was read.
            frame_seconds: how long a packet without a duration lasts; None where unknown.
        """
        if not self._may_jump:
            return
        stream = packet.stream.index
        count = self._count.get(stream, 0)
        self._count[stream] = count + 1
        if packet.dts is not None and packet.stream.type in ("video", "audio") and packet.time_base:
            scale = MICROSECONDS * Fraction(packet.time_base)
            time = round(packet.dts * scale) + self.offset
            delta = self._jump(stream, time)
            if delta:
                self.offset -= delta
                time -= delta
                self.seconds.append(time / MICROSECONDS)
            length = packet.duration * scale if packet.duration else (frame_seconds or 0) * MICROSECONDS
            self._of_stream[stream] = time, time + round(length)
            self._last = time
        steps = self._steps.setdefault(stream, [])
        if self.offset != (steps[-1][1] if steps else 0):
            steps.append((count, self.offset))

    def timeline(self) -> Timeline:
        """What was found."""
        return Timeline({stream: tuple(steps) for stream, steps in self._steps.items() if steps})

    def _jump(self, stream: int, time: int) -> int:
        if stream in self._of_stream:
            last, expected = self._of_stream[stream]
            return time - expected if abs(time - expected) > JUMP or time + BACK < last else 0
        if self._last is not None and abs(time - self._last) > JUMP:
            return time - self._last
        return 0
