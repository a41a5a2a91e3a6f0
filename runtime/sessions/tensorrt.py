"""Sessions of TensorRT and TensorRT-RTX engines: addresses are set, nothing is copied, nothing allocated per call.

Scratch memory belongs to the lane and serves all its engines (`ExecutionContextAllocationStrategy.USER_MANAGED`).
What an engine expects is compared with the manifest before it runs for the first time.

CUDA graphs are kept per set of addresses, because a propagation step alternates between a few of them: a set that is
met for the second time is run and then captured, later ones are one launch. TensorRT wants one ordinary run before a
capture. Its guide advises one context per graph (NVIDIA/TensorRT#3798); NVIDIA's TensorRT-Edge-LLM takes several from
one context, kept by addresses, as here (cpp/runtime/exec/engineExecutor.cpp), and `bsst doctor --selftest` compares
them with plain runs. TensorRT-RTX can capture by itself, but keeps one set of addresses and captures again at every
change (pytorch/TensorRT#4187), so the same way is taken with it where the engine allows (`is_stream_capturable`).

Not run here, no TensorRT. Source:
https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/ (ICudaEngine,
IExecutionContext, IRuntimeConfig) and the docstrings of tensorrt-rtx 1.7.1, which is installed for the build tests.
"""

from __future__ import annotations

import importlib
import logging
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Any

from bsst.errors import MissingDependencyError, ModelError, OutOfMemoryError, PlanError
from bsst.plan.manifest import StageSpec, Target
from bsst.runtime.devices.base import DeviceTensor, Stream
from bsst.runtime.devices.cuda import CudaDevice
from bsst.runtime.devices.cuda_graph import CaptureError, CudaGraph, capture
from bsst.runtime.sessions.kernel_cache import RuntimeCache
from bsst.runtime.sessions.lane import Lane

__all__ = ["TrtLibrary", "TrtSession"]

_LOG = logging.getLogger("bsst.runtime")
_LIBRARIES = {"tensorrt": ("tensorrt", "tensorrt"), "tensorrt-rtx": ("tensorrt_rtx", "tensorrt-rtx")}
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}
_ALIGNMENT = 256
"""What `setTensorAddress` asks of every address."""
_GRAPHS = 128
"""Sets of addresses remembered per stage; 2 windows of 48 frames need 96."""


class TrtLibrary:
    """TensorRT or TensorRT-RTX, loaded, with the runtime that reads engines on one device.

    Args:
        target: of the plan.
        device: where the engines run.

    Raises:
        MissingDependencyError: the library is not installed.
    """

    def __init__(self, target: Target, device: CudaDevice) -> None:
        module, package = _LIBRARIES[target]
        try:
            self.trt = importlib.import_module(module)
        except ImportError as error:
            raise MissingDependencyError(package, target, f"a plan of target {target}") from error
        self.version = str(self.trt.__version__)
        self.name = f"{package} {self.version}"
        self.device = device
        self.log: deque[str] = deque(maxlen=20)
        self._logger = _logger(self.trt, self.log)
        with device.current():
            # Engines of plain graphs may still hold NVIDIA's own plugins, such as the one behind DeformConv.
            if target == "tensorrt":
                self.trt.init_libnvinfer_plugins(self._logger, "")
            self._runtime = self.trt.Runtime(self._logger)

    def deserialize(self, stage: str, engine: bytes) -> Any:
        """Bytes -> ICudaEngine; the context must be current.

        Raises:
            PlanError: made by another version, for another GPU, or damaged; in the library's own words.
        """
        self.log.clear()
        reasons: list[str] = []
        if hasattr(self._runtime, "get_engine_validity"):  # reads the header alone, and says why not
            validity, diagnostics = self._runtime.get_engine_validity(engine)
            if validity == self.trt.EngineValidity.INVALID:
                reasons.append(f"{validity.name}, {diagnostics}")
        loaded = None if reasons else self._runtime.deserialize_cuda_engine(engine)
        if loaded is None:
            self.check_memory(stage)
            raise PlanError(
                f"stage {stage}: expected an engine for {self.name} on {self.device.name} "
                f"({self.device.compute_capability}), got {', '.join(reasons) or self.complaint()}; "
                "make the plan again on this machine: bsst export --from CPU_PLAN"
            )
        return loaded

    def complaint(self) -> str:
        """Last error that the library logged."""
        return self.log[-1] if self.log else "a refusal without a word"

    def check_memory(self, stage: str) -> None:
        """Raise OutOfMemoryError if that is what the library complained about."""
        if any("out of memory" in line.lower() or "outofmemory" in line.lower() for line in self.log):
            free, total = self.device.memory()
            raise OutOfMemoryError(
                f"stage {stage}: expected memory for its engine on {self.device.name}, got {free} bytes free of "
                f"{total}, {self.complaint()}; close other programs, or use a plan with smaller tiles"
            )


