"""The proof itself can fail: each kind of mistake, made on purpose, is a violation on the recording device."""

from __future__ import annotations

import numpy as np
import pytest

from bsst.errors import BsstError
from bsst.runtime.devices.base import DeviceTensor
from tests.runtime.recording import RecordingDevice, Violation


class Bench:
    """Two streams, two overlapping tensors, two arrays."""

    def __init__(self) -> None:
        self.device = RecordingDevice(seed=1)
        self.a, self.b = self.device.stream("a"), self.device.stream("b")
        buffer = self.device.allocate(100)
        self.whole = DeviceTensor(buffer, "float32", (25,))
        self.part = DeviceTensor(buffer, "float32", (1,), offset=40)
        self.source = self.device.host_array((25,), "float32")
        self.source[...] = np.arange(25)
        self.target = self.device.host_array((25,), "float32")

    def work(self, stream, *, reads=(), writes=()) -> None:
        stream.submit("work", lambda: None, reads=reads, writes=writes)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize(("first", "second"), [("writes", "writes"), ("writes", "reads"), ("reads", "writes")])
def test_accesses_in_no_order_are_a_violation_until_an_event_orders_them(bench: Bench, first: str, second: str) -> None:
    for ordered in (True, False):
        bench.work(bench.b, writes=[bench.whole])
        bench.a.wait(bench.b.record())
        bench.work(bench.a, **{first: [bench.whole]})
        event = bench.a.record()
        if ordered:
            bench.b.wait(event)
            bench.work(bench.b, **{second: [bench.part]})
            bench.a.wait(bench.b.record())
        else:
            with pytest.raises(Violation, match="same bytes in no order"):
                bench.work(bench.b, **{second: [bench.part]})


def test_reads_in_no_order_are_fine(bench: Bench) -> None:
    bench.work(bench.a, writes=[bench.whole])
    bench.b.wait(bench.a.record())
    bench.work(bench.b, reads=[bench.whole])
    bench.work(bench.a, reads=[bench.whole])


def test_a_host_that_waited_orders_what_it_submits_next(bench: Bench) -> None:
    bench.work(bench.a, writes=[bench.whole])
    bench.a.synchronize()
    bench.work(bench.b, writes=[bench.whole])


def test_an_event_orders_only_what_came_before_it(bench: Bench) -> None:
    event = bench.a.record()
    bench.work(bench.a, writes=[bench.whole])
    bench.b.wait(event)
    with pytest.raises(Violation, match="no order"):
        bench.work(bench.b, reads=[bench.whole])


def test_reading_what_nothing_wrote_is_a_violation(bench: Bench) -> None:
    bench.work(bench.a, writes=[bench.part])
    with pytest.raises(Violation, match="nothing wrote"):
        bench.work(bench.a, reads=[bench.whole])


def test_an_array_cannot_be_written_while_a_copy_needs_it(bench: Bench) -> None:
    bench.a.upload(bench.source, bench.whole)
    with pytest.raises(ValueError, match="read-only"):
        bench.source[0] = 1
    bench.a.synchronize()
    bench.source[0] = 1


def test_a_download_shows_only_after_the_host_waited(bench: Bench) -> None:
    bench.a.upload(bench.source, bench.whole)
    bench.a.download(bench.whole, bench.target)
    assert np.isnan(bench.target).all()
    with pytest.raises(Violation, match="another copy"):
        bench.a.download(bench.whole, bench.target)
    bench.a.synchronize()
    np.testing.assert_array_equal(bench.target, bench.source)


def test_an_array_must_live_until_it_was_copied(bench: Bench) -> None:
    bench.a.upload(bench.source, bench.whole)
    del bench.source
    with pytest.raises(Violation, match="freed"):
        bench.device.close()


def test_arrays_of_others_are_refused(bench: Bench) -> None:
    with pytest.raises(Violation, match="did not make"):
        bench.a.upload(np.zeros(25, np.float32), bench.whole)


def test_nothing_works_after_close(bench: Bench) -> None:
    bench.device.close()
    with pytest.raises(Violation, match="after close"):
        bench.work(bench.a, writes=[bench.whole])


def test_failures_follow_events_and_abort_forgets_them(bench: Bench) -> None:
    bench.a.submit("bad", lambda: 1 / 0, reads=(), writes=())
    bench.b.wait(bench.a.record())
    with pytest.raises(ZeroDivisionError):
        bench.b.synchronize()
    event = bench.a.record()
    bench.device.abort()
    with pytest.raises(BsstError, match="cancelled"):
        event.synchronize()
    bench.b.synchronize()
