"""FFmpeg's own words: its error codes say `Operation not permitted`, its log says `Cannot load libcuda.so.1`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import av.logging
from av.container import InputContainer

__all__ = ["ErrorLog", "description", "error_text", "unlogged"]

_LOG = threading.RLock()
"""Held while FFmpeg's log reaches Python, and while a decoder is freed.

PyAV frees a decoder without giving up the interpreter's lock, and waits for the decoder's threads; one that is at
logging waits for that lock, and both for ever.
"""

# While something is read from the log below, PyAV hands to Python what other threads log, and Python would print it.
logging.getLogger("libav").addHandler(logging.NullHandler())


class ErrorLog:
    """Collects what FFmpeg logs as an error in this thread. Use as a context manager, before there are other threads.

    Source: PyAV documentation, `av.logging`: nothing is logged by default, and the level is one for the process.
    """

    def __enter__(self) -> Self:
        _LOG.acquire()
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
        _LOG.release()

    def reason(self, error: Exception) -> str:
        """The first line logged, which names the cause; the error's own text where nothing was logged."""
        return next((" ".join(text.split()) for _, _, text in self._lines if text.strip()), error_text(error))


def description(container: InputContainer) -> str:
    """What `ffmpeg -v verbose -i FILE` says about a file; to be asked before anything is decoded.

    The level of PyAV's log is one for the process, and PyAV prints a traceback where a decoder's thread is at logging
    while it goes back to none.
    """
    with _LOG:
        dumping: Any = container  # the stubs of PyAV 18 lack `dumps_format`
        level, skip_repeated = av.logging.get_level(), av.logging.get_skip_repeated()
        av.logging.set_libav_level(av.logging.VERBOSE)
        av.logging.set_level(av.logging.VERBOSE)
        av.logging.set_skip_repeated(False)
        try:
            return str(dumping.dumps_format())
        finally:
            av.logging.set_level(level)
            av.logging.set_skip_repeated(skip_repeated)
            av.logging.set_libav_level(av.logging.INFO)


@contextmanager
def unlogged() -> Iterator[None]:
    """While nothing reaches Python from FFmpeg's log: the time to free decoders, see `_LOG`."""
    with _LOG:
        time.sleep(0.001)  # who is at logging gets the interpreter's lock, and ends
        yield


def error_text(error: Exception) -> str:
    """FFmpeg's words without the file name that it repeats."""
    return str(getattr(error, "strerror", None) or error)
