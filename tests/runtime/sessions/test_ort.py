"""What ONNX Runtime's GPU providers are asked for, against a stand-in that reads options as onnxruntime-gpu 1.31 does.

Sources: onnxruntime_pybind_state.cc, CreateExecutionProviderInstance (TensorRT: names it knows, booleans as words);
tensorrt_execution_provider.cc (`fs::create_directory(cache_path_)`, one level);
onnxruntime_inference_collection.py (`enable_fallback`); device_stream_collection.cc (`CleanUp(sync_streams)`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnxruntime as ort
import pytest

from bsst.errors import ModelError, OutOfMemoryError
from bsst.plan.manifest import StageSpec
from bsst.runtime.devices.cuda import CudaDevice
from bsst.runtime.sessions.backends import _provider_options
from bsst.runtime.sessions.ort import OrtGpuSession, OrtSession
from tests.runtime.sessions.test_tensorrt import MODEL, SPEC
from tests.runtime.simulated_gpu import simulated_gpu, tensor

CUDA, TENSORRT, RTX = (f"{name}ExecutionProvider" for name in ("CUDA", "Tensorrt", "NvTensorRTRTX"))
KNOWN = {
    CUDA: {"device_id", "has_user_compute_stream", "user_compute_stream"},
    TENSORRT: {"device_id", "user_compute_stream", "trt_engine_cache_enable", "trt_engine_cache_path"},
    RTX: {"device_id", "has_user_compute_stream", "user_compute_stream", "nv_runtime_cache_path"},
}


class StrictSession:
    """Reads the options of its providers, says that all of them started, and counts the buffers that runs leave."""

    made: StrictSession
    page_locked = 0

    def __init__(self, model: bytes, options: Any, *, providers: list[Any], enable_fallback: int = 1) -> None:
        self.providers, self.enable_fallback = providers, enable_fallback
        StrictSession.made = self
        for name, given in providers:
            for key, value in given.items():
                if key not in KNOWN[name]:
                    raise RuntimeError(f"Invalid {name} option: {key}")
                if not isinstance(value, str):
                    raise TypeError(f"{key}: incompatible function arguments")
                if key == "trt_engine_cache_enable" and value not in ("True", "true", "False", "false"):
                    raise RuntimeError(f"The value for the key '{key}' should be 'True' or 'False'")
                if key == "user_compute_stream":
                    int(value, 10)
                if key.endswith("_cache_path") and not Path(value).is_dir():
                    Path(value).mkdir()
            if name == RTX and given["has_user_compute_stream"] != "1":
                raise RuntimeError("user_compute_stream requires has_user_compute_stream=1")

    def get_providers(self) -> list[str]:
        return [*(name for name, _ in self.providers), "CPUExecutionProvider"]

    def io_binding(self) -> Mock:
        return Mock()

    def run_with_iobinding(self, binding: Mock, options: ort.RunOptions | None = None) -> None:
        self.page_locked += 1
        waits = options is None or options.get_run_config_entry("disable_synchronize_execution_providers") == "0"
        if waits:  # ONNX Runtime gives buffers back in this case alone
            self.page_locked = 0


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setattr(ort, "InferenceSession", StrictSession)
    monkeypatch.setenv("BSST_CACHE_DIR", str(tmp_path / "not" / "yet"))
    with simulated_gpu(), CudaDevice() as device:
        yield device


def session(device: CudaDevice, provider: str, stage: StageSpec = SPEC) -> tuple[StrictSession, str]:
    stream = device.stream("own")
    OrtGpuSession("mix", MODEL, provider=provider, stream=stream, options=_provider_options(provider, stage))
    return StrictSession.made, str(stream.handle)


@pytest.mark.parametrize("provider", [CUDA, TENSORRT, RTX])
def test_every_provider_takes_its_options_on_a_fresh_machine(device: CudaDevice, provider: str) -> None:
    made, handle = session(device, provider)
    assert made.providers[0][0] == provider
    assert all(options["user_compute_stream"] == handle for _, options in made.providers)
    assert not any("device_id" in options for _, options in made.providers)  # "0" draws a warning for every session


@pytest.mark.parametrize("provider", [CUDA, TENSORRT, RTX])
def test_another_gpu_is_named(device: CudaDevice, provider: str) -> None:
    OrtGpuSession("mix", MODEL, provider=provider, stream=device.stream("own"), device_id=1)
    assert all(options["device_id"] == "1" for _, options in StrictSession.made.providers)


def test_a_run_leaves_no_page_locked_buffer_that_only_the_end_of_the_session_would_free(device: CudaDevice) -> None:
    stage = OrtGpuSession("mix", MODEL, provider=CUDA, stream=device.stream("own"))
    x = tensor(device, np.zeros((1, 2), np.float32))
    for _ in range(3):
        stage.enqueue({"x": x}, {"y": x}, device.stream("caller"))
    assert StrictSession.made.page_locked == 0


def test_what_tensorrt_leaves_over_runs_on_the_same_stream_of_the_gpu(device: CudaDevice) -> None:
    made, handle = session(device, TENSORRT)
    assert made.providers[1:] == [(CUDA, {"user_compute_stream": handle})]


def test_a_lack_of_memory_is_not_taken_for_a_wrong_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("[ONNXRuntimeError] : 6 : Exception during initialization: std::bad_alloc")

    monkeypatch.setattr(ort, "InferenceSession", fail)
    with pytest.raises(OutOfMemoryError, match="stage mix: expected enough memory"):
        OrtSession("mix", MODEL, threads=1)


def test_no_other_provider_may_take_over(device: CudaDevice) -> None:
    assert session(device, CUDA)[0].enable_fallback == 0


def test_graphs_have_a_folder_each(device: CudaDevice) -> None:
    other = dataclasses.replace(SPEC, sha256="1" * 64)
    paths = {session(device, TENSORRT, stage)[0].providers[0][1]["trt_engine_cache_path"] for stage in (SPEC, other)}
    assert len(paths) == 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"has_user_compute_stream": "1"}, "Invalid TensorrtExecutionProvider option: has_user_compute_stream"),
        ({"trt_engine_cache_enable": "1"}, "should be 'True' or 'False'"),
    ],
)
def test_a_refusal_leaves_in_the_words_of_the_library(device: CudaDevice, options: dict[str, str], reason: str) -> None:
    with pytest.raises(ModelError, match=f"stage mix: .* got .*{reason}.*; run bsst doctor"):
        OrtGpuSession("mix", MODEL, provider=TENSORRT, stream=device.stream("own"), options=options)
