"""CUDA graphs of whatever a library enqueues on a stream: captured once, launched as one call."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from bsst.runtime.devices.cuda_api import CudaApi, CudaError

__all__ = ["CaptureError", "CudaGraph", "capture"]


class CaptureError(Exception):
    """The driver or the library refuses; the stream is usable as before."""


class CudaGraph:
    """An executable graph; launches read and write the addresses it was captured with."""

    def __init__(self, api: CudaApi, executable: int) -> None:
        self._api, self._executable = api, executable

    def launch(self, stream: int) -> None:
        """Append one run of the graph to a stream.

        Raises:
            CaptureError: the driver refuses.
        """
        try:
            self._api.launch(self._executable, stream)
        except CudaError as error:
            raise CaptureError(str(error)) from error

    def close(self) -> None:
        """Free it, once a launch in progress has ended; a second call does nothing."""
        executable, self._executable = self._executable, 0
        if executable:
            with suppress(CudaError):  # a failed context reports its failure again, and frees all the same
                self._api.destroy_graph(executable)


def capture(api: CudaApi, stream: int, work: Callable[[], None]) -> CudaGraph:
    """Record what `work` enqueues on `stream`, without running it; the context must be current.

    Raises:
        CaptureError: `work` failed or did something that cannot be captured.
    """
    failure: Exception | None = None
    try:
        api.begin_capture(stream)
        try:
            work()
        except Exception as error:  # the capture must be ended whatever happened in it
            failure = error
        graph = CudaGraph(api, api.end_capture(stream))
    except CudaError as error:
        raise CaptureError(str(failure or error)) from (failure or error)
    if failure is not None:
        graph.close()
        raise CaptureError(str(failure)) from failure
    return graph
