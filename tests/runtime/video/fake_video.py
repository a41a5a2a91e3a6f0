"""Stand-ins for NVDEC and NVENC: fakes that show which path a job takes and nothing about a GPU.

The decoder gives the software decoder's frames as NV12 or P010 and can fail, or lie; the encoder is software of the
same codec at the same quality.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import av.error
import pytest

from bsst.runtime.video import encoder as encoder_av
from bsst.runtime.video import nvdec
from bsst.runtime.video.encoder import EncoderSettings

INTERLEAVED = {"yuv420p": "nv12", "yuvj420p": "nv12", "yuv420p10le": "p010le"}


def as_gpu_frame(frame: av.VideoFrame) -> av.VideoFrame:
    return frame.reformat(format=INTERLEAVED[frame.format.name], src_color_range=2, dst_color_range=2)


class FakeNvdec:
    """An `InputContainer` whose main video stream seems to be decoded by a GPU.

    Args:
        path: file to read.
        change: software frame -> what the GPU gives.
        fails_at: index of the frame whose packet is refused.
        is_hwaccel: False for a codec that PyAV decodes in software although a GPU was asked for.
    """

    def __init__(
        self,
        path: Path,
        *,
        change: Callable[[av.VideoFrame], av.VideoFrame] = as_gpu_frame,
        fails_at: int | None = None,
        is_hwaccel: bool = True,
    ) -> None:
        self.container = av.open(str(path))
        self.change, self.fails_at, self.decoded, self.closed = change, fails_at, 0, False
        context = SimpleNamespace(is_hwaccel=is_hwaccel, name=self.container.streams.video[0].codec_context.name)
        disposition, index = self.container.streams.video[0].disposition, self.container.streams.video[0].index
        stream = SimpleNamespace(codec_context=context, disposition=disposition, index=index)
        self.streams = SimpleNamespace(video=[stream])

    def demux(self, stream: object) -> Iterator[Any]:
        for packet in self.container.demux(self.container.streams.video[0]):
            yield SimpleNamespace(decode=lambda packet=packet: list(self._frames(packet)))

    def _frames(self, packet: av.Packet) -> Iterator[av.VideoFrame]:
        for frame in packet.decode():
            if self.decoded == self.fails_at:
                raise av.error.ExternalError(1, "CUDA_ERROR_INVALID_VALUE")
            self.decoded += 1
            yield self.change(frame)

    def close(self) -> None:
        self.closed = True
        self.container.close()


def use_nvdec(patch: pytest.MonkeyPatch, **options: Any) -> list[FakeNvdec]:
    """Let readers find a fake GPU; the list holds those that were opened."""
    opened: list[FakeNvdec] = []

    def open_on_gpu(path: Path) -> FakeNvdec:
        opened.append(FakeNvdec(path, **options))
        return opened[-1]

    patch.setattr(nvdec, "open_on_gpu", open_on_gpu)
    return opened


SOFTWARE = {"h264_nvenc": "libx264", "hevc_nvenc": "libx265"}


def in_software(settings: EncoderSettings) -> EncoderSettings:
    """The settings of NVENC for the software encoder of the same codec."""
    x265 = settings.codec == "hevc_nvenc"
    lossless = "lossless=1:log-level=none" if x265 else "0"
    options = {"x265-params" if x265 else "qp": lossless} if settings.lossless else {"crf": settings.options["cq"]}
    if x265:
        options.setdefault("x265-params", "log-level=none")
    pixel_format = "yuv420p10le" if x265 else settings.pixel_format  # libx265 takes no P010
    return dataclasses.replace(settings, codec=SOFTWARE[settings.codec], pixel_format=pixel_format, options=options)


def use_nvenc(patch: pytest.MonkeyPatch) -> None:
    """Let writers find an encoder that works."""
    real = encoder_av.nvenc_settings
    patch.setattr(encoder_av, "nvenc_settings", lambda *args, **options: in_software(real(*args, **options)))
