"""The runtime side of TensorRT-RTX where it differs from TensorRT's, over the same simulated GPU.

Sources: docstrings of tensorrt-rtx 1.7.1 (Runtime.get_engine_validity, ICudaEngine.create_runtime_config,
IRuntimeConfig, IRuntimeCache, IExecutionContext.is_stream_capturable); BuilderFlag.REQUIRE_USER_ALLOCATION ("ensures
that inference will support graph capture").
"""

from __future__ import annotations

import enum
from typing import Any

from tensorrt import ILogger  # noqa: F401
from tensorrt import runtime as _trt
from tensorrt.native import DataType, TensorFormat  # noqa: F401
from tensorrt.runtime import (  # noqa: F401
    ExecutionContextAllocationStrategy,
    TensorIOMode,
    TensorLocation,
    serialize,
)

__version__ = "1.7.1.116"
ENVIRONMENT = b"rtx 1.7.1.116, Simulated GPU\n"


class EngineValidity(enum.IntEnum):
    VALID = 0
    SUBOPTIMAL = 1
    INVALID = 2


class CudaGraphStrategy(enum.IntEnum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class Runtime(_trt.Runtime):
    library = "tensorrt-rtx"
    __slots__ = ()

    @property
    def version(self) -> str:
        return __version__

    def get_engine_validity(self, buffer: bytes) -> tuple[EngineValidity, int]:
        import json

        if not buffer.startswith(_trt.MAGIC):
            return EngineValidity.INVALID, 32
        facts = json.loads(buffer[len(_trt.MAGIC) :].partition(b"\n")[0])
        return (EngineValidity.INVALID, 1) if self.problem(facts) else (EngineValidity.VALID, 0)

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        engine = super().deserialize_cuda_engine(serialized_engine)
        return engine and ICudaEngine(engine)


class IRuntimeCache:
    def __init__(self) -> None:
        self._kernels: set[str] = set()

    def deserialize(self, blob: bytes) -> bool:
        _trt._gpu().require_context("cudaGetDeviceProperties")
        if not bytes(blob).startswith(ENVIRONMENT):
            return False
        self._kernels = set(bytes(blob)[len(ENVIRONMENT) :].decode().split())
        return True

    def serialize(self) -> memoryview | None:
        if _trt._gpu().broken is not None:
            return None
        return memoryview(ENVIRONMENT + " ".join(sorted(self._kernels)).encode())


class IRuntimeConfig:
    __slots__ = ("_cache", "_strategy", "cuda_graph_strategy")

    def __init__(self) -> None:
        self._strategy = ExecutionContextAllocationStrategy.STATIC
        self._cache: IRuntimeCache | None = None
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self._strategy = ExecutionContextAllocationStrategy(strategy)

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self._cache = cache
        return True


class ICudaEngine(_trt.ICudaEngine):
    compiled = 0
    """Kernels compiled in this process because no cache had them."""
    __slots__ = ()

    def __init__(self, engine: _trt.ICudaEngine) -> None:
        self.logger, self.facts, self.session = engine.logger, engine.facts, engine.session
        self.tensors = engine.tensors

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    def create_execution_context(self, strategy: Any = ExecutionContextAllocationStrategy.STATIC) -> IExecutionContext:
        cache = None
        if isinstance(strategy, IRuntimeConfig):
            strategy, cache = strategy._strategy, strategy._cache
        user_managed = super().create_execution_context(strategy)._user_managed
        kernel = "+".join(self.tensors)
        if cache is None or kernel not in cache._kernels:
            ICudaEngine.compiled += 1
        if cache is not None:
            cache._kernels.add(kernel)
        return IExecutionContext(self, user_managed=user_managed)


class IExecutionContext(_trt.IExecutionContext):
    __slots__ = ()

    def is_stream_capturable(self, stream: int) -> bool:
        _trt._gpu().stream_of(stream, "cudaStreamGetCaptureInfo")
        return bool(self._engine.facts.get("user_allocation"))
