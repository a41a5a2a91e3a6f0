"""RGB frames to a video file through PyAV, with everything that is not pixels taken over from the source.

Pixel format, bit depth, matrix, range and colour tags follow the source as far as the encoder can; timestamps keep the
source's ticks. Audio, subtitles, attachments, chapters and metadata are copied without re-encoding; sound that cannot
be copied is converted. What becomes of each stream is known before the first frame; a warning names what is not kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import av.error
import numpy as np
from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import Stream

from bsst.errors import OutOfMemoryError, OutputError
from bsst.runtime.video.cut import Cut
from bsst.runtime.video.encoder import EncoderSettings, add_video_stream, choose_encoder, frame_from_rgb, write_error
from bsst.runtime.video.facts import VideoInfo
from bsst.runtime.video.log import error_text
from bsst.runtime.video.memory import ran_out
from bsst.runtime.video.muxed import Muxed
from bsst.runtime.video.quality import DEFAULT_CRF
from bsst.runtime.video.reader import HWAccelChoice
from bsst.runtime.video.sound import Audio, Converted, Copied, convert_sound
from bsst.runtime.video.source import file_url, main_video_stream, open_source

__all__ = ["CONTAINERS", "RefusedError", "SoundRefusedError", "VideoWriter"]

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Suffixes that can be written: containers that keep variable frame rates."""

OWN_METADATA = (
    "encoder",
    "duration",
    "bps",
    "number_of_",
    "_statistics",
    "major_brand",
    "minor_",
    "compatible_",
    "rotate",
)
"""Metadata that describes the source file rather than its content, by prefix in lower case."""

COPIED = ("audio", "subtitle", "attachment")

SPOILT_BY_COPYING = ("tta",)
"""Sound of which FFmpeg cannot decode its own copy in Matroska: a header of the file's length is made up."""
MAY_REPEAT = 0x20000
"""AVFMT_TS_NONSTRICT: containers in which packets of a stream may have the same time."""

OF_A_PHONE = ("com.apple.quicktime.", "com.android.", "com.samsung.")
"""Metadata of the key kind of QuickTime: place, date with zone, maker."""
LARGEST_TIMESCALE = 2**31 - 1
LARGEST_STEP = 2**31 - 1
"""Ticks between two frames, and between decoding and showing one, that MP4 and MOV can hold."""
COARSEST_TIMESCALE = 10000
"""Theirs have at least as many ticks a second, unless told otherwise. Source: FFmpeg, movenc.c, `mov_init`."""

NO_STREAM = SimpleNamespace(index=-1, metadata={}, disposition=av.stream.Disposition.default)
NO_SOURCE = SimpleNamespace(
    streams=type("NoStreams", (tuple,), {"audio": ()})(), metadata={}, chapters=list, close=lambda: None
)
"""In place of the file that pictures and pipes have not."""


class RefusedError(OutputError):
    """A container refuses what it was given, and would again.

    Args:
        container: its name.
        reason: FFmpeg's words.
    """

    what = "video"
    remedy = "choose an output name that ends in .mkv"

    def __init__(self, container: str, reason: str) -> None:
        super().__init__(f"expected {self.what} that {container} can hold, FFmpeg says: {reason}; {self.remedy}")
        self.reason = reason


class SoundRefusedError(RefusedError):
    """The same where there is sound, which it is as a rule."""

    what = "sound"
    remedy = "try --audio convert or --audio none, or an output name that ends in .mkv"


