"""Lanes: sessions that never run at once, and what they share because of that.

Every stage of a window runs after the one before it, so their engines use one scratch area and the same context is
never entered twice. Nothing relies on the caller keeping to one stream: where the stream changes, the lane puts an
event between the two.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from bsst.runtime.devices.base import Buffer, Device, DeviceTensor, Stream

__all__ = ["Lane"]


class Lane:
    """Serialises sessions that share scratch memory.

    Args:
        device: where the sessions run.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._last: Stream | None = None
        self._needed = 0
        self._scratch: Buffer | None = None

    def reserve(self, nbytes: int) -> None:
        """State what one session needs while it runs; before the first call of `scratch`."""
        self._needed = max(self._needed, nbytes)

    def scratch(self) -> DeviceTensor:
        """As much memory as the session that needs most; allocated by the first call.

        Raises:
            OutOfMemoryError: there is not so much.
        """
        if self._scratch is None or self._scratch.nbytes < self._needed:
            self._scratch = self._device.allocate(max(self._needed, 1))
        return DeviceTensor(self._scratch, "uint8", (self._scratch.nbytes,))

    def submit(
        self,
        stream: Stream,
        name: str,
        work: Callable[[], None],
        *,
        reads: Sequence[DeviceTensor],
        writes: Sequence[DeviceTensor],
    ) -> None:
        """`Stream.submit` after everything that was submitted through this lane."""
        with self._lock:
            if self._last is not None and self._last is not stream:
                stream.wait(self._last.record())
            self._last = stream
            stream.submit(name, work, reads=reads, writes=writes)
