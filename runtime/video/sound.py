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
from av.audio.codeccontext import AudioCodecContext
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
VORBIS_LAYOUTS = ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1")
"""Those of Opus."""


class Copied:
    """A stream whose packets go to a file as they are, with times that rise as its container demands.

    Args:
        stream: to write to.
        strict: two packets must not have one time. Where ticks are coarse, as Matroska's are for TrueHD, several do,
            and one tick more for each would draw the sound out.
    """

    def __init__(self, stream: Any, *, strict: bool = True) -> None:
        self._stream = stream
        self._step = int(strict)
        self._last: int | None = None
        self._latest: Fraction | None = None
        self.raised = 0
        """Packets that got a later time, because theirs went back."""

    def packets(self, packet: Packet[Any] | None) -> Iterator[Packet[Any]]:
        """A packet of the source, None after the last -> packets to write."""
        if packet is None:
            return
        ticks = Fraction(self._stream.time_base)
        scale = Fraction(packet.time_base) / ticks
        dts = packet.dts if packet.dts is not None else packet.pts
        if dts is not None:
            exact = dts * scale
            self.raised += self._latest is not None and exact < self._latest
            self._latest = exact if self._latest is None else max(exact, self._latest)
            dts = round(exact)
            pts = None if packet.pts is None else round(packet.pts * scale)
            if self._last is not None:
                dts = max(dts, self._last + self._step)
            packet.duration = round((packet.duration or 0) * scale)
            packet.time_base, packet.dts, packet.pts = ticks, dts, max(dts if pts is None else pts, dts)
            self._last = dts
        packet.stream = self._stream
        yield packet


class Converted:
    """A stream of sound that is decoded and encoded anew.

    Args:
        stream: to write to.
        decoder: of the source's packets; asked at the end for what it holds back, as those of WMA do.
    """

    def __init__(self, stream: AudioStream, decoder: AudioCodecContext) -> None:
        self._stream, self._decoder = stream, decoder
        self._end: Fraction | None = None
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
            pieces = self._decoder.decode(None) if packet is None else cast(list[AudioFrame], packet.decode())
            for piece in pieces:
                self._place(piece)
                frames += self._as_first(piece)
            if packet is None:
                frames += self._held_back()
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
        timed = frame.pts is not None and frame.time_base
        start = frame.pts * frame.time_base if timed else self._end  # decoders do not say when what they held back is
        if start is None:
            return
        if self._end is not None and start < self._end:
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
    codec = ENCODERS[name]
    rate = OPUS_RATE if codec == "libopus" else source.sample_rate
    wide = source.format is not None and source.format.name.startswith("s32")
    sample_format = "fltp" if codec == "aac" else "s32" if wide and codec == "flac" else "s16"
    able = (layout for layout in _layouts(source) if _opens(codec, rate, layout, sample_format))
    if (layout := next(able, None)) is None:
        return None
    stream: Any = container.add_stream(codec, rate=rate)
    stream.codec_context.layout, stream.codec_context.format = layout, sample_format
    if codec != "flac":
        stream.codec_context.bit_rate = BITS_PER_CHANNEL * source.layout.nb_channels
    return stream, codec.removeprefix("lib")


def _opens(codec: str, rate: int, layout: str, sample_format: str) -> bool:
    try:
        trial: Any = av.CodecContext.create(codec, "w")
        trial.sample_rate, trial.layout, trial.format = rate, layout, sample_format
        trial.time_base = Fraction(1, rate)
        trial.open()
    except (av.error.FFmpegError, ValueError):
        return False
    return True


def _layouts(source: Any) -> list[str]:
    """The source's, where it names one, and others of as many channels: Opus has none with speakers at the sides."""
    count: int = source.layout.nb_channels
    own = [source.layout.name] if source.layout.name != f"{count} channels" else []
    return own + [layouts[count - 1] for layouts in (USUAL_LAYOUTS, VORBIS_LAYOUTS) if count <= len(layouts)]
