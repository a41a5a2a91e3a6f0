"""FFmpeg's own words: its error codes say `Operation not permitted`, its log says `Cannot load libcuda.so.1`."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import av.logging

__all__ = ["ErrorLog", "error_text"]


class ErrorLog:
    """Collects what FFmpeg logs as an error in this thread. Use as a context manager, before there are other threads.

    Source: PyAV documentation, `av.logging`: nothing is logged by default, and the level is one for the process.
    """

    def __enter__(self) -> Self:
        self._before = av.logging.get_level(), av.logging.get_skip_repeated()
        av.logging.set_level(av.logging.ERROR)
        av.logging.set_skip_repeated(False)  # the second encoder fails for the same reason as the first
        self._capture = av.logging.Capture()
        self._lines = self._capture.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._capture.__exit__(None, None, None)
        level, skip_repeated = self._before
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skip_repeated)

    def reason(self, error: Exception) -> str:
        """The first line logged, which names the cause; the error's own text where nothing was logged."""
        return next((" ".join(text.split()) for _, _, text in self._lines if text.strip()), error_text(error))


def error_text(error: Exception) -> str:
    """FFmpeg's words without the file name that it repeats."""
    return str(getattr(error, "strerror", None) or error)
