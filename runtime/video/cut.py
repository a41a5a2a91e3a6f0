"""What of the other streams of a file goes with a part of its video, on the part's own clock.

Sound is kept by whole packets, those that begin within the part; a subtitle that is on the screen when the part begins
is kept from there on. Nothing is decoded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from av.packet import Packet

__all__ = ["Cut"]

LATE = 10
"""Seconds by which packets may lie after others that begin later."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A part in seconds of the file's clock, half-open."""

    start: Fraction
    end: Fraction | None
    """None for the end of the file."""

    def packets(self, packets: Iterable[Packet[Any]]) -> Iterator[Packet[Any]]:
        """Those that go with the part, moved so that it starts at zero."""
        for packet in packets:
            time = packet.dts if packet.pts is None else packet.pts
            if time is None or packet.time_base is None:
                yield packet
                continue
            begin, length = time * packet.time_base, (packet.duration or 0) * packet.time_base
            if self.end is not None and begin >= self.end:
                if begin > self.end + LATE:
                    return
                continue
            if begin < self.start:
                if packet.stream.type != "subtitle" or begin + length <= self.start:
                    continue
                packet.duration = math.ceil((begin + length - self.start) / packet.time_base)
                packet.pts = packet.dts = math.ceil(self.start / packet.time_base)
            ticks = round(self.start / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts - ticks
            packet.dts = None if packet.dts is None else packet.dts - ticks
            yield packet

    def chapters(self, chapters: Iterable[Any]) -> list[Any]:
        """Those that the part shows something of, cut and moved alike."""
        kept = []
        for chapter in chapters:
            base = Fraction(chapter["time_base"])
            first = max(chapter["start"], round(self.start / base))
            last = chapter["end"] if self.end is None else min(chapter["end"], round(self.end / base))
            if first < last:
                kept.append({**chapter, "start": first - round(self.start / base),
                             "end": last - round(self.start / base)})  # fmt: skip
        return kept
