"""The fakes know no name that the real libraries lack, as far as those can be looked at without a GPU."""

from __future__ import annotations

import enum
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from bsst.runtime.devices import cuda as device_cuda
from bsst.runtime.devices import cuda_api
from bsst.runtime.devices.cuda_api import CudaError
from tests.fakes.libcuda import calls, simulated
from tests.fakes.libcuda.library import header

from .simulated_gpu import simulated_gpu

CLASSES = ("Runtime", "ICudaEngine", "IExecutionContext", "IRuntimeConfig", "IRuntimeCache")
ENUMS = (
    "CudaGraphStrategy",
    "EngineValidity",
    "ExecutionContextAllocationStrategy",
    "TensorIOMode",
    "TensorLocation",
)
OUR_OWN = {"facts", "library", "version", "session", "tensors", "problem", "nbytes", "numpy_type", "compiled", "logger"}
TENSORRT = {
    "Runtime": "Runtime",
    "ICudaEngine": "ICudaEngine",
    "IExecutionContext": "IExecutionContext",
    "Builder": "Builder",
    "BuilderConfig": "IBuilderConfig",
    "TimingCache": "ITimingCache",
    "OnnxParser": "OnnxParser",
    "EngineInspector": "EngineInspector",
}
"""Classes of the fake -> of the real bindings."""
NATIVE = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
"""All that TensorRT's bindings take from its libraries, which PyPI has not."""


def public(cls: type) -> Iterator[str]:
    """Names of a fake class that the code under test may use."""
    for name, value in inspect.getmembers(cls):
        if not name.startswith("_") and name not in OUR_OWN and not inspect.isclass(value):
            yield name


@pytest.mark.needs_rtx
def test_every_name_of_the_rtx_fake_is_in_the_real_library() -> None:
    real: Any = importlib.import_module("tensorrt_rtx")
    if hasattr(real, "ENVIRONMENT"):
        pytest.fail("the fake was imported instead of the library")
    with simulated_gpu():
        fake: Any = importlib.import_module("tensorrt_rtx")
        assert fake is not real
        checked = 0
        for name in CLASSES:
            missing = [member for member in public(getattr(fake, name)) if not hasattr(getattr(real, name), member)]
            assert missing == [], name
            checked += len(list(public(getattr(fake, name))))
        assert checked > 20
        for name in ENUMS:
            members: type[enum.IntEnum] = getattr(fake, name)
            for member in members:
                known = getattr(real, name).__members__
                assert int(known[member.name]) == member.value if member.name in known else member.name == "NONE"
        for member in ("FLOAT", "HALF", "INT32", "INT64", "BOOL", "BF16"):
            assert member in real.DataType.__members__
            assert hasattr(fake.DataType, member)
        assert {member.name for member in fake.TensorFormat} <= set(real.TensorFormat.__members__)


def accepts(documentation: str, method: str, given: list[str]) -> bool:
    """Whether an overload of a pybind11 docstring takes arguments of these names, in this order."""
    for overload in re.findall(rf"\b{method}\(self: [^,)]+(.*)\) -> ", documentation):
        stated = re.findall(r", (\w+): ([^,]*)", overload)
        names = [name for name, _ in stated]
        if names[: len(given)] == given and all("=" in rest for _, rest in stated[len(given) :]):
            return True
    return False