class VideoWriter(Muxed):
    """Writes one video file. Use as a context manager: leaving it without an error finishes the file.

    Args:
        path: file to write; overwritten.
        container: FFmpeg name of the container, a value of `CONTAINERS`.
        info: what the reader found.
        source: file whose other streams and metadata are copied; None for no file.
        lossless: FFV1 in Matroska, else the lossless mode of the default encoder.
        crf: constant rate factor of the default encoder; lower is better and larger.
        hwaccel: which encoder.
        audio: copy sound and convert what cannot be copied, convert all, or leave it out.
        cut: the part of the source that is written; it starts at zero in the file. All by default.
        encoder: settings and words of another writer, whose frames are written here; chosen by default.

    Raises:
        OutputError: the file cannot be written.
        UsageError: a GPU was demanded and cannot encode this.
    """

    settings: EncoderSettings
    """How frames are encoded."""

    encoder: str
    """What encodes, and why not the GPU where that was asked for."""

    origin: int
    """What is subtracted from all times of frames, in ticks."""

    earliest: Fraction
    """Start of the earliest copied packet in seconds where negative (audio priming), else 0. A container that cannot
    start below zero delays all streams by as much."""

    def __init__(
        self,
        path: Path,
        container: str,
        info: VideoInfo,
        *,
        source: Path | None = None,
        lossless: bool = False,
        crf: int = DEFAULT_CRF,
        hwaccel: HWAccelChoice = "none",
        audio: Audio = "copy",
        cut: Cut | None = None,
        encoder: tuple[EncoderSettings, str] | None = None,
    ) -> None:
        self.path = path
        self._cut = cut
        self.origin = 0 if cut is None else round(cut.start / info.time_base)
        self._audio = audio
        self.warnings: list[str] = []
        self._copies: dict[int, Copied | Converted] = {}
        self._container_name = container
        self._info = info
        self.settings, self.encoder = encoder or choose_encoder(
            container, info, lossless=lossless, crf=crf, hwaccel=hwaccel
        )
        if self.settings.encoding.bits < info.encoding.bits:
            self.warnings.append(f"{self.settings.codec} stores {self.settings.encoding.bits} of the source's "
                                 f"{info.encoding.bits} bits per colour; --lossless to .mkv keeps them")  # fmt: skip
        if self.settings.lost:
            self.warnings.append(self.settings.lost)
        self._source: Any = NO_SOURCE if source is None else open_source(source)
        aspect = info.sample_aspect_ratio
        if aspect and aspect != 1 and container in ("matroska", "webm"):  # PyAV cannot set the container's own field
            self._warn(f"pixel aspect ratio {aspect.numerator}:{aspect.denominator} is kept in the video stream only; "
                       f"players that read the container show square pixels, .mp4 keeps it in both")  # fmt: skip
        try:
            try:
                self._start()
            except av.error.FFmpegError as error:
                if isinstance(error, OSError) or audio != "copy" or not self._source.streams.audio:
                    raise
                self._audio = "convert"  # a header that cannot be written is as a rule one of copied sound
                self._container.close()
                self._start()
                self._warn(f"{container} cannot hold a copy of the sound ({error_text(error)}), so it is converted")
        except (av.error.FFmpegError, OSError) as error:
            self._source.close()
            raise self._error(error) from error
        except BaseException:
            self._source.close()
            raise
        self.earliest = Fraction(0)
        self._correction = info.timeline.correction()
        self._copied = self._packets() if cut is None else cut.packets(self._packets())
        self._next_copied = next(self._copied, None)

    def write(self, rgb: np.ndarray, *, pts: int, duration: int) -> None:
        """Append one frame.

        Args:
            rgb: (3, H, W) float32; values that the pixel format cannot store are clamped.
            pts: presentation time in ticks of the source's time base, larger than the one before.
            duration: ticks; 0 when unknown.
        """
        frame = frame_from_rgb(rgb, self.settings)
        pts -= self.origin
        frame.pts, frame.duration, frame.time_base = pts, duration, self._info.time_base
        with self._errors():
            self._encode(frame)
            self._copy_until(pts * self._info.time_base)

    def write_packet(self, packet: Packet[Any]) -> None:
        """Append one frame that an encoder with the same `settings` made, in decoding order and with all its times."""
        packet.stream = self._stream
        packet.pts = None if packet.pts is None else packet.pts - self.origin
        packet.dts = None if packet.dts is None else packet.dts - self.origin
        with self._errors():
            self._container.mux(packet)
            if packet.dts is not None:
                self._copy_until(packet.dts * packet.time_base)

    def _start(self) -> None:
        """Describe all streams and write the header."""
        original = self._main_stream()
        options = self._options(original)
        self._container = av.open(file_url(self.path), "w", format=self._container_name, options=options)
        stream = add_video_stream(self._container, self._info, self.settings)
        if self._info.display_matrix:
            stream.set_display_matrix(self._info.display_matrix)
        stream.metadata.update(_content_metadata(original.metadata))
        stream.disposition = original.disposition
        self._container.metadata.update(_content_metadata(self._source.metadata))
        chapters = self._source.chapters()
        if chapters := chapters if self._cut is None else self._cut.chapters(chapters):
            self._container.set_chapters(chapters)
        self._stream = stream
        self._copies = {
            other.index: copy
            for other in self._source.streams
            if other.index != original.index and (copy := self._copy_of(other)) is not None
        }
        self._container.start_encoding()

    def _main_stream(self) -> Any:
        if self._source is NO_SOURCE:
            return NO_STREAM
        if self._info.stream is None:
            return main_video_stream(self._source)
        return next(stream for stream in self._source.streams if stream.index == self._info.stream)

    def _options(self, original: Stream) -> dict[str, str]:
        """Of the container: MP4 starts streams at thousandths of a second unless told otherwise."""
        if self._container_name not in ("mp4", "mov"):
            return {}
        starts = [
            self._info.start,
            *(
                Fraction(stream.start_time * stream.time_base)
                for stream in self._source.streams
                if stream.type in COPIED and stream.start_time is not None and stream.time_base
            ),
        ]
        if self._cut is not None:  # nothing starts where it does in the source
            starts += [Fraction(stream.time_base) for stream in self._source.streams if stream.time_base]
        scale = math.lcm(1000, self._info.time_base.denominator, *(start.denominator for start in starts))
        if scale > LARGEST_TIMESCALE:
            scale = math.lcm(1000, self._info.start.denominator)
        options = {"movie_timescale": str(scale if scale <= LARGEST_TIMESCALE else 90000), **self._track_options()}
        keys = [*self._source.metadata, *original.metadata]
        if any(key.startswith(OF_A_PHONE) for key in keys):
            options["movflags"] = "use_metadata_tags"
        return options

    def _track_options(self) -> dict[str, str]:
        """Of MP4's video track, whose clock is coarse enough for the longest pauses.

        Raises:
            OutputError: none is.
        """
        ticks = self._info.time_base.denominator
        usual = ticks << max(0, math.ceil(math.log2(COARSEST_TIMESCALE / ticks)))
        if self._info.span * usual <= LARGEST_STEP:
            return {}
        if self._info.span * ticks > LARGEST_STEP:
            raise OutputError(
                f"expected at most {LARGEST_STEP / ticks / 3600:.1f} h from a frame to those that follow for "
                f"{self._container_name}, got {float(self._info.span / 3600):.1f} h; choose an output name that ends "
                f"in .mkv"
            )
        return {"video_track_timescale": str(ticks)}

    def _copy_of(self, original: Stream) -> Copied | Converted | None:
        """What becomes of a stream of the source; None where it is not kept."""
        codec = getattr(original, "name", None) or "unknown codec"
        if original.type == "data":
            made_anew = "timecode" in original.metadata or (codec == "bin_data" and self._source.chapters())
            if not made_anew:  # muxers write timecode and chapter tracks themselves, and no other data
                self._warn(f"data stream {original.index} ({codec}) is not kept")
            return None
        if original.type == "audio" and self._audio == "none":
            return None
        if original.type not in COPIED or not self._fits(original):
            self._warn(f"{original.type} stream {original.index} ({codec}) is not kept")
            return None
        kept: Copied | Converted
        problem: Exception | str = "asked for" if self._audio == "convert" else "spoilt"
        if original.type != "audio" or (self._audio == "copy" and codec not in SPOILT_BY_COPYING):
            try:
                copy = self._container.add_stream_from_template(original)
                kept = Copied(copy, strict=not int(self._container.format.flags) & MAY_REPEAT)
                problem = ""
            except (ValueError, av.error.FFmpegError) as error:
                problem = error
        if problem:
            converted = (
                convert_sound(self._container, self._container_name, original)
                if isinstance(original, AudioStream)
                else None
            )
            if converted is None:
                self._warn(f"{original.type} stream {original.index} ({codec}) is not kept, {self._container_name} "
                           f"cannot hold it" + self._other_container(original))  # fmt: skip
                return None
            copy, name = converted
            kept = Converted(converted[0], cast(AudioStream, original).codec_context)
            self._warn(f"audio stream {original.index} ({codec}) is converted to {name}: {self._container_name} cannot "
                       f"hold a copy" if problem != "asked for" else
                       f"audio stream {original.index} ({codec}) is converted to {name}")  # fmt: skip
        copy.metadata.update(_content_metadata(original.metadata))
        copy.disposition = original.disposition
        return kept

    def _fits(self, original: Stream) -> bool:
        """Whether a stream is of a kind that the container can hold at all."""
        if original.type == "attachment":  # Matroska wants both
            return self._container_name == "matroska" and {"filename", "mimetype"} <= original.metadata.keys()
        return original.codec_context is not None

    def _other_container(self, original: Stream) -> str:
        return "" if self._container_name == "matroska" or original.type != "subtitle" else "; .mkv might"

    def _warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)

    def _packets(self) -> Iterator[Packet[Any]]:
        """Packets of the kept streams in file order, corrected; what cannot be read any more ends them."""
        streams = [stream for stream in self._source.streams if stream.index in self._copies]
        if not streams:
            return
        try:
            for packet in self._source.demux(streams):
                self._correction.apply(packet)
                if packet.size:
                    yield packet
        except av.error.FFmpegError as error:
            if ran_out(error):
                raise
            self._warn(f"sound and subtitles end early, the source cannot be read further: {error_text(error)}")

    def _copy_until(self, seconds: Fraction | None) -> None:
        """Write what begins before a time, all of it for None."""
        while (packet := self._next_copied) is not None:
            time = packet.dts if packet.dts is not None else packet.pts
            if seconds is not None and time is not None and time * packet.time_base > seconds:
                return
            if time is not None:
                self.earliest = min(self.earliest, Fraction(time * packet.time_base))
            self._write_copy(packet.stream.index, packet)
            self._next_copied = next(self._copied, None)
        if seconds is None:
            for index in list(self._copies):
                self._write_copy(index, None)
            self._report()

    def _write_copy(self, index: int, packet: Packet[Any] | None) -> None:
        if (kept := self._copies.get(index)) is None:
            return
        try:
            for written in kept.packets(packet):
                self._container.mux(written)
        except (av.error.ArgumentError, av.error.InvalidDataError) as error:  # of the source's making, not the disk's
            self._copies.pop(index)
            self._warn(f"stream {index} ends early, the source is damaged there: {error_text(error)}")

    def _report(self) -> None:
        for index, kept in self._copies.items():
            if kept.raised:
                self._warn(f"{kept.raised} packets of stream {index} overlapped others and start later")
            if isinstance(kept, Converted) and kept.damaged:
                self._warn(f"{kept.damaged} packets of stream {index} are damaged in the source and silent")

    def _flush(self) -> None:
        super()._flush()
        self._copy_until(None)

    def _release(self) -> None:
        self._source.close()

    def _error(self, error: Exception) -> OutputError | OutOfMemoryError:
        refused = isinstance(error, av.error.ArgumentError | av.error.InvalidDataError)  # by FFmpeg, not by the disk
        if refused:
            has_sound = any(stream.index in self._copies for stream in self._source.streams.audio)
            return (SoundRefusedError if has_sound else RefusedError)(self._container_name, error_text(error))
        return write_error(error, self.path.parent, self._info, ", or choose an output name that ends in .mkv")


def _content_metadata(metadata: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if not key.lower().startswith(OWN_METADATA)}
