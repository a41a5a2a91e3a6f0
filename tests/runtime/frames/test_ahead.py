"""A step in a thread of its own: one item ahead, errors in place, and no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from bsst.runtime.frames.ahead import Ahead
from tests.threads import left_threads


def test_items_come_in_order_and_the_thread_is_one_ahead() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            yield number

    with Ahead(numbers(), "numbers") as ahead:
        for number in ahead:
            time.sleep(0.02)
            assert made == list(range(min(number + 2, 5)))
    assert left_threads() == []


def test_light_items_pass_without_waiting() -> None:
    def items() -> Iterator[float]:
        for number in range(3):
            yield from (number + 0.25, number + 0.5)
            yield float(number + 1)

    with Ahead(items(), "items", light=lambda item: item % 1 != 0) as ahead:
        assert list(ahead) == [0.25, 0.5, 1, 1.25, 1.5, 2, 2.25, 2.5, 3]


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError("late")

    with Ahead(items(), "items") as ahead:
        taken = iter(ahead)
        assert next(taken) == 1
        with pytest.raises(ZeroDivisionError, match="late"):
            next(taken)


def test_leaving_early_closes_the_iterator_and_cancels_until_the_thread_ends() -> None:
    cancelled, closed = threading.Event(), []

    def items() -> Iterator[int]:
        try:
            yield 1
            cancelled.wait()
            yield 2
        finally:
            closed.append(threading.current_thread().name)

    with Ahead(items(), "items", cancel=cancelled.set) as ahead:
        next(iter(ahead))
    assert closed == ["bsst items"]
    assert left_threads() == []


def test_stop_wakes_whoever_waits() -> None:
    cancelled = threading.Event()

    def items() -> Iterator[int]:
        cancelled.wait()
        yield 1

    with Ahead(items(), "items", cancel=cancelled.set) as ahead:
        threading.Timer(0.05, ahead.stop).start()
        assert list(ahead) == []
