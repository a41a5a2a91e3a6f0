"""The few functions of libcuda.so.1 that pycuda does not wrap, or not so, on the simulated GPU.

Source: CUDA Driver API, "Graph Management", "Stream Management" and "Context Management".
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

from .simulated import CAPTURE_INVALIDATED, GPU, INVALID_CONTEXT, INVALID_HANDLE, INVALID_VALUE, NAMES, CudaFailure


class Libcuda:
    """Results are CUresult codes."""

    @staticmethod
    def _guard(call: str, work: Callable[[], None]) -> int:
        with GPU.lock:
            try:
                GPU.require_context(call)
                work()
            except CudaFailure as error:
                return error.code
            return 0

    def cuCtxPopCurrent_v2(self, context: object) -> int:  # noqa: N802
        if not GPU.driver_stack():
            return INVALID_CONTEXT
        GPU.driver_stack().pop()
        return 0

    def cuStreamBeginCapture_v2(self, stream: ctypes.c_void_p, mode: ctypes.c_int) -> int:  # noqa: N802
        def work() -> None:
            if mode.value not in (0, 1, 2):
                raise CudaFailure("cuStreamBeginCapture", INVALID_VALUE)
            state = GPU.stream_of(stream.value or 0, "cuStreamBeginCapture")
            if state.capture is not None:
                raise CudaFailure("cuStreamBeginCapture", INVALID_VALUE)
            state.capture, state.capturing_thread, state.invalidated = [], threading.get_ident(), 0

        return self._guard("cuStreamBeginCapture", work)

    def cuStreamEndCapture(self, stream: ctypes.c_void_p, graph: object) -> int:  # noqa: N802
        def work() -> None:
            state = GPU.stream_of(stream.value or 0, "cuStreamEndCapture")
            if state.capture is None or state.capturing_thread != threading.get_ident():
                raise CudaFailure("cuStreamEndCapture", INVALID_VALUE)
            operations, state.capture = state.capture, None
            if state.invalidated:
                raise CudaFailure("cuStreamEndCapture", CAPTURE_INVALIDATED)
            graph._obj.value = GPU.handle()  # type: ignore[attr-defined]
            GPU.graphs[graph._obj.value] = operations  # type: ignore[attr-defined]

        return self._guard("cuStreamEndCapture", work)

    def cuGraphInstantiateWithFlags(  # noqa: N802
        self, executable: object, graph: ctypes.c_void_p, flags: ctypes.c_ulonglong
    ) -> int:
        def work() -> None:
            if graph.value not in GPU.graphs or flags.value:
                raise CudaFailure("cuGraphInstantiate", INVALID_VALUE)
            executable._obj.value = GPU.handle()  # type: ignore[attr-defined]
            GPU.executables[executable._obj.value] = list(GPU.graphs[graph.value])  # type: ignore[attr-defined]

        return self._guard("cuGraphInstantiate", work)

    def cuGraphLaunch(self, executable: ctypes.c_void_p, stream: ctypes.c_void_p) -> int:  # noqa: N802
        def work() -> None:
            if executable.value not in GPU.executables:
                raise CudaFailure("cuGraphLaunch", INVALID_HANDLE)
            for operation in GPU.executables[executable.value]:
                assert operation.work is not None
                GPU.enqueue(stream.value or 0, operation.work, operation.accesses, "cuGraphLaunch")

        return self._guard("cuGraphLaunch", work)

    def cuGraphDestroy(self, graph: ctypes.c_void_p) -> int:  # noqa: N802
        GPU.graphs.pop(graph.value or 0)  # freeing works after a failure too, though it reports it again
        return self._guard("cuGraphDestroy", lambda: None)

    def cuGraphExecDestroy(self, executable: ctypes.c_void_p) -> int:  # noqa: N802
        GPU.executables.pop(executable.value or 0)
        return self._guard("cuGraphExecDestroy", lambda: None)

    def cuGetErrorString(self, status: ctypes.c_int, text: object) -> int:  # noqa: N802
        text._obj.value = NAMES[status.value].encode()  # type: ignore[attr-defined]
        return 0
