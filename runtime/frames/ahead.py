"""One step of a pipeline in a thread of its own, one item ahead of whoever takes the items."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

__all__ = ["Ahead"]

T = TypeVar("T")

PATIENCE_SECONDS = 0.05


class Ahead(Generic[T]):
    """Iterates in a thread: the next item is made while the caller works on the last one it took.

    The thread starts on an item when the one before was taken, so at most one finished item waits. An error in the
    thread is raised to the caller after the items before it. Use as a context manager: leaving it ends the thread.

    Args:
        items: used, and closed, in the thread.
        name: of the thread.
        cancel: makes the iterator give up soon, called from another thread, repeatedly until the thread has ended.
        light: whether the thread goes on without waiting for an item to be taken, such as a report of progress.
    """

    def __init__(
        self,
        items: Iterator[T],
        name: str,
        *,
        cancel: Callable[[], None] = lambda: None,
        light: Callable[[T], bool] = lambda item: False,
    ) -> None:
        self._items, self._cancel, self._light = items, cancel, light
        self._changed = threading.Condition()
        self._ready: deque[T] = deque()
        self._stopped = self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"bsst {name}", daemon=True)

    def stop(self) -> None:
        """Pass nothing on any more and let both sides give up; does not wait."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ready or self._ended or self._stopped)
                if self._stopped or not self._ready:
                    break
                item = self._ready.popleft()
                self._changed.notify_all()
            yield item
            del item  # nobody else holds on to it while the next one is awaited
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        while self._thread.is_alive():
            self._cancel()
            self._thread.join(PATIENCE_SECONDS)

    def _run(self) -> None:
        try:
            items = self._items
            try:
                for item in items:
                    with self._changed:
                        self._ready.append(item)
                        self._changed.notify_all()
                    light = self._light(item)
                    del item
                    if light and not self._stopped:
                        continue
                    with self._changed:
                        self._changed.wait_for(lambda: not self._ready or self._stopped)
                        if self._stopped:
                            break
            finally:
                if close := getattr(items, "close", None):
                    close()
        except BaseException as error:  # whatever it is, it belongs to the caller's thread
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
