"""Small real clips in many formats, an identity restorer, and an independent reader for what came out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from skimage import data

from bsst.runtime.frames.restorer import Restorer

TAG_BT709, TAG_BT601, TAG_UNSPECIFIED = 1, 6, 2
LIMITED, FULL = 1, 2


@cache
def photograph(name: str = "astronaut") -> np.ndarray:
    """(H, W, 3) uint8."""
    return np.ascontiguousarray(getattr(data, name)()[..., :3])


def moving_photograph(count: int, height: int, width: int, *, name: str = "astronaut") -> list[np.ndarray]:
    """`count` frames (H, W, 3) uint8: a window that drifts over a photograph."""
    image = photograph(name)
    image = np.tile(image, (-(-(height + 64) // image.shape[0]), -(-(width + 64) // image.shape[1]), 1))
    return [image[t % 64 : t % 64 + height, 3 * t % 64 : 3 * t % 64 + width] for t in range(count)]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Recipe of a test clip."""

    suffix: str = ".mp4"
    codec: str = "libx264"
    pixel_format: str = "yuv420p"
    size: tuple[int, int] = (96, 128)
    times: tuple[int, ...] = tuple(range(0, 12 * 512, 512))
    time_base: Fraction = Fraction(1, 12800)
    options: dict[str, str] = field(default_factory=dict)
    matrix: int = TAG_UNSPECIFIED
    range: int = 0
    audio: str | None = None
    rotation: int = 0
    aspect: Fraction | None = None
    subtitles: str | None = None

    def write(self, path: Path) -> Path:
        path = path.with_suffix(self.suffix)
        height, width = self.size
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream(self.codec, rate=25, options=self.options)
            stream.width, stream.height, stream.pix_fmt = width, height, self.pixel_format
            stream.codec_context.time_base = stream.time_base = self.time_base
            stream.codec_context.colorspace, stream.codec_context.color_range = self.matrix, self.range
            if self.aspect:
                stream.codec_context.sample_aspect_ratio = self.aspect
            if self.rotation:
                stream.set_display_rotation(self.rotation)
            stream.metadata["language"] = "fin"
            container.metadata["title"] = "a test clip"
            sound: Any = container.add_stream(self.audio, rate=48000) if self.audio else None
            lines: Any = container.add_mux_stream(self.subtitles) if self.subtitles else None
            if sound:
                sound.metadata["language"] = "deu"
            if lines:
                lines.time_base = Fraction(1, 1000)
                packet = av.Packet(b"hello" if self.subtitles != "mov_text" else b"\x00\x05hello")
                packet.stream, packet.pts, packet.dts, packet.duration = lines, 0, 0, 300
                packet.time_base = Fraction(1, 1000)
            for time, pixels in zip(self.times, moving_photograph(len(self.times), height, width), strict=True):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(
                    format=self.pixel_format,
                    dst_colorspace=1 if self.matrix == TAG_BT709 else 5,
                    dst_color_range=self.range or LIMITED,
                )
                frame.colorspace, frame.color_range = self.matrix, self.range
                frame.pts, frame.time_base = time, self.time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            if lines:
                container.mux(packet)
            if sound:
                self._write_sound(container, sound)
        return path

    def _write_sound(self, container: Any, stream: Any) -> None:
        first = float(self.times[0] * self.time_base)
        samples = round((float(self.times[-1] * self.time_base) - first + 0.4) * 48000)  # outlasts the frames
        wave = (np.sin(np.arange(samples) / 20) * 8000).astype(np.int16)
        for start in range(0, samples - 1023, 1024):
            frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="s16", layout="mono")
            frame.sample_rate, frame.pts = 48000, start + round(first * 48000)
            frame.time_base = Fraction(1, 48000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@dataclass(frozen=True)
class Decoded:
    """A video as PyAV decodes it, without any code under test."""

    seconds: list[Fraction]
    planes: list[list[np.ndarray]]
    stream: dict[str, Any]
    audio: list[bytes]


def decode(path: Path) -> Decoded:
    seconds, planes, audio = [], [], []
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        for frame in container.decode(video):
            seconds.append(frame.pts * frame.time_base)
            planes.append(
                [_plane(p, 2 if max(c.bits for c in frame.format.components) > 8 else 1) for p in frame.planes]
            )
        stream = {
            "format": video.pix_fmt,
            "size": (video.height, video.width),
            "matrix": int(frame.colorspace),
            "range": int(frame.color_range) or LIMITED,  # untagged means limited
            "rotation": frame.rotation % 360,
            "aspect": video.sample_aspect_ratio or 1,
            "kinds": [s.type for s in container.streams],
            "language": [s.metadata.get("language") for s in container.streams],
            "title": container.metadata.get("title") or container.metadata.get("TITLE"),
            "codec": video.codec_context.name,
        }
    with av.open(str(path)) as container:
        if container.streams.audio:
            audio = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
    return Decoded(seconds, planes, stream, audio)


def _plane(plane: Any, size: int) -> np.ndarray:
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height]
    return rows[:, : plane.width * size].copy().view(np.uint16 if size == 2 else np.uint8).astype(int)


@dataclass(frozen=True)
class Done:
    """A clip under way that is restored when somebody asks for it, in the asking thread."""

    restore: Callable[[], np.ndarray]

    def result(self) -> np.ndarray:
        return self.restore()


class Identity:
    """A restorer that returns its input, and counts what it is asked for."""

    def __init__(
        self,
        *,
        in_flight: int = 2,
        frames: int = 5,
        tile: tuple[int, int] = (64, 64),
        flow_size: tuple[int, int] = (64, 96),
        tile_overlap: int = 16,
        window_overlap: int = 2,
    ) -> None:
        self.frames, self.tile, self.flow_size = frames, tile, flow_size
        self.tile_overlap, self.window_overlap = tile_overlap, window_overlap
        self.in_flight = in_flight
        self.line, self.on_gpu = "nothing runs", False
        self.clips = 0

    def features(self, frame: np.ndarray) -> np.ndarray:
        assert frame.shape == (3, *self.flow_size)
        assert frame.dtype == np.float32
        return frame

    def flow(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        zero = np.zeros((2, a.shape[1] // 4, a.shape[2] // 4), np.float32)
        return zero, zero

    def submit(self, clip: Sequence[np.ndarray], backward: np.ndarray, forward: np.ndarray) -> Done:
        frames = np.stack(clip)
        return Done(lambda: self.restore(frames, backward, forward))

    def fallback(self) -> Restorer | None:
        return None

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        pass

    def restore(self, clip: np.ndarray, backward: np.ndarray, forward: np.ndarray) -> np.ndarray:
        assert clip.shape == (self.frames, 3, *self.tile)
        assert backward.shape == forward.shape == (self.frames - 1, 2, self.tile[0] // 4, self.tile[1] // 4)
        self.clips += 1
        return clip.copy()
