"""What of other streams goes with a part, packet by packet."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import av
import av.error
import numpy as np
import pytest

from bsst.runtime.video.cut import LATE, Cut
from bsst.runtime.video.sound import Converted, Copied

MILLISECOND = Fraction(1, 1000)
PART = Cut(start=Fraction(2), end=Fraction(5))


@dataclass
class Packet:
    """As much of PyAV's as a cut looks at."""

    pts: int | None
    kind: str = "audio"
    duration: int = 20
    dts: int | None = field(default=-1)
    time_base: Fraction | None = MILLISECOND
    stream: Any = None

    def __post_init__(self) -> None:
        self.stream = SimpleNamespace(type=self.kind)
        if self.dts == -1:
            self.dts = self.pts


def cut(*packets: Packet, part: Cut = PART) -> list[tuple[int | None, int | None, int]]:
    return [(p.pts, p.dts, p.duration) for p in part.packets(replace(packet) for packet in packets)]  # type: ignore[arg-type]


def test_packets_that_begin_within_the_part_are_kept_and_it_starts_at_zero() -> None:
    kept = cut(*(Packet(time) for time in (1999, 2000, 4999, 5000)))
    assert kept == [(0, 0, 20), (2999, 2999, 20)]


def test_a_subtitle_on_the_screen_at_the_start_is_kept_for_the_time_that_is_left() -> None:
    shown, over = Packet(1500, "subtitle", 1200), Packet(1500, "subtitle", 500)
    sound = Packet(1500, "audio", 1200)
    assert cut(over, sound, shown) == [(0, 0, 700)]


def test_packets_that_lie_late_in_the_file_are_found_and_what_is_far_behind_the_end_is_not_read() -> None:
    far = 5000 + LATE * 1000
    packets = iter([Packet(5001), Packet(4000), Packet(far), Packet(4500), Packet(far + 1), Packet(4600)])
    assert [p.pts for p in PART.packets(packets)] == [2000, 2500]  # type: ignore[arg-type]
    assert [p.pts for p in packets] == [4600]


def test_a_packet_is_cut_by_its_decoding_time_where_it_has_no_other_and_kept_as_it_is_without_any() -> None:
    assert cut(Packet(None, dts=3000), Packet(None, dts=5000), Packet(None, dts=None)) == [
        (None, 1000, 20),
        (None, None, 20),
    ]
    assert cut(Packet(7, time_base=None)) == [(7, 7, 20)]


def test_a_part_to_the_end_keeps_everything_from_its_start() -> None:
    open_end = Cut(start=Fraction(2), end=None)
    assert cut(Packet(1000), Packet(10**7), part=open_end) == [(10**7 - 2000, 10**7 - 2000, 20)]
    chapter = {"start": 0, "end": 9000, "time_base": MILLISECOND, "metadata": {"title": "all"}}
    assert open_end.chapters([chapter]) == [{**chapter, "start": 0, "end": 7000}]


def test_chapters_are_cut_to_what_the_part_shows_of_them() -> None:
    spans = [(0, 2000), (1000, 3000), (3000, 4000), (4500, 9000), (5000, 6000)]
    chapters = [{"start": start, "end": end, "time_base": MILLISECOND} for start, end in spans]
    assert [(c["start"], c["end"]) for c in PART.chapters(chapters)] == [(0, 1000), (1000, 2000), (2500, 3000)]


@pytest.mark.parametrize(("strict", "times"), [(True, [0, 2, 3, 4, 6, None]), (False, [0, 2, 2, 2, 6, None])])
def test_copied_times_rise_as_the_container_demands_and_those_that_went_back_are_counted(
    strict: bool, times: list[int | None]
) -> None:
    copied = Copied(SimpleNamespace(time_base=Fraction(1, 100)), strict=strict)
    packets = [Packet(time) for time in (0, 20, 20, 10, 60)] + [Packet(None, dts=None)]
    written = [p for packet in packets for p in copied.packets(packet)]  # type: ignore[arg-type]
    assert [p.dts for p in written] == times
    assert all(p.pts == p.dts and p.duration == 2 for p in written[:-1])
    assert copied.raised == 1
    assert list(copied.packets(None)) == []


class Encoder:
    """Stands in for a stream that encodes; keeps what it was given."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    def encode(self, frame: Any) -> list[Any]:
        self.given.append(frame)
        return ["packet"] if frame is None else []


def piece(pts: int | None) -> av.AudioFrame:
    """A hundredth of a second."""
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 480), np.int16), format="s16", layout="mono")
    frame.sample_rate, frame.time_base, frame.pts = 48000, MILLISECOND, pts
    return frame


@pytest.mark.parametrize(("second", "raised", "start"), [(10, 0, 480), (9, 0, 480), (-40, 1, 480), (30, 0, 1440)])
def test_decoded_sound_never_starts_before_the_end_of_what_came_before(second: int, raised: int, start: int) -> None:
    encoder = Encoder()
    converted = Converted(encoder, SimpleNamespace(decode=lambda packet: []))  # type: ignore[arg-type]
    packet = SimpleNamespace(decode=lambda: [piece(0), piece(second)])
    assert list(converted.packets(packet)) == []  # type: ignore[arg-type]
    assert [frame.pts for frame in encoder.given] == [0, start]
    assert converted.raised == raised
    assert list(converted.packets(None)) == ["packet"]


def test_a_packet_that_cannot_be_decoded_is_silent_and_counted() -> None:
    def fails() -> list[Any]:
        raise av.error.InvalidDataError(1, "damaged")

    encoder = Encoder()
    converted = Converted(encoder, SimpleNamespace(decode=lambda packet: []))  # type: ignore[arg-type]
    assert list(converted.packets(SimpleNamespace(decode=fails))) == []  # type: ignore[arg-type]
    assert (converted.damaged, encoder.given) == (1, [])
    untimed = piece(None)
    assert list(converted.packets(SimpleNamespace(decode=lambda: [untimed]))) == []  # type: ignore[arg-type]
    assert encoder.given == [untimed]
    assert untimed.pts is None
