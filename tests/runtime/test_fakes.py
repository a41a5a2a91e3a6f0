"""The fakes know no name that the real libraries lack, as far as those can be looked at without a GPU."""

from __future__ import annotations

import enum
import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bsst.runtime import device_cuda, graph_cuda

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


def cuda_header() -> str:
    spec = importlib.util.find_spec("triton")
    header = Path(spec.origin or "").parent / "backends/nvidia/include/cuda.h" if spec else Path("none")
    if not header.exists():
        pytest.skip("no cuda.h here; Triton brings one")
    return header.read_text(encoding="utf-8", errors="replace")


def test_the_driver_has_the_functions_that_are_called_with_as_many_arguments() -> None:
    header = cuda_header()
    with simulated_gpu():
        libcuda = importlib.import_module("pycuda.simulated").Libcuda
        functions = [name for name in vars(libcuda) if name.startswith("cu")]
        assert len(functions) == 8
        for name in functions:
            # A symbol of the library may be declared under another name that a macro replaces.
            macro = re.search(rf"^ *#define (\w+)\s+(?:__CUDA_API_PTSZ\()?{name}\)?\s*$", header, re.MULTILINE)
            declared = re.search(rf"CUresult CUDAAPI {macro[1] if macro else name}\(([^)]*)\)", header)
            assert declared, name
            assert len(declared[1].split(",")) == len(inspect.signature(getattr(libcuda, name)).parameters) - 1, name


def test_constants_of_the_driver_are_right() -> None:
    header = cuda_header()

    def value(name: str) -> int:
        found = re.search(rf"\b{name}\s*=\s*(0x[0-9a-fA-F]+|\d+)", header)
        assert found, name
        return int(found[1], 0)

    assert value("CU_STREAM_CAPTURE_MODE_THREAD_LOCAL") == graph_cuda._THREAD_LOCAL
    assert value("CU_STREAM_NON_BLOCKING") == device_cuda._NON_BLOCKING
    assert (value("CU_EVENT_BLOCKING_SYNC"), value("CU_EVENT_DISABLE_TIMING")) == (1, 2)
    with simulated_gpu():
        simulated = importlib.import_module("pycuda.simulated")
        for name in (
            "INVALID_VALUE",
            "OUT_OF_MEMORY",
            "INVALID_CONTEXT",
            "INVALID_HANDLE",
            "ILLEGAL_ADDRESS",
            "NOT_READY",
            "CAPTURED_EVENT",
        ):
            assert getattr(simulated, name) == value(f"CUDA_ERROR_{name}")
        for name in ("CAPTURE_UNSUPPORTED", "CAPTURE_INVALIDATED", "CAPTURE_ISOLATION"):
            assert getattr(simulated, name) == value(f"CUDA_ERROR_STREAM_{name}")


def test_events_of_the_fake_tell_times_only_once_both_have_passed() -> None:
    with simulated_gpu(mode="lazy"), device_cuda.CudaDevice() as device, device.current():
        cuda = device.cuda
        stream = cuda.Stream(1)
        start, end, untimed = cuda.Event(), cuda.Event(), cuda.Event(cuda.event_flags.DISABLE_TIMING)
        assert end.query(), "one that was never recorded counts as passed"
        with pytest.raises(cuda.LogicError, match="cuEventElapsedTime failed: invalid resource handle"):
            end.time_since(start)
        start.record(stream)
        importlib.import_module("pycuda.simulated").GPU.enqueue(stream.handle, lambda: None, [], "cuLaunchKernel")
        end.record(stream)
        untimed.record(stream)
        assert not end.query()
        with pytest.raises(cuda.LogicError, match="cuEventElapsedTime failed: device not ready"):
            end.time_since(start)
        end.synchronize()
        assert end.time_since(start) == 1.0
        assert start.time_since(end) == -1.0
        for pair in ((untimed, start), (end, untimed)):
            with pytest.raises(cuda.LogicError, match="cuEventElapsedTime failed: invalid resource handle"):
                pair[0].time_since(pair[1])
        with pytest.raises(cuda.LogicError, match="cuEventCreate failed: invalid argument"):
            cuda.Event(8)
        del stream, start, end, untimed, pair