def arguments(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.mark.needs_rtx
def test_methods_of_the_rtx_fake_take_the_arguments_of_the_real_ones() -> None:
    real: Any = importlib.import_module("tensorrt_rtx")
    with simulated_gpu():
        fake: Any = importlib.import_module("tensorrt_rtx")
        checked = 0
        for name in CLASSES:
            for member in public(getattr(fake, name)):
                method = inspect.getattr_static(getattr(fake, name), member)
                if inspect.isfunction(method) and (name, member) != ("ICudaEngine", "create_execution_context"):
                    checked += 1
                    assert accepts(getattr(getattr(real, name), member).__doc__, member, arguments(method)), member
        assert checked > 15
        # One that takes a strategy or a configuration: two overloads of the real one.
        documentation = real.ICudaEngine.create_execution_context.__doc__
        for argument in ("strategy", "runtime_config"):
            assert accepts(documentation, "create_execution_context", [argument])


@pytest.fixture(scope="module")
def tensorrt_bindings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Documentation of NVIDIA's bindings of TensorRT, over libraries that do nothing."""
    compiler = shutil.which("cc")
    if compiler is None or importlib.util.find_spec("tensorrt_bindings") is None:
        pytest.skip("no C compiler, or no tensorrt-cu13-bindings")
    distributions = importlib.metadata.packages_distributions()["tensorrt_bindings"]
    major = importlib.metadata.version(distributions[0]).split(".")[0]
    folder = tmp_path_factory.mktemp("libraries")
    source = folder / "nothing.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in NATIVE))
    for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        name = f"lib{library}.so.{major}"
        command = [compiler, "-shared", "-fPIC", "-o", str(folder / name), f"-Wl,-soname,{name}", str(source)]
        subprocess.run(command, check=True)
    code = (
        "import json, tensorrt_bindings as t\n"
        "def look(c):\n"
        "    if hasattr(c, '__members__'): return {n: int(v) for n, v in c.__members__.items()}\n"
        "    return {n: getattr(c, n).__doc__ or '' for n in dir(c) if not n.startswith('_')}\n"
        "print(json.dumps({n: look(getattr(t, n)) for n in dir(t) if isinstance(getattr(t, n), type)}))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LD_LIBRARY_PATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(result.stdout))


def test_names_and_arguments_of_the_tensorrt_fake_are_those_of_the_real_bindings(
    tensorrt_bindings: dict[str, dict[str, Any]],
) -> None:
    with simulated_gpu():
        fake: Any = importlib.import_module("tensorrt")
        checked = 0
        for name, real in TENSORRT.items():
            cls = getattr(fake, name, None) or getattr(fake.runtime, name)
            for member in public(cls):
                method = inspect.getattr_static(cls, member)
                assert member in tensorrt_bindings[real], f"{real}.{member}"
                if inspect.isfunction(method):
                    checked += 1
                    assert accepts(tensorrt_bindings[real][member], member, arguments(method)), f"{real}.{member}"
        assert checked > 15
        for name in ("ExecutionContextAllocationStrategy", "LayerInformationFormat", "TensorIOMode", "TensorLocation"):
            assert {m.name: m.value for m in getattr(fake, name)} == tensorrt_bindings[name]
        for name in ("NetworkDefinitionCreationFlag", "HardwareCompatibilityLevel", "ProfilingVerbosity", "DataType"):
            assert {m.name for m in getattr(fake, name)} <= set(tensorrt_bindings[name])


def test_constants_of_the_driver_are_right() -> None:
    if not header().exists():
        pytest.skip("no cuda.h here; Triton brings one")
    declared = header().read_text(encoding="utf-8", errors="replace")

    def value(name: str) -> int:
        found = re.search(rf"\b{name}\s*=\s*(0x[0-9a-fA-F]+|\d+)", declared)
        assert found, name
        return int(found[1], 0)

    assert value("CU_STREAM_CAPTURE_MODE_THREAD_LOCAL") == cuda_api.THREAD_LOCAL
    assert value("CU_STREAM_NON_BLOCKING") == cuda_api.NON_BLOCKING
    assert (value("CU_EVENT_BLOCKING_SYNC"), value("CU_EVENT_DISABLE_TIMING")) == (
        cuda_api.BLOCKING_SYNC,
        cuda_api.DISABLE_TIMING,
    )
    for name in (
        "INVALID_VALUE",
        "OUT_OF_MEMORY",
        "NO_DEVICE",
        "INVALID_DEVICE",
        "INVALID_CONTEXT",
        "INVALID_HANDLE",
        "ILLEGAL_ADDRESS",
        "NOT_READY",
        "CAPTURED_EVENT",
        "UNKNOWN",
    ):
        assert getattr(simulated, name, getattr(calls, name, None)) == value(f"CUDA_ERROR_{name}")
    for name in ("CAPTURE_UNSUPPORTED", "CAPTURE_INVALIDATED", "CAPTURE_ISOLATION"):
        assert getattr(simulated, name) == value(f"CUDA_ERROR_STREAM_{name}")


def test_calls_that_are_not_simulated_are_refused() -> None:
    from cuda.bindings import driver

    with simulated_gpu(), device_cuda.CudaDevice() as device, device.current():
        with pytest.raises(RuntimeError, match="cuMemsetD8"):
            driver.cuMemsetD8(0, 0, 1)
        assert driver.cuStreamCreate(7)[0] == driver.CUresult.CUDA_ERROR_INVALID_VALUE


def test_events_of_the_fake_tell_times_only_once_both_have_passed() -> None:
    with simulated_gpu(mode="lazy") as gpu, device_cuda.CudaDevice() as device, device.current():
        api, stream = device.api, device.stream("only").handle
        start, end = api.make_event(timed=True), api.make_event(timed=True)
        untimed = api.make_event(timed=False)
        assert api.passed(end), "one that was never recorded counts as passed"
        with pytest.raises(CudaError, match="cuEventElapsedTime failed: invalid resource handle"):
            api.elapsed(start, end)
        api.record(start, stream)
        gpu.enqueue(stream, lambda: None, [], "cuLaunchKernel")
        api.record(end, stream)
        api.record(untimed, stream)
        assert not api.passed(end)
        with pytest.raises(CudaError, match="cuEventElapsedTime failed: device not ready"):
            api.elapsed(start, end)
        api.synchronize(end)
        assert api.elapsed(start, end) == 1.0
        assert api.elapsed(end, start) == -1.0
        for pair in ((untimed, start), (end, untimed)):
            with pytest.raises(CudaError, match="cuEventElapsedTime failed: invalid resource handle"):
                api.elapsed(*pair)
        for event in (start, end, untimed):
            api.destroy_event(event)
        with pytest.raises(CudaError, match="cuEventRecord failed: invalid resource handle"):
            api.record(start, stream)
