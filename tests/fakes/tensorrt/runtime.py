"""The runtime side of the fake: engines that carry their ONNX graph and compute it on the memory of the simulated GPU.

Written from the documented Python API; what the library refuses with a logged error and False or None is refused that
way, what it leaves undefined is a `Misuse`:

* without a current CUDA context nothing works, and a context is never entered by two threads at once;
* `set_tensor_address` knows only names of the engine and wants multiples of 256 bytes;
* `execute_async_v3` wants every address set and alive, scratch memory where it is user managed, and a live stream;
* the first run of a context updates its state and cannot be captured, nor can an engine that synchronises;
* engines of another version or GPU are not deserialised.

Sources: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/infer/Core/ExecutionContext.html and
Engine.html; NvInferRuntime.h, `setTensorAddress` ("at least 256-byte alignment"), `enqueueV3` ("from the same
IExecutionContext object with different CUDA streams concurrently results in undefined behavior"); Developer Guide,
"CUDA Graphs" (one enqueue before a capture).
"""

from __future__ import annotations

import enum
import json
import os
import threading
from typing import Any

import numpy as np

from .inspector import EngineInspector
from .native import DataType, ILogger, TensorFormat

MAGIC = b"FAKE-TENSORRT\n"
GPU_CAPABILITY = "8.9"


class TensorIOMode(enum.IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class TensorLocation(enum.IntEnum):
    DEVICE = 0
    HOST = 1


class ExecutionContextAllocationStrategy(enum.IntEnum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


_DTYPES = {
    "tensor(float)": (DataType.FLOAT, np.float32),
    "tensor(float16)": (DataType.HALF, np.float16),
    "tensor(int64)": (DataType.INT64, np.int64),
    "tensor(int32)": (DataType.INT32, np.int32),
    "tensor(bool)": (DataType.BOOL, np.bool_),
}


def serialize(model: bytes, **facts: Any) -> bytes:
    """An engine around an ONNX graph.

    `facts`: `library`, `version`, `capability` (what it was built by and for), `scratch` (bytes), `synchronises`,
    `user_allocation` (built with REQUIRE_USER_ALLOCATION), `host` and `vectorised` (names of odd tensors), `refuses`
    (number of the run that is not enqueued), `crashes` (number of the run that fails on the GPU), `stale_graphs` (a
    captured run writes nothing: what the Developer Guide leaves open for a graph whose context was changed afterwards).
    """
    return MAGIC + json.dumps(facts).encode() + b"\n" + model


def init_libnvinfer_plugins(logger: Any, namespace: str) -> bool:
    return True


def _gpu() -> Any:
    from tests.fakes.libcuda.simulated import GPU

    return GPU


class Runtime:
    library = "tensorrt"
    __slots__ = ("logger",)

    @property
    def version(self) -> str:
        return os.environ.get("FAKE_TENSORRT_VERSION", "11.4.0.106")

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        if os.environ.get("FAKE_TENSORRT_INSPECTOR") == "unloadable":
            return self._refuse("Error Code 2: OutOfMemory (Requested size was larger than the free memory.)")
        if serialized_engine.startswith(b"{"):
            return ICudaEngine(self.logger, json.loads(serialized_engine), None)
        gpu = _gpu()
        try:
            gpu.require_context("cudaGetDevice")
        except Exception as error:
            return self._refuse(str(error))
        if not serialized_engine.startswith(MAGIC):
            return self._refuse(
                "Error Code 1: Serialization (Serialization assertion magicTagRead == kMAGIC_TAG failed.)"
            )
        header, _, model = serialized_engine[len(MAGIC) :].partition(b"\n")
        facts = json.loads(header)
        if (problem := self.problem(facts)) is not None:
            return self._refuse(problem)
        if len(model) > gpu.free_bytes():
            return self._refuse("Error Code 2: OutOfMemory (Requested size was larger than the free memory.)")
        return ICudaEngine(self.logger, facts, model)

    def problem(self, facts: dict[str, Any]) -> str | None:
        if facts.get("library", self.library) != self.library or facts.get("version", self.version) != self.version:
            return (
                f"Error Code 6: The engine plan file is not compatible with this version of TensorRT, expecting "
                f"library version {self.version} got {facts.get('version')}, please rebuild."
            )
        if GPU_CAPABILITY not in facts.get("capability", GPU_CAPABILITY):
            return "Error Code 6: The engine plan file is generated on an incompatible device"
        return None

    def _refuse(self, message: str) -> None:
        self.logger.log(ILogger.Severity.ERROR, message)


class ICudaEngine:
    __slots__ = ("facts", "logger", "session", "tensors")

    def __init__(self, logger: Any, facts: dict[str, Any], model: bytes | None) -> None:
        import onnxruntime as ort

        self.logger, self.facts = logger, facts
        self.session, self.tensors = None, {}
        if model is None:
            return
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.tensors = {
            **{node.name: (TensorIOMode.INPUT, node) for node in self.session.get_inputs()},
            **{node.name: (TensorIOMode.OUTPUT, node) for node in self.session.get_outputs()},
        }

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    @property
    def device_memory_size_v2(self) -> int:
        return int(self.facts.get("scratch", 1000))

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self.facts)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self.tensors[name][0] if name in self.tensors else TensorIOMode.NONE

    def get_tensor_dtype(self, name: str) -> DataType:
        return _DTYPES[self.tensors[name][1].type][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name][1].shape)

    def get_tensor_format(self, name: str) -> TensorFormat:
        return TensorFormat.HWC if name in self.facts.get("vectorised", ()) else TensorFormat.LINEAR

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.HOST if name in self.facts.get("host", ()) else TensorLocation.DEVICE

    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC
    ) -> IExecutionContext:
        if not isinstance(strategy, ExecutionContextAllocationStrategy):
            raise TypeError("create_execution_context(): incompatible function arguments")
        _gpu().require_context("cudaMalloc")
        return IExecutionContext(self, user_managed=strategy is ExecutionContextAllocationStrategy.USER_MANAGED)

    def nbytes(self, name: str) -> int:
        return int(np.prod(self.get_tensor_shape(name), dtype=np.int64)) * np.dtype(self.numpy_type(name)).itemsize

    def numpy_type(self, name: str) -> Any:
        return _DTYPES[self.tensors[name][1].type][1]


