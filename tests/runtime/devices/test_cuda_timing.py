"""When a GPU did what, on the simulated GPU, whose time is made up but keeps order and overlap."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bsst.errors import ModelError
from bsst.runtime.devices.cuda import CudaDevice
from bsst.runtime.devices.cuda_api import CudaError
from bsst.runtime.network.network import load_network
from bsst.runtime.network.wiring import calls_of
from bsst.runtime.restore import deblur_frames
from bsst.runtime.trace import Span, Trace
from tests.fakes.libcuda import simulated
from tests.networks import city
from tests.runtime.simulated_gpu import gpu_plan, simulated_gpu, tensor

SHAPE = (1, 3, 5, 7)
MILLISECOND = 1e-3


@pytest.fixture(params=["lazy", "eager"])
def gpu(request: pytest.FixtureRequest) -> Iterator[Any]:
    with simulated_gpu(mode=request.param) as gpu:
        yield gpu


def track(trace: Trace, name: str) -> list[Span]:
    return [span for span in trace.spans if span.track == name]


def waits(gpu: Any) -> int:
    return sum("Synchronize" in call for call in gpu.calls)


def check_order(spans: list[Span]) -> None:
    """Operations of a stream follow one another and take the simulated GPU's millisecond; more where another thread
    waited for something between the events of one."""
    for former, latter in zip(spans, spans[1:], strict=False):
        assert latter.start >= former.start + former.seconds - 1e-9
    assert all(span.seconds >= MILLISECOND - 1e-9 for span in spans)


def test_spans_are_in_order_on_each_stream_and_come_when_somebody_waits(gpu: Any) -> None:
    trace = Trace()
    before = time.perf_counter() - trace._origin
    with CudaDevice(trace=trace) as device:
        arrays = [device.host_array(SHAPE, "float32") for _ in range(3)]
        places = [tensor(device, array) for array in arrays]
        after = time.perf_counter() - trace._origin
        first, second = device.stream("first"), device.stream("second")
        for array, place in zip(arrays, places, strict=True):
            first.upload(array, place)
        second.wait(first.record())
        second.download(places[0], arrays[0])
        first.download(places[1], arrays[1])
        assert trace.spans == []
        done = waits(gpu)
        second.synchronize()
        assert waits(gpu) == done + 1
        assert [span.name for span in track(trace, "second")] == ["download"]
        assert [span.name for span in track(trace, "first")][:3] == ["upload"] * 3
    uploads, (download,) = track(trace, "first"), track(trace, "second")
    assert [span.name for span in uploads] == ["upload"] * 3 + ["download"]
    check_order(uploads)
    assert all(span.seconds == pytest.approx(MILLISECOND) for span in (*uploads, download))
    assert before <= uploads[0].start <= after + MILLISECOND
    assert download.start == pytest.approx(uploads[3].start), "they run at the same time after the third upload"


def test_an_untraced_device_measures_nothing(gpu: Any) -> None:
    with CudaDevice() as device:
        array = device.host_array(SHAPE, "float32")
        place, stream = tensor(device, array), device.stream("only")
        start = stream.record()
        stream.upload(array, place)
        end = stream.record()
        end.synchronize()
        assert gpu.calls.count("cuEventRecord") == 2
        with device.current(), pytest.raises(CudaError, match="ElapsedTime failed: invalid resource"):
            device.api.elapsed(start.event, end.event)
        assert "cuEventQuery" not in gpu.calls


def test_a_long_run_uses_as_many_events_as_a_short_one(gpu: Any) -> None:
    trace = Trace()
    with CudaDevice(trace=trace) as device:
        array = device.host_array(SHAPE, "float32")
        place, stream = tensor(device, array), device.stream("only")
        for _ in range(100):
            for _ in range(3):
                stream.upload(array, place)
            stream.synchronize()
        assert gpu.calls.count("cuEventCreate") == 1 + 1 + 2 * 3
    assert len(trace.spans) == 300


def test_what_fails_when_it_is_submitted_has_no_span_and_gives_its_events_back(gpu: Any) -> None:
    def refuse() -> None:
        raise ModelError("refused")

    trace = Trace()
    with CudaDevice(trace=trace) as device:
        array = device.host_array(SHAPE, "float32")
        place, stream = tensor(device, array), device.stream("only")
        for _ in range(10):
            with pytest.raises(ModelError, match="refused"):
                stream.submit("stage", refuse, reads=(), writes=())
        stream.upload(array, place)
        stream.synchronize()
        assert gpu.calls.count("cuEventCreate") == 1 + 1 + 2
    assert [span.name for span in trace.spans] == ["upload"]


def test_a_failure_on_the_gpu_keeps_the_spans_before_it_and_leaves_nothing(gpu: Any) -> None:
    def fail() -> None:
        raise simulated.CudaFailure("cuLaunchKernel", simulated.ILLEGAL_ADDRESS)

    trace = Trace()
    with CudaDevice(trace=trace) as device:
        array = device.host_array(SHAPE, "float32")
        place, stream = tensor(device, array), device.stream("only")
        stream.upload(array, place)
        stream.synchronize()

        def run() -> None:
            stream.submit("stage", lambda: gpu.enqueue(stream.handle, fail, [], "kernel"), reads=(), writes=())
            stream.synchronize()

        with pytest.raises(ModelError, match="illegal memory access"):
            run()
    assert [span.name for span in trace.spans] == ["upload"]


def test_a_gpu_that_fails_at_the_origin_is_let_go(gpu: Any) -> None:
    gpu.broken = simulated.ILLEGAL_ADDRESS
    with pytest.raises(ModelError, match="illegal memory access"):
        CudaDevice(trace=Trace())
    assert gpu.leftovers() == {}


def test_threads_that_submit_and_wait_at_once_lose_no_span(gpu: Any) -> None:
    trace = Trace()
    with CudaDevice(trace=trace) as device:

        def work(name: str) -> None:
            array = device.host_array(SHAPE, "float32")
            place, stream = tensor(device, array), device.stream(name)
            for turn in range(40):
                stream.upload(array, place)
                if turn % 3 == 0:
                    stream.synchronize()

        threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert Counter(span.track for span in trace.spans) == {"a": 40, "b": 40, "c": 40}
    for name in "abc":
        check_order(track(trace, name))


def test_a_traced_video_waits_as_often_as_an_untraced_one_and_shows_every_stage(cpu_plan: Path, tmp_path: Path) -> None:
    """Nine frames, three windows of two tiles."""
    trace, frames, counts = Trace(), [], []
    with simulated_gpu() as gpu:
        path = gpu_plan(cpu_plan, "tensorrt", tmp_path).path
        for traced in (None, trace):
            network = load_network(path, in_flight=1, trace=traced)
            gpu.calls.clear()
            with network:
                frames.append(list(deblur_frames(iter(city(9, 100, 120)), network)))
            counts.append(waits(gpu))
    assert counts[0] == counts[1] > 0
    np.testing.assert_array_equal(*frames)
    runs = Counter(span.name for span in trace.spans)
    expected = Counter(call.stage for call in calls_of(tuple(network.manifest.config["branches"]), 4) * 6)
    assert {stage: runs[stage] for stage in expected} == expected
    assert (runs["flow_features"], runs["flow"]) == (9, 8)
    assert set(runs) == {*expected, "flow_features", "flow", "upload", "download"}
    assert {span.track for span in trace.spans} == {"upload", "flow", "network", "download"}
    for name in ("upload", "flow", "network", "download"):
        check_order(track(trace, name))


def test_a_crash_in_a_traced_video_keeps_the_spans_before_it_and_leaves_nothing(cpu_plan: Path, tmp_path: Path) -> None:
    trace = Trace()
    with simulated_gpu():
        path = gpu_plan(cpu_plan, "tensorrt", tmp_path, stages={"attend": {"crashes": 2}}).path
        network = load_network(path, trace=trace)
        with network, pytest.raises(ModelError, match="illegal memory access"):
            list(deblur_frames(iter(city(9, 100, 120)), network))
    assert 0 < sum(span.name == "attend" for span in trace.spans) <= 2


@pytest.mark.needs_cuda
def test_a_real_gpu_times_copies_within_what_the_host_saw() -> None:
    trace = Trace()
    with CudaDevice(trace=trace) as device:
        array = device.host_array((64, 1 << 16), "float32")
        array[...] = 1
        place, stream = tensor(device, array), device.stream("only")
        before = time.perf_counter() - trace._origin
        for _ in range(20):
            stream.upload(array, place)
        stream.synchronize()
        after = time.perf_counter() - trace._origin
    assert len(trace.spans) == 20
    for former, latter in zip(trace.spans, trace.spans[1:], strict=False):
        assert latter.start >= former.start + former.seconds - 5e-6
    assert before - MILLISECOND <= trace.spans[0].start
    assert trace.spans[-1].start + trace.spans[-1].seconds <= after + MILLISECOND
    assert sum(span.seconds for span in trace.spans) > 20 * array.nbytes / 1e12, "faster than any bus"
