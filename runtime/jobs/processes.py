"""Workers in processes of their own on this machine: one for each device, the plan loaded once in each."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread

from bsst.errors import BsstError
from bsst.runtime.jobs.run import Task
from bsst.runtime.jobs.work import Finished
from bsst.runtime.jobs.worker import Worker, portable

__all__ = ["restore_in_processes"]

TRIES = 3
"""Times that one task may take its process with it before the job gives up."""


def restore_in_processes(
    tasks: Sequence[Task], plan: Path | None, plan_key: str, *, devices: Sequence[str], threads: int, in_flight: int
) -> Generator[Finished, None, None]:
    """Hand tasks out as workers become free; a task whose process died is given to another, and the process replaced.

    Args:
        tasks: in the order in which they should start.
        plan: see `Worker`.
        plan_key: see `Worker`.
        devices: one for each process: "cpu" or "cuda:<index>".
        threads: of each worker's network.
        in_flight: clips under way in each worker.

    Yields:
        Lines for the journal, as tasks end.

    Raises:
        BsstError: a task failed, or its processes died.
    """
    context = get_context("spawn")  # CUDA and thread pools do not survive a fork
    waiting, tries = deque(tasks), dict.fromkeys((task.run for task in tasks), 0)
    crew: dict[Connection, tuple[BaseProcess, str]] = {}
    busy: dict[Connection, Task] = {}

    def hire(device: str) -> None:
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, plan, plan_key, device, threads, in_flight), daemon=True)
        with _ctrl_c_later():
            process.start()
            crew[here] = process, device
        there.close()  # so that the end of the process is the end of the connection

    try:
        for device in devices[: len(tasks)]:
            hire(device)
        while waiting or busy:
            for connection in crew:
                if connection not in busy and waiting:
                    busy[connection] = task = waiting.popleft()
                    tries[task.run] += 1
                    with suppress(OSError):  # its death is noticed below
                        connection.send(task)
            for ready in wait(list(crew)):
                assert isinstance(ready, Connection)
                try:
                    answer = ready.recv()
                except (EOFError, OSError):
                    process, device = crew.pop(ready)
                    process.join()
                    if (lost := busy.pop(ready, None)) is not None and tries[lost.run] < TRIES:
                        waiting.appendleft(lost)
                    elif lost is not None:
                        raise BsstError(
                            f"expected frames {lost.run[0].keep_from} to {lost.run[-1].keep_to - 1}, {TRIES} processes "
                            f"died over them, of too little memory perhaps; use fewer workers"
                        ) from None
                    if waiting:
                        hire(device)
                    continue
                if isinstance(answer, BaseException):
                    raise answer
                del busy[ready]
                yield from answer
    finally:
        for process, _ in crew.values():
            process.terminate()
        for process, _ in crew.values():
            process.join()


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Ctrl-C waits until a process is started and listed; the process inherits that until it ignores Ctrl-C itself."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # which lets Ctrl-C through once it is started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, plan: Path | None, plan_key: str, device: str, threads: int, in_flight: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the driver ends this one
    Thread(target=_end_with_parent, daemon=True).start()
    if device.startswith("cuda:"):
        os.environ["CUDA_VISIBLE_DEVICES"] = _visible(int(device.removeprefix("cuda:")))
    worker: Worker | None = None
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            worker = worker or Worker(plan, plan_key, threads=threads, in_flight=in_flight)
            connection.send(worker.restore(task))
        except Exception as error:
            connection.send(portable(error))


def _visible(index: int) -> str:
    """A GPU of this process, as it is called outside."""
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return names[index] if index < len(names) else str(index)


def _end_with_parent() -> None:
    """A killed driver must not leave workers behind that go on for minutes beside those of the next one."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
