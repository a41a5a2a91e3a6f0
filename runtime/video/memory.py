"""FFmpeg ran out of memory: it says so, or that no thread could be started, or calls what it was reading damaged."""

from __future__ import annotations

import av.error
import numpy as np

from bsst.errors import OutOfMemoryError
from bsst.runtime.video.log import error_text

__all__ = ["out_of_memory", "ran_out"]

DECODER_BYTES = 32
"""Per pixel: eight frames of four bytes, which a decoder with threads holds at least."""


def ran_out(error: BaseException, *, pixels: int = 0) -> bool:
    """Whether memory is what was lacking.

    Args:
        error: of PyAV.
        pixels: of a frame, where a decoder found damage: several call their own failed allocations that.
    """
    if isinstance(error, MemoryError | av.error.BlockingIOError):  # EAGAIN: no memory for a thread
        return True
    try:
        np.empty(DECODER_BYTES * pixels, np.uint8)
    except MemoryError:
        return True
    return False


def out_of_memory(doing: str, error: Exception) -> OutOfMemoryError:
    """What to tell; `doing` is what it was needed for."""
    return OutOfMemoryError(
        f"expected memory to {doing}, ran out ({error_text(error)}); close other programs, or scale the video down"
    )
