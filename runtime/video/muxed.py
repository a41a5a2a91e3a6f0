"""What all writers have in common that encode frame by frame: how a file ends, and what FFmpeg's errors mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import av.error
from av.video.frame import VideoFrame

from bsst.errors import BsstError

__all__ = ["Muxed"]


class Muxed(ABC):
    """A container with one encoded video. Use as a context manager: left with an error, the file stays unfinished."""

    _container: Any
    """Opened by the subclass."""
    _stream: Any
    """The stream of the video, with its encoder."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._flush()
            self._container.close()
            if error is None:
                self._finish()
        except (av.error.FFmpegError, OSError) as failure:
            if error is None:
                raise self._error(failure) from failure
        finally:
            self._release()

    def _encode(self, frame: VideoFrame | None) -> None:
        """Append what the encoder makes of a frame, or what it held back."""
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Say what an error of FFmpeg or the disk means."""
        try:
            yield
        except (av.error.FFmpegError, OSError) as error:
            raise self._error(error) from error

    @abstractmethod
    def _error(self, error: Exception) -> BsstError:
        """What an error of FFmpeg or the disk means here."""

    def _flush(self) -> None:
        """Append what was held back until the end."""
        self._encode(None)

    def _finish(self) -> None:  # noqa: B027 - most files are whole when they are closed
        """The file is closed."""

    def _release(self) -> None:  # noqa: B027 - most writers hold nothing else
        """Let go of what else is held, whether the file is whole or not."""
