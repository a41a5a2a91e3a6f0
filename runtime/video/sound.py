"""Streams that are copied packet by packet, and sound that is decoded and encoded anew where no copy is possible.

PyAV lets a container hold the codecs that FFmpeg lists for it and no others, though Matroska could carry any of Windows
(WMA, ADPCM, mu-law). Such sound becomes FLAC in Matroska, which loses nothing that was decoded, AAC in MP4 and MOV,
Opus in WebM.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Literal, cast

import av
import av.error
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet

from bsst.runtime.video.memory import ran_out

__all__ = ["AUDIO_CHOICES", "Audio", "Converted", "Copied", "convert_sound"]

Kind = tuple[str, str, int]
"""Format of the samples, layout of the channels, samples a second."""
Audio = Literal["copy", "convert", "none"]
AUDIO_CHOICES: tuple[Audio, ...] = ("copy", "convert", "none")
"""Copy sound and convert what cannot be copied, convert all of it, or leave it out."""

ENCODERS = {"matroska": "flac", "mp4": "aac", "mov": "aac", "webm": "libopus"}
BITS_PER_CHANNEL = 128_000
OPUS_RATE = 48_000
AUDIBLE = Fraction(1, 50)
"""Seconds; less is the rounding of timestamps."""
USUAL_LAYOUTS = ("mono", "stereo", "2.1", "4.0", "5.0", "5.1", "6.1", "7.1")
"""Where a file tells the number of channels alone, as AVI does; those that FFmpeg takes by default."""


class Copied:
    """A stream whose packets go to a file as they are, with times that rise as containers demand."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._last: int | None = None
        self.raised = 0
        """Packets that got a later time, because theirs did not rise."""

    def packets(self, packet: Packet[Any] | None) -> Iterator[Packet[Any]]:
        """A packet of the source, None after the last -> packets to write."""
        if packet is None:
            return
        ticks = Fraction(self._stream.time_base)
        scale = Fraction(packet.time_base) / ticks
        dts = packet.dts if packet.dts is not None else packet.pts
        if dts is not None:
            dts = round(dts * scale)
            pts = None if packet.pts is None else round(packet.pts * scale)
            if self._last is not None and dts <= self._last:
                dts = self._last + 1
                self.raised += 1
            packet.duration = round((packet.duration or 0) * scale)
            packet.time_base, packet.dts, packet.pts = ticks, dts, max(dts if pts is None else pts, dts)
            self._last = dts
        packet.stream = self._stream
        yield packet


class Converted:
    """A stream of sound that is decoded and encoded anew."""

    def __init__(self, stream: AudioStream) -> None:
        self._stream = stream
        self._end = Fraction(-(2**62))
        self._first: Kind | None = None
        self._kind: Kind | None = None
        self._resampler: AudioResampler | None = None
        self.damaged = 0
        """Packets that could not be decoded; their time stays silent."""
        self.raised = 0
        """Decoded pieces that start later, because the one before had not ended; audibly so."""

    def packets(self, packet: Packet[Any] | None) -> Iterator[Packet[Any]]:
        """A packet of the source, None after the last -> packets to write."""
        frames: list[AudioFrame] = []
        try:
            if packet is None:
                frames += self._held_back()
            else:
                for piece in cast(list[AudioFrame], packet.decode()):
                    self._place(piece)
                    frames += self._as_first(piece)
        except (av.error.FFmpegError, ValueError) as error:
            if ran_out(error):
                raise
            self.damaged += 1
        for frame in frames:
            yield from self._stream.encode(frame)
        if packet is None:
            yield from self._stream.encode(None)

    def _as_first(self, frame: AudioFrame) -> Iterator[AudioFrame]:
        """Sound whose rate or channels change, as between the programmes of a broadcast, goes on as it began."""
        kind = frame.format.name, frame.layout.name, frame.sample_rate
        self._first = self._first or kind
        if kind != self._kind:
            yield from self._held_back()
            self._kind = kind
            if kind != self._first:
                self._resampler = AudioResampler(*self._first)
        yield from [frame] if self._resampler is None else self._resampler.resample(frame)

    def _held_back(self) -> Iterator[AudioFrame]:
        if self._resampler is not None:
            resampler, self._resampler = self._resampler, None
            yield from resampler.resample(None)

    def _place(self, frame: Any) -> None:
        """Give a piece of sound its time in samples, after all before it: encoders refuse what goes back."""
        if frame.pts is None or not frame.time_base:
            return
        start = frame.pts * frame.time_base
        if start < self._end:
            self.raised += self._end - start > AUDIBLE
            start = self._end
        frame.time_base = Fraction(1, frame.sample_rate)
        frame.pts = round(start * frame.sample_rate)
        self._end = Fraction(frame.pts + frame.samples, frame.sample_rate)


def convert_sound(container: OutputContainer, name: str, original: AudioStream) -> tuple[AudioStream, str] | None:
    """Add a stream that will hold a source's sound, encoded anew.

    Args:
        container: file to write.
        name: FFmpeg's name of its format.
        original: stream of the source.

    Returns:
        The stream and the name of its codec; None where FFmpeg cannot decode the source or encode its channels.
    """
    source = original.codec_context
    if source is None or not source.sample_rate or not source.layout.nb_channels:
        return None
    codec, layout = ENCODERS[name], _layout(source)
    rate = OPUS_RATE if codec == "libopus" else source.sample_rate
    wide = source.format is not None and source.format.name.startswith("s32")
    sample_format = "fltp" if codec == "aac" else "s32" if wide and codec == "flac" else "s16"
    try:
        trial: Any = av.CodecContext.create(codec, "w")
        trial.sample_rate, trial.layout, trial.format = rate, layout, sample_format
        trial.time_base = Fraction(1, rate)
        trial.open()
    except (av.error.FFmpegError, ValueError):
        return None
    stream: Any = container.add_stream(codec, rate=rate)
    stream.codec_context.layout, stream.codec_context.format = layout, sample_format
    if codec != "flac":
        stream.codec_context.bit_rate = BITS_PER_CHANNEL * source.layout.nb_channels
    return stream, codec.removeprefix("lib")


def _layout(source: Any) -> str:
    count: int = source.layout.nb_channels
    named = source.layout.name != f"{count} channels"
    return source.layout.name if named or count > len(USUAL_LAYOUTS) else USUAL_LAYOUTS[count - 1]