class TrtSession:
    """One engine on a GPU; see `Session`.

    Args:
        spec: the stage as the manifest states it.
        engine: serialized engine.
        library: who reads it.
        lane: the stages that never run together with this one.
        graphs: capture CUDA graphs.
        cache: kernels that TensorRT-RTX compiles when an engine is first loaded on a GPU; None compiles them anew.

    Raises:
        PlanError: the engine does not load here, or is not what the manifest says.
        OutOfMemoryError: its weights do not fit.
    """

    def __init__(
        self,
        spec: StageSpec,
        engine: bytes,
        *,
        library: TrtLibrary,
        lane: Lane,
        graphs: bool = True,
        cache: RuntimeCache | None = None,
    ) -> None:
        self._spec = spec
        self._expected = {tensor.name: (tensor.dtype, tensor.shape) for tensor in (*spec.inputs, *spec.outputs)}
        self._library = library
        self._lane = lane
        self._cache = cache
        self._kernels: Any = None
        self._graphs: OrderedDict[tuple[int, ...], CudaGraph | None] = OrderedDict()
        self._no_graphs = "" if graphs else "switched off"
        self._launches = 0
        with library.device.current():
            self._engine = library.deserialize(spec.name, engine)
            _check_engine(library.trt, self._engine, spec)
            self._context = self._make_context()
            lane.reserve(int(self._engine.device_memory_size_v2))
        self._scratch: DeviceTensor | None = None

    def enqueue(self, inputs: Mapping[str, DeviceTensor], outputs: Mapping[str, DeviceTensor], stream: Stream) -> None:
        """Append one run; see `Session.enqueue`."""
        tensors = {**inputs, **outputs}
        self._check(tensors)
        scratch = self._lane.scratch()
        self._lane.submit(
            stream,
            self._spec.name,
            lambda: self._run(tensors, scratch, stream.handle),
            reads=tuple(inputs.values()),
            writes=(*outputs.values(), scratch),
        )

    def graph_use(self) -> str:
        """For reports: how many graphs there are and how often one was launched, or why there are none."""
        count = sum(graph is not None for graph in self._graphs.values())
        return self._no_graphs or f"{count} graphs, launched {self._launches} times"

    def close(self) -> None:
        """Free graphs, context and engine, and keep what was compiled; see `Session.close`."""
        if self._engine is None:
            return
        with self._library.device.current():
            for graph in self._graphs.values():
                if graph is not None:
                    graph.close()
            self._graphs.clear()
            if self._cache is not None and self._kernels is not None:
                blob = self._kernels.serialize()  # None where the library failed, as on a GPU that broke down
                if blob is not None:
                    self._cache.save(bytes(blob))
            self._context = self._kernels = self._engine = None

    def _make_context(self) -> Any:
        trt, strategy = self._library.trt, self._library.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._cache is None:
            context = self._engine.create_execution_context(strategy)
        else:
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED
            self._kernels = config.create_runtime_cache()
            known = self._cache.load()
            if known is not None and not self._kernels.deserialize(known):
                _LOG.info("stage %s: compiled kernels of another driver or version are not used", self._spec.name)
            config.set_runtime_cache(self._kernels)
            context = self._engine.create_execution_context(config)
        if context is None:
            self._library.check_memory(self._spec.name)
            raise ModelError(
                f"stage {self._spec.name}: expected an execution context, got {self._library.complaint()}; "
                "free GPU memory or use a plan with smaller tiles"
            )
        return context

    def _check(self, tensors: Mapping[str, DeviceTensor]) -> None:
        given = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
        if given != self._expected:
            raise ModelError(
                f"stage {self._spec.name}: expected {_difference(self._expected, given)}; "
                "this is a bug, please report it"
            )
        for name, tensor in tensors.items():
            if tensor.address % _ALIGNMENT:
                raise ModelError(
                    f"stage {self._spec.name}: expected {name} at a multiple of {_ALIGNMENT} bytes, got "
                    f"{tensor.address:#x}; export the plan with a tile that is a multiple of 64"
                )

    def _run(self, tensors: Mapping[str, DeviceTensor], scratch: DeviceTensor, stream: int) -> None:
        """Called in stream order, with the context current."""
        key = (scratch.address, *(tensors[name].address for name in self._expected))
        if (graph := self._graphs.get(key)) is not None:
            self._graphs.move_to_end(key)
            self._launch(graph, stream)
            return
        self._prepare(tensors, scratch)
        self._execute(stream)
        if self._no_graphs:
            return
        if key not in self._graphs:
            self._remember(key, None)
        elif (captured := self._capture(stream)) is not None:
            self._remember(key, captured)

    def _prepare(self, tensors: Mapping[str, DeviceTensor], scratch: DeviceTensor) -> None:
        if self._scratch != scratch:
            self._context.set_device_memory(scratch.address, scratch.nbytes)
            self._scratch = scratch
        for name, tensor in tensors.items():
            if not self._context.set_tensor_address(name, tensor.address):
                raise ModelError(
                    f"stage {self._spec.name}: expected to set the address of {name}, got {self._library.complaint()}; "
                    "this is a bug, please report it"
                )

    def _execute(self, stream: int) -> None:
        self._library.log.clear()
        if not self._context.execute_async_v3(stream):
            raise ModelError(
                f"stage {self._spec.name}: expected {self._library.name} to run it, got {self._library.complaint()}; "
                "run bsst doctor --selftest and report what it writes"
            )

    def _capture(self, stream: int) -> CudaGraph | None:
        """Capture the run that was just done, with everything still set as it was; None and a line where refused."""
        capturable = getattr(self._context, "is_stream_capturable", lambda _: True)  # TensorRT-RTX 1.2 and later
        try:
            if not capturable(stream):
                raise CaptureError("the engine allocates while it runs")
            return capture(self._library.device.api, stream, lambda: self._execute(stream))
        except CaptureError as error:
            self._no_graphs = f"no graphs: {error}"
            _LOG.info("stage %s runs without CUDA graphs: %s", self._spec.name, error)
            return None

    def _launch(self, graph: CudaGraph, stream: int) -> None:
        try:
            graph.launch(stream)
        except CaptureError as error:
            raise ModelError(
                f"stage {self._spec.name}: expected its CUDA graph to start, got {error}; report this with bsst doctor"
            ) from error
        self._launches += 1

    def _remember(self, key: tuple[int, ...], graph: CudaGraph | None) -> None:
        """Keep the latest sets; a cycle of more sets than that never captures instead of capturing every time."""
        self._graphs[key] = graph
        self._graphs.move_to_end(key)
        if len(self._graphs) > _GRAPHS:
            _, old = self._graphs.popitem(last=False)
            if old is not None:
                old.close()


