"""The CUDA driver, as little of it as a device needs, over whichever Python package is installed.

One seam, two implementations: `cuda_bindings.py` (NVIDIA's cuda-bindings, the first choice: wheels, no compiler) and
`cuda_pycuda.py`. Handles and addresses are integers; whoever makes one destroys it. Every call but `open` wants the
context current on the calling thread (`push`, `pop`). `BSST_CUDA_API` names one of the two for this process.
Source: CUDA Driver API, https://docs.nvidia.com/cuda/cuda-driver-api/.
"""

from __future__ import annotations

import os
from importlib import import_module, util
from typing import Protocol

from bsst.errors import MissingDependencyError, UsageError

__all__ = ["CudaApi", "CudaError", "installed_apis", "open_api"]

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: no implicit order with the default stream, on which libraries may do as they like."""
BLOCKING_SYNC, DISABLE_TIMING = 1, 2
"""Of CUevent_flags."""
THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate or synchronise during a capture."""
_APIS = {
    "cuda-bindings": ("cuda.bindings", "bsst.runtime.devices.cuda_bindings"),
    "pycuda": ("pycuda", "bsst.runtime.devices.cuda_pycuda"),
}
"""Name -> (what must be installed, where its implementation is); the first that is installed is taken."""


class CudaError(Exception):
    """The driver reports a failure, in its own words.

    Args:
        message: with the name of the call.
        out_of_memory: the device has no memory left.
    """

    def __init__(self, message: str, *, out_of_memory: bool = False) -> None:
        super().__init__(message)
        self.out_of_memory = out_of_memory


class CudaApi(Protocol):
    """Calls of the driver on one device. Every method may raise `CudaError`."""

    name: str
    """Package that makes the calls, with its version."""

    def device_count(self) -> int:
        """Start the driver and count the visible devices."""
        ...

    def open(self, index: int) -> tuple[str, str]:
        """Hold the primary context of a device until `release`: its (name, compute capability such as "8.9")."""
        ...

    def push(self) -> None:
        """Make the context current on the calling thread, above the one that is."""
        ...

    def pop(self) -> None:
        """Undo `push`."""
        ...

    def release(self) -> None:
        """Let go of the context. It must be current, through one `push`, which this undoes."""
        ...

    def memory(self) -> tuple[int, int]:
        """Bytes (free, total) of the device, of all processes."""
        ...

    def allocate(self, nbytes: int) -> int:
        """Address of device memory with undefined contents."""
        ...

    def free(self, address: int) -> None:
        """Free what `allocate` gave."""
        ...

    def allocate_host(self, nbytes: int) -> int:
        """Address of page-locked host memory with undefined contents."""
        ...

    def free_host(self, address: int) -> None:
        """Free what `allocate_host` gave."""
        ...

    def upload(self, address: int, host: int, nbytes: int, stream: int) -> None:
        """Append a copy from page-locked host memory to the device."""
        ...

    def download(self, host: int, address: int, nbytes: int, stream: int) -> None:
        """Append a copy from the device to page-locked host memory."""
        ...

    def make_stream(self) -> int:
        """A stream in no order with the default stream; the handle is the driver's."""
        ...

    def destroy_stream(self, stream: int) -> None:
        """Destroy it; what was submitted still runs."""
        ...

    def wait(self, stream: int, event: int) -> None:
        """Start what is submitted from now on after the event."""
        ...

    def make_event(self, *, timed: bool) -> int:
        """An event to wait for without spinning; `elapsed` wants timed ones."""
        ...

    def destroy_event(self, event: int) -> None:
        """Destroy it; waits that were queued on it stay."""
        ...

    def record(self, event: int, stream: int) -> None:
        """Put the event at the present end of a stream."""
        ...

    def synchronize(self, event: int) -> None:
        """Block without the GIL until the event has passed."""
        ...

    def passed(self, event: int) -> bool:
        """Whether it has."""
        ...

    def elapsed(self, start: int, end: int) -> float:
        """Milliseconds between two timed events that have passed."""
        ...

    def begin_capture(self, stream: int) -> None:
        """Record what this thread appends to a stream, instead of running it."""
        ...

    def end_capture(self, stream: int) -> int:
        """Executable graph of what was appended since."""
        ...

    def launch(self, graph: int, stream: int) -> None:
        """Append one run of a graph."""
        ...

    def destroy_graph(self, graph: int) -> None:
        """Free it, once a launch in progress has ended."""
        ...


def installed_apis() -> tuple[str, ...]:
    """Names of the packages that are installed, best first; nothing is imported but their parents."""
    return tuple(name for name, (package, _) in _APIS.items() if _is_installed(package))


def open_api() -> CudaApi:
    """The driver through the first package that is installed, or the one that `BSST_CUDA_API` names.

    Raises:
        UsageError: `BSST_CUDA_API` is none of the names.
        MissingDependencyError: none is installed, or not the one that was asked for.
        CudaError: it is installed and does not load.
    """
    wanted = os.environ.get("BSST_CUDA_API", "")
    if wanted not in ("", *_APIS):
        raise UsageError(f"expected BSST_CUDA_API to be {' or '.join(_APIS)}, got {wanted}; unset it")
    names = [name for name in installed_apis() if name == (wanted or name)]
    if not names:
        extra = "pycuda" if wanted == "pycuda" else "gpu"
        raise MissingDependencyError(wanted or "cuda-bindings", extra, "running on an NVIDIA GPU")
    try:
        api: CudaApi = import_module(_APIS[names[0]][1]).Api()
    except ImportError as error:
        raise CudaError(f"{names[0]} does not load: {error}; reinstall it for this driver") from error
    return api


def _is_installed(package: str) -> bool:
    try:
        return util.find_spec(package) is not None
    except ModuleNotFoundError:  # of the parent
        return False
