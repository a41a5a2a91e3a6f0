"""The host device: order within a stream, real concurrency between streams, failures, and nothing left behind."""

from __future__ import annotations

import gc
import threading
import time

import numpy as np
import pytest

from bsst.errors import BsstError, OutOfMemoryError
from bsst.runtime.devices.base import DeviceTensor
from bsst.runtime.devices.host import HostDevice, host_view
from bsst.runtime.trace import Trace


def submit(stream, work, name="work"):
    stream.submit(name, work, reads=(), writes=())


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("bsst ")]


def fail(error: BaseException) -> None:
    raise error


def test_copies_and_operations_run_in_order_and_frames_are_slices() -> None:
    with HostDevice() as device:
        stream = device.stream("a")
        tensor = DeviceTensor(device.allocate(1000), "float32", (3, 5), offset=20)
        source = device.host_array((3, 5), "float32")
        source[...] = np.arange(15).reshape(3, 5)
        target = device.host_array((1, 5), "float32")
        stream.upload(source, tensor)
        submit(stream, lambda: np.multiply(host_view(tensor), 2, out=host_view(tensor)))
        stream.download(tensor.frame(1), target)
        stream.synchronize()
        np.testing.assert_array_equal(target, 2 * source[1:2])
        assert tensor.frame(2).address == tensor.address + 40
    assert threads() == []


def test_buffers_are_aligned_and_views_stay_inside() -> None:
    with HostDevice() as device:
        buffer = device.allocate(1)
        assert buffer.address % 256 == 0
        assert buffer.nbytes == 1
        for tensor in (DeviceTensor(buffer, "float32", (1,)), DeviceTensor(buffer, "bfloat16", (0,))):
            with pytest.raises(BsstError, match="expected a tensor inside a host buffer"):
                host_view(tensor)
        with pytest.raises(OutOfMemoryError, match="free bytes"):
            device.allocate(1 << 60)


def test_streams_run_at_the_same_time_unless_they_take_turns() -> None:
    for take_turns, at_once in ((False, True), (True, False)):
        with HostDevice(at_once=1 if take_turns else None) as device:
            barrier = threading.Barrier(2)

            def meet(barrier: threading.Barrier = barrier) -> None:
                barrier.wait(timeout=0.3)

            streams = [device.stream(name) for name in "ab"]
            for stream in streams:
                submit(stream, meet)
            met = True
            for stream in streams:
                try:
                    stream.synchronize()
                except threading.BrokenBarrierError:
                    met = False
            assert met == at_once


def test_an_event_orders_two_streams() -> None:
    order: list[str] = []
    with HostDevice() as device:
        first, second = device.stream("first"), device.stream("second")
        submit(first, lambda: (time.sleep(0.05), order.append("first")))
        second.wait(first.record())
        submit(second, lambda: order.append("second"))
        second.synchronize()
    assert order == ["first", "second"]


def test_the_first_failure_skips_the_rest_and_reaches_everyone_who_waits() -> None:
    ran: list[int] = []
    with HostDevice() as device:
        bad, other, third = (device.stream(name) for name in "abc")
        submit(bad, lambda: fail(ZeroDivisionError("first")))
        submit(bad, lambda: fail(KeyError("second")))
        submit(bad, lambda: ran.append(1))
        other.wait(bad.record())
        submit(other, lambda: ran.append(2))
        submit(third, lambda: ran.append(3))
        for stream in (bad, other, bad):
            with pytest.raises(ZeroDivisionError, match="first"):
                stream.synchronize()
        third.synchronize()
        assert ran == [3]
        device.abort()
        submit(bad, lambda: ran.append(4))
        bad.synchronize()
        assert ran == [3, 4]


def test_abort_drops_what_waits_and_ends_only_after_what_runs() -> None:
    ran: list[int] = []
    with HostDevice() as device:
        stream, other = device.stream("a"), device.stream("b")
        started = threading.Event()
        submit(stream, lambda: (started.set(), time.sleep(0.1), ran.append(1)))
        submit(stream, lambda: ran.append(2))
        event = stream.record()
        other.wait(event)
        submit(other, lambda: ran.append(3))
        started.wait()
        device.abort()
        assert ran == [1]
        with pytest.raises(BsstError, match="cancelled"):
            event.synchronize()
        submit(other, lambda: ran.append(4))
        other.synchronize()
        assert ran == [1, 4]


def test_close_finishes_the_queue_refuses_more_and_may_be_repeated() -> None:
    ran: list[int] = []
    device = HostDevice()
    stream = device.stream("a")
    submit(stream, lambda: time.sleep(0.05))
    submit(stream, lambda: ran.append(1))
    device.close()
    device.close()
    assert (ran, threads()) == ([1], [])
    with pytest.raises(BsstError, match="expected an open device"):
        stream.record()


def test_a_forgotten_device_ends_its_threads() -> None:
    device = HostDevice()
    device.stream("a").synchronize()
    assert threads() == ["bsst a"]
    del device
    gc.collect()
    assert threads() == []


def test_the_trace_holds_each_operation_on_the_track_of_its_stream() -> None:
    trace = Trace()
    with HostDevice(trace=trace) as device:
        stream = device.stream("a")
        submit(stream, lambda: time.sleep(0.02), "nap")
        stream.record()
    (span,) = trace.spans
    assert (span.track, span.name) == ("a", "nap")
    assert 0.02 <= span.seconds < 1


def test_a_thread_that_cannot_start_is_the_error_that_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", lambda thread: fail(RuntimeError("can't start new thread")))
    with pytest.raises(RuntimeError, match="can't start new thread"), HostDevice() as device:
        submit(device.stream("a"), lambda: None)
