"""Sessions of ONNX Runtime, bound to caller-owned memory: nothing is copied and nothing allocated per call.

`OrtSession` runs on arrays, on the CPU or on a provider that copies them itself; `OrtGpuSession` runs in stream order
on a GPU. Of its providers CUDA was run on an H200; TensorRT's two were not run here.
Source: https://onnxruntime.ai/docs/api/python/api_summary.html; pages of the execution providers for
`user_compute_stream`, which alone makes CUDA and TensorRT use a stream (microsoft/onnxruntime#19229, #20168);
device_stream_collection.cc (`CleanUp`), cuda_stream_handle.cc (`CleanUpOnRunEnd`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import, which starts it and writes into HOME
import onnxruntime as ort  # noqa: E402

from bsst.errors import BsstError, ModelError, OutOfMemoryError
from bsst.runtime.devices.base import Array, DeviceTensor, Stream
from bsst.runtime.devices.host import HostSession
from bsst.runtime.sessions.plugins_ort import open_session

__all__ = ["OrtGpuSession", "OrtSession"]

_CPU, _CUDA, _TENSORRT, _RTX = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt", "NvTensorRTRTX"))


class OrtSession(HostSession):
    """One stage whose tensors are arrays.

    Args:
        name: stage name, for messages.
        model: serialized ONNX graph.
        threads: threads of the CPU that one call may use.
        provider: the CPU, or one that copies arrays to its device and back in every call.

    Raises:
        ModelError: ONNX Runtime refuses the graph.
    """

    def __init__(self, name: str, model: bytes, *, threads: int, provider: str = _CPU) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # With patterns each stage asks the shared arena for one block as large as all it needs at once, which fits no
        # block that another stage left: `release` then peaks at 4.5 GB instead of 2.7, at the same speed.
        options.enable_mem_pattern = False
        # Stages run one after another: a pool that spins after its own call slows down the next stage's.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        _share_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
        self.name = name
        try:
            self._session = open_session(model, options, provider)
        except Exception as error:  # ONNX Runtime raises bare subclasses of Exception
            raise _error(
                name, error, f"a graph for ONNX Runtime {ort.__version__}", "export the plan again with this version"
            ) from error

    def run(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Run the stage once; see `HostSession.run`."""
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        _run(self.name, self._session, binding)


class OrtGpuSession:
    """One stage on an execution provider of the GPU; see `Session`.

    A session runs on one CUDA stream for life. It gets one of its own, and events tie that to the caller's.

    Every run is waited for, although ONNX Runtime has an option against that: without the wait it keeps all page-locked
    buffers of its copies until the session ends, and then frees them in a callback of CUDA, in which CUDA refuses to
    (error 800), which ends the process. Nor is it faster without: `docs/gpu.md`.

    Args:
        name: stage name, for messages.
        model: serialized ONNX graph.
        provider: execution provider, which has been seen to work.
        options: of the provider, besides device and stream.
        stream: for this session, or shared with sessions that run after one another.
        device_id: CUDA device index.

    Raises:
        ModelError: ONNX Runtime refuses the graph, or does not start the provider.
    """

    def __init__(
        self,
        name: str,
        model: bytes,
        *,
        provider: str,
        stream: Stream,
        options: Mapping[str, str] | None = None,
        device_id: int = 0,
    ) -> None:
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        self._name, self._stream, self._device_id = name, stream, device_id
        self._memory = "cpu" if provider == _CPU else "cuda"
        place = {"user_compute_stream": str(stream.handle)}
        if device_id:  # the first is the default, and naming it draws a warning about plug-ins for every session
            place["device_id"] = str(device_id)
        if provider == _RTX:  # the others take the stream as a sign; TensorRT's refuses a name that it does not know
            place["has_user_compute_stream"] = "1"
        providers = [(provider, {**(options or {}), **(place if self._memory == "cuda" else {})})]
        if provider == _TENSORRT:
            providers.append((_CUDA, place))  # operators that TensorRT leaves over would run on the CPU otherwise
        try:
            if len(providers) == 1:
                self._session = open_session(model, settings, *providers[0])
            else:  # a provider that fails is not to be replaced by one on another stream
                self._session = ort.InferenceSession(model, settings, providers=providers, enable_fallback=0)
        except Exception as error:  # see above
            raise ModelError(
                f"stage {name}: expected {provider} of ONNX Runtime {ort.__version__} to load it, got "
                f"{_first_line(error)}; run bsst doctor"
            ) from error
        if provider not in self._session.get_providers():
            raise ModelError(
                f"stage {name}: expected {provider}, got {', '.join(self._session.get_providers())}; run bsst doctor"
            )

    def enqueue(self, inputs: Mapping[str, DeviceTensor], outputs: Mapping[str, DeviceTensor], stream: Stream) -> None:
        """Run it once what the stream holds is done, and wait; see `Session.enqueue`."""
        binding = self._session.io_binding()
        for tensors, bind in ((inputs, binding.bind_input), (outputs, binding.bind_output)):
            for name, tensor in tensors.items():
                element = np.dtype(tensor.dtype).type
                bind(name, self._memory, self._device_id, element, tensor.shape, tensor.address)
        self._stream.wait(stream.record())
        self._stream.submit(
            self._name,
            lambda: _run(self._name, self._session, binding),
            reads=tuple(inputs.values()),
            writes=tuple(outputs.values()),
        )
        stream.wait(self._stream.record())

    def close(self) -> None:
        """Free the session; see `Session.close`."""
        self._session = None


def _run(name: str, session: ort.InferenceSession, binding: ort.IOBinding) -> None:
    try:
        session.run_with_iobinding(binding)
    except Exception as error:  # ONNX Runtime raises bare subclasses of Exception
        raise _error(name, error, "a result", "check the plan with bsst inspect") from error


@cache
def _share_arena() -> None:
    """One memory arena for all sessions of the process: few stages run at a time, so each reuses the others'."""
    info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(info, ort.OrtArenaCfg(0, -1, -1, -1))  # library defaults


def _error(name: str, error: Exception, expected: str, remedy: str) -> BsstError:
    """What a refusal of ONNX Runtime means: lack of memory says `bad_alloc` or "Failed to allocate"."""
    reason = _first_line(error)
    if "alloc" in reason.lower():
        return OutOfMemoryError(f"stage {name}: expected enough memory, got {reason}; use a smaller tile")
    return ModelError(f"stage {name}: expected {expected}, got {reason}; {remedy}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