class IExecutionContext:
    __slots__ = ("_addresses", "_busy", "_engine", "_runs", "_scratch", "_user_managed")

    def __init__(self, engine: ICudaEngine, *, user_managed: bool) -> None:
        self._engine, self._user_managed = engine, user_managed
        self._addresses: dict[str, int] = {}
        self._scratch = (0, 0)
        self._runs = 0
        self._busy = threading.Lock()

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if type(memory) is not int:
            raise TypeError("set_tensor_address(): incompatible function arguments")
        if name not in self._engine.tensors:
            return self._refuse(f"Error Code 3: API Usage Error (setTensorAddress given invalid tensor name: {name})")
        if memory % 256:
            from tests.fakes.libcuda.simulated import Misuse

            raise Misuse(f"{name} at {memory:#x}, which is not a multiple of 256")
        self._addresses[name] = memory
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if tuple(shape) != self._engine.get_tensor_shape(name):
            return self._refuse(f"Error Code 3: API Usage Error (setInputShape: {name} outside the profile)")
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        from tests.fakes.libcuda.simulated import Misuse

        if not self._user_managed:
            raise Misuse("set_device_memory of a context that manages its own memory")
        if memory % 256:
            raise Misuse(f"device memory at {memory:#x}, which is not a multiple of 256")
        if size < self._engine.device_memory_size_v2:
            self._refuse("Error Code 3: API Usage Error (setDeviceMemory: size is too small)")
            return
        self._scratch = (memory, size)

    def execute_async_v3(self, stream_handle: int) -> bool:
        if not self._busy.acquire(blocking=False):
            from tests.fakes.libcuda.simulated import Misuse

            raise Misuse("execute_async_v3 of one context in two threads at once")
        try:
            return self._execute(stream_handle)
        finally:
            self._busy.release()

    def _execute(self, stream_handle: int) -> bool:
        from tests.fakes.libcuda.simulated import CAPTURE_UNSUPPORTED, Access, CudaFailure

        gpu, engine = _gpu(), self._engine
        missing = [name for name in engine.tensors if not self._addresses.get(name)]
        if missing:
            return self._refuse(
                f"Error Code 3: API Usage Error (enqueueV3: neither address nor allocator is set for {missing})"
            )
        if self._user_managed and engine.device_memory_size_v2 and not self._scratch[0]:
            return self._refuse("Error Code 3: API Usage Error (enqueueV3: device memory is not set)")
        accesses = [
            Access(self._addresses[name], engine.nbytes(name), writes=mode is TensorIOMode.OUTPUT)
            for name, (mode, _) in engine.tensors.items()
        ]
        if self._user_managed and self._scratch[1]:
            accesses.append(Access(self._scratch[0], engine.device_memory_size_v2, writes=True))
        if self._runs == engine.facts.get("refuses"):
            return self._refuse("Error Code 1: Myelin (no kernel for this)")
        crash = self._runs == engine.facts.get("crashes")
        try:
            gpu.require_context("cudaLaunchKernel")
            stream = gpu.stream_of(stream_handle, "cudaLaunchKernel")
            if stream.capture is not None and (self._runs == 0 or engine.facts.get("synchronises")):
                gpu.invalidate(stream, CAPTURE_UNSUPPORTED, "cudaStreamSynchronize")
            addresses = dict(self._addresses)
            stale = stream.capture is not None and engine.facts.get("stale_graphs")
            work = (lambda: None) if stale else (lambda: self._compute(addresses, crash))
            gpu.enqueue(stream_handle, work, accesses, "cudaLaunchKernel")
        except CudaFailure as error:
            return self._refuse(f"Error Code 1: Cuda Runtime ({error})")
        self._runs += 1
        return True

    def _compute(self, addresses: dict[str, int], crash: bool) -> None:
        gpu, engine = _gpu(), self._engine
        if crash:
            from tests.fakes.libcuda.simulated import ILLEGAL_ADDRESS, CudaFailure

            raise CudaFailure("cudaLaunchKernel", ILLEGAL_ADDRESS)

        def view(name: str) -> np.ndarray:
            raw = gpu.bytes_at(addresses[name], engine.nbytes(name))
            return raw.view(engine.numpy_type(name)).reshape(engine.get_tensor_shape(name))

        names = {mode: [n for n, (m, _) in engine.tensors.items() if m is mode] for mode in TensorIOMode}
        results = engine.session.run(names[TensorIOMode.OUTPUT], {n: view(n) for n in names[TensorIOMode.INPUT]})
        for name, result in zip(names[TensorIOMode.OUTPUT], results, strict=True):
            view(name)[...] = result
        if self._user_managed and self._scratch[1]:
            gpu.bytes_at(self._scratch[0], engine.device_memory_size_v2)[...] = 0xEE

    def _refuse(self, message: str) -> bool:
        self._engine.logger.log(ILogger.Severity.ERROR, message)
        return False
