"""The CUDA device on the simulated GPU; a real one is not run here (see the last test)."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from bsst.errors import BsstError, MissingDependencyError, ModelError, OutOfMemoryError, UsageError
from bsst.runtime.devices import cuda_api
from bsst.runtime.devices.cuda import CudaDevice
from bsst.runtime.devices.cuda_driver import Gpu
from bsst.runtime.devices.cuda_graph import CaptureError, capture
from bsst.runtime.devices.host import HostDevice
from tests.fakes.libcuda import simulated
from tests.runtime.simulated_gpu import misuse, simulated_gpu, tensor

SHAPE = (1, 3, 5, 7)


@pytest.fixture(params=["cuda-bindings", "pycuda"])
def api(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param not in cuda_api.installed_apis():
        pytest.skip(f"{request.param} is not installed")
    monkeypatch.setenv("BSST_CUDA_API", request.param)
    return str(request.param)


@pytest.fixture(params=["lazy", "eager"])
def gpu(request: pytest.FixtureRequest, api: str) -> Iterator[Any]:
    with simulated_gpu(mode=request.param) as gpu:
        yield gpu


def filled(device: CudaDevice, value: float) -> np.ndarray:
    array = device.host_array(SHAPE, "float32")
    array[...] = value
    return array


def test_bytes_come_back_through_two_streams(gpu: Any) -> None:
    with CudaDevice() as device:
        assert (device.name, device.compute_capability) == ("Simulated GPU", "8.9")
        source, target = filled(device, 3.5), filled(device, 0)
        place = tensor(device, source)
        first, second = device.stream("first"), device.stream("second")
        first.upload(source, place)
        second.wait(first.record())
        second.download(place, target)
        second.record().synchronize()
        np.testing.assert_array_equal(target, source)
    assert gpu.leftovers() == {}


def test_a_missing_event_is_a_race_that_the_simulation_finds(gpu: Any) -> None:
    with CudaDevice() as device:
        source, target = filled(device, 3.5), filled(device, 0)
        place = tensor(device, source)
        device.stream("first").upload(source, place)
        with misuse(gpu, "a race"):
            device.stream("second").download(place, target)


def test_waiting_on_the_host_orders_later_work(gpu: Any) -> None:
    with CudaDevice() as device:
        source, target = filled(device, 1), filled(device, 0)
        place = tensor(device, source)
        first, second = device.stream("first"), device.stream("second")
        first.upload(source, place)
        first.synchronize()
        second.download(place, target)
        second.synchronize()
        assert target[0, 0, 0, 0] == 1


def test_every_thread_may_call_and_none_keeps_the_context(gpu: Any) -> None:
    with CudaDevice() as device:
        source, target = filled(device, 2), filled(device, 0)
        place, stream = tensor(device, source), device.stream("only")
        events: list[Any] = []

        def upload() -> None:
            stream.upload(source, place)
            events.append(stream.record())

        worker = threading.Thread(target=upload)
        worker.start()
        worker.join()
        events.pop().synchronize()
        stream.download(place, target)
        stream.synchronize()
        assert target[0, 2, 4, 6] == 2
    assert gpu.leftovers() == {}


def test_no_context_stays_current_after_close(gpu: Any) -> None:
    with CudaDevice() as outer, outer.current():
        with CudaDevice():
            pass
        assert len(gpu.driver_stack()) == 1
        assert outer.memory()[0] > 0
    assert gpu.driver_stack() == []


def test_a_device_closed_by_another_thread_leaves_nothing(gpu: Any) -> None:
    device = CudaDevice()
    stream = device.stream("only")
    tensor(device, filled(device, 2))
    stream.record().synchronize()
    worker = threading.Thread(target=device.close)
    worker.start()
    worker.join()
    device.close()
    assert gpu.leftovers() == {}
    with pytest.raises(BsstError, match="after close"):
        stream.record()


def test_events_are_used_again(gpu: Any) -> None:
    with CudaDevice() as device:
        stream = device.stream("only")
        for _ in range(50):
            stream.record().synchronize()
        held = [stream.record() for _ in range(3)]
        assert gpu.calls.count("cuEventCreate") == len(held)


def test_an_event_used_again_keeps_the_waits_that_were_queued_on_it(gpu: Any) -> None:
    with CudaDevice() as device:
        source, target = filled(device, 4), filled(device, 0)
        place = tensor(device, source)
        first, second = device.stream("first"), device.stream("second")
        first.upload(source, place)
        second.wait(first.record())  # dropped at once: its event is free again
        second.record()
        second.download(place, target)
        second.synchronize()
        assert target[0, 0, 0, 0] == 4


def test_memory_that_is_not_there_is_named_in_bytes() -> None:
    with simulated_gpu(total=10_000) as gpu, CudaDevice() as device:
        device.allocate(4_000)
        with pytest.raises(OutOfMemoryError, match=r"expected 7000 bytes .* got 6000 free of 10000; close other"):
            device.allocate(7_000)
        assert device.memory() == (6_000, 10_000)
        assert gpu.live["memory"] == 1


@pytest.mark.parametrize("shape", [(1, 3, 5, 8), (3, 5, 7)])
def test_copies_of_another_shape_are_refused(gpu: Any, shape: tuple[int, ...]) -> None:
    with CudaDevice() as device:
        place, stream = tensor(device, np.zeros(SHAPE, np.float32)), device.stream("only")
        for array in (device.host_array(shape, "float32"), device.host_array(SHAPE, "float16")):
            with pytest.raises(UsageError, match=r"expected a contiguous host array float32 \(1, 3, 5, 7\)"):
                stream.upload(array, place)
            with pytest.raises(UsageError, match="make it with Device.host_array"):
                stream.download(place, array)


def test_memory_that_is_not_page_locked_is_caught(gpu: Any) -> None:
    with CudaDevice() as device:
        place, stream = tensor(device, np.zeros(SHAPE, np.float32)), device.stream("only")
        with misuse(gpu, "not page-locked"):
            stream.upload(np.zeros(SHAPE, np.float32), place)


def test_events_of_another_device_are_refused(gpu: Any) -> None:
    with CudaDevice() as device, HostDevice() as host:
        event = host.stream("host").record()
        with pytest.raises(UsageError, match="expected an event of a CUDA stream, got HostEvent"):
            device.stream("only").wait(event)


def test_a_failure_on_the_gpu_surfaces_when_somebody_waits(gpu: Any, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise simulated.CudaFailure("cuEventSynchronize", simulated.ILLEGAL_ADDRESS)

    with CudaDevice() as device:
        stream = device.stream("only")
        gpu.enqueue(stream.handle, fail, [], "cuLaunchKernel")
        with pytest.raises(ModelError, match="expected Simulated GPU to carry on, got .*illegal memory access"):
            stream.synchronize()
    assert caplog.text.count("stream only") == 1
    assert gpu.leftovers() == {}


def test_no_gpu_no_driver_and_no_package_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    with simulated_gpu(devices=0), pytest.raises(ModelError, match="its driver, found none: .*no CUDA-capable"):
        CudaDevice()
    with simulated_gpu(), pytest.raises(ModelError, match="expected GPU 3, got 1 GPUs"):
        CudaDevice(3)
    monkeypatch.setattr(cuda_api, "installed_apis", lambda: ())
    with pytest.raises(ModelError, match="expected an NVIDIA GPU and its driver, found none; check nvidia-smi"):
        CudaDevice()
    orin = Gpu(name="Orin", compute_capability="8.7", memory_bytes=1 << 33)
    monkeypatch.setattr("bsst.runtime.devices.cuda.find_gpus", lambda: (orin,))
    with pytest.raises(MissingDependencyError, match=r"needs cuda-bindings.*pip install 'bsst\[gpu\]'"):
        CudaDevice()
    monkeypatch.setenv("BSST_CUDA_API", "pycuda")
    with pytest.raises(MissingDependencyError, match=r"needs pycuda.*pip install 'bsst\[pycuda\]'"):
        CudaDevice()
    monkeypatch.setenv("BSST_CUDA_API", "cupy")
    with pytest.raises(UsageError, match="expected BSST_CUDA_API to be cuda-bindings or pycuda, got cupy; unset it"):
        CudaDevice()


def test_nvidias_package_is_the_first_choice() -> None:
    assert cuda_api.installed_apis()[0] == "cuda-bindings"
    with simulated_gpu(), CudaDevice() as device:
        assert device.api.name.startswith("cuda-bindings 1")


def test_a_package_that_does_not_load_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_api, "installed_apis", lambda: ("cuda-bindings",))
    monkeypatch.setitem(sys.modules, "bsst.runtime.devices.cuda_bindings", None)
    with pytest.raises(ModelError, match="found none: cuda-bindings does not load: .*reinstall it"):
        CudaDevice()


class TestGraph:
    def test_a_captured_copy_runs_once_per_launch(self, gpu: Any) -> None:
        with CudaDevice() as device:
            source, target = filled(device, 1), filled(device, 0)
            place, stream = tensor(device, source), device.stream("only")
            with device.current():
                graph = capture(device.api, stream.handle, lambda: stream.upload(source, place))
            for value in (5, 6):
                source[...] = value
                with device.current():
                    graph.launch(stream.handle)
                stream.download(place, target)
                stream.synchronize()
                assert target[0, 0, 0, 0] == value
            with device.current():
                graph.close()
                graph.close()

    def test_a_capture_that_waits_is_refused_and_the_stream_goes_on(self, gpu: Any) -> None:
        with CudaDevice() as device:
            source, target = filled(device, 7), filled(device, 0)
            place, stream = tensor(device, source), device.stream("only")
            with device.current(), pytest.raises(CaptureError, match="not permitted when stream is capturing"):
                capture(device.api, stream.handle, stream.synchronize)
            stream.upload(source, place)
            stream.download(place, target)
            stream.synchronize()
            assert target[0, 0, 0, 0] == 7

    def test_a_capture_on_a_destroyed_stream_or_without_a_context_is_refused(self, gpu: Any) -> None:
        device = CudaDevice()
        stream = device.stream("only")
        with pytest.raises(CaptureError, match="invalid device context"):
            capture(device.api, stream.handle, lambda: None)
        with device.current(), pytest.raises(CaptureError, match="invalid resource handle"):
            capture(device.api, 0x1234, lambda: None)
        device.close()


@pytest.mark.needs_cuda
def test_a_real_gpu_copies_and_orders() -> None:
    with CudaDevice() as device:
        source, target = (device.host_array((64, 1 << 16), "float32") for _ in range(2))
        source[...] = np.random.default_rng(0).normal(size=source.shape)
        place = tensor(device, source)
        first, second = device.stream("first"), device.stream("second")
        with device.current():
            graph = capture(device.api, first.handle, lambda: first.upload(source, place))
        for _ in range(20):
            target[...] = 0
            with device.current():
                graph.launch(first.handle)
            second.wait(first.record())
            second.download(place, target)
            second.synchronize()
            np.testing.assert_array_equal(target, source)
            first.wait(second.record())
        with device.current():
            graph.close()