def _check_engine(trt: Any, engine: Any, spec: StageSpec) -> None:
    """Compare every tensor of an engine with the manifest.

    Raises:
        PlanError: names, directions, dtypes, shapes or layouts differ.
    """
    expected = {
        **{tensor.name: ("input", tensor.dtype, tensor.shape, "linear on the GPU") for tensor in spec.inputs},
        **{tensor.name: ("output", tensor.dtype, tensor.shape, "linear on the GPU") for tensor in spec.outputs},
    }
    got = {name: _describe(trt, engine, name) for name in map(engine.get_tensor_name, range(engine.num_io_tensors))}
    if got != expected:
        raise PlanError(
            f"stage {spec.name}: the engine is not what the manifest says: expected {_difference(expected, got)}; "
            "export the plan again"
        )


def _describe(trt: Any, engine: Any, name: str) -> tuple[str, str, tuple[int, ...], str]:
    linear = engine.get_tensor_format(name) == trt.TensorFormat.LINEAR
    on_gpu = engine.get_tensor_location(name) == trt.TensorLocation.DEVICE
    return (
        "input" if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else "output",
        _DTYPES.get(engine.get_tensor_dtype(name).name, engine.get_tensor_dtype(name).name),
        tuple(engine.get_tensor_shape(name)),
        "linear on the GPU" if linear and on_gpu else "another layout or on the host",
    )


def _difference(expected: Mapping[str, tuple[Any, ...]], got: Mapping[str, tuple[Any, ...]]) -> str:
    """The tensors that differ, as "<expected>, got <found>"."""

    def words(tensors: Mapping[str, tuple[Any, ...]]) -> str:
        names = sorted(name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name))
        return ", ".join(f"{name} {' '.join(map(str, tensors.get(name, ('absent',))))}" for name in names)

    return f"{words(expected)}, got {words(got)}"


def _logger(trt: Any, errors: deque[str]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                errors.append(message.strip())
            elif severity <= trt.ILogger.Severity.WARNING:
                _LOG.info("%s", message.strip())

    return Logger()
