"""Workers on the machines of a Ray cluster: an actor for each GPU, or for each share of the CPUs.

Actors exchange paths and hashes; frames stay in the job's folder, so Ray's object store stays empty. The loop is our
own, because Ray's ActorPool waits for ever for an actor whose node is gone: a lost actor costs the task it was at,
which goes to the next free one, and a substitute is asked for that starts wherever there is room, if ever. When the
driver is killed, Ray ends its actors; the next driver goes on from the journal.

Source: Ray documentation, Actors and Fault Tolerance.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bsst.errors import BsstError, MissingDependencyError, UsageError
from bsst.runtime.jobs.run import Task
from bsst.runtime.jobs.work import Finished
from bsst.runtime.jobs.worker import Worker, portable

__all__ = ["restore_on_cluster"]

PATIENCE_SECONDS = 300
"""Without a worker for so long the job gives up; what is finished is kept."""
CONNECT_SECONDS = 10
TRIES = 3
"""Times that one task, or loading the plan in each place, may take its worker with it before the job gives up."""


class RayWorker:
    """A `Worker` as an actor. The plan is loaded by a method, so that its errors arrive as they are."""

    def open(self, plan: Path | None, plan_key: str, threads: int, in_flight: int) -> None:
        """Load the plan."""
        try:
            self._worker = Worker(plan, plan_key, threads=threads, in_flight=in_flight)
        except Exception as error:
            raise portable(error) from None

    def restore(self, task: Task) -> list[Finished]:
        """See `Worker.restore`."""
        try:
            return self._worker.restore(task)
        except Exception as error:
            raise portable(error) from None


def restore_on_cluster(
    tasks: Sequence[Task],
    plan: Path | None,
    plan_key: str,
    *,
    address: str,
    on_gpu: bool,
    threads: int,
    in_flight: int,
) -> Generator[Finished, None, None]:
    """Hand tasks out to actors as they become free.

    Args:
        tasks: in the order in which they should start; their paths mean the same on every machine.
        plan: see `Worker`.
        plan_key: see `Worker`.
        address: of the cluster, "host:port"; "auto" for one that runs here, or else a new one on this machine.
        on_gpu: whether an actor needs a GPU.
        threads: CPUs of an actor; 0 for all of the smallest machine.
        in_flight: clips under way in each actor.

    Yields:
        Lines for the journal, as tasks end.

    Raises:
        MissingDependencyError: Ray is not installed.
        UsageError: the cluster cannot be reached, or has nothing that runs the plan.
        BsstError: a task failed, or no worker is left.
    """
    if not tasks:
        return
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("ray", "ray", "restoring on a cluster") from error
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, address)
    crew = _Crew(ray, plan, plan_key, on_gpu=on_gpu, threads=threads, in_flight=in_flight)
    try:
        yield from crew.work(tasks)
    finally:
        crew.dismiss()
        if ours:
            ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    options = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address != "auto":
        host, _, port = address.removeprefix("ray://").rpartition(":")
        try:  # at once, where Ray itself tries for a minute
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
        except (OSError, ValueError) as error:
            raise UsageError(f"expected a Ray cluster at {address}, cannot reach it: {error}; start one with: "
                             f"ray start --head, and give its host:port") from error  # fmt: skip
    try:
        ray.init(address=address, **options)
        return
    except Exception as error:
        if address != "auto" or not isinstance(error, ConnectionError):
            raise UsageError(f"expected a Ray cluster at {address}, cannot join it: {_line(error)}; all machines need "
                             f"the same versions of Ray and Python") from error  # fmt: skip
    try:
        ray.init(include_dashboard=False, **options)
    except Exception as error:  # a plain one, after minutes, on a machine that is too busy
        raise BsstError(f"expected to start Ray on this machine, it did not: {_line(error)}; try again when less runs "
                        f"here, or use --workers") from error  # fmt: skip


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class _Crew:
    """The actors of one job and what each is at."""

    def __init__(
        self, ray: Any, plan: Path | None, plan_key: str, *, on_gpu: bool, threads: int, in_flight: int
    ) -> None:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        kind = "GPU" if on_gpu else "CPU"
        least = min((int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1), default=1)
        share = 1 if on_gpu else threads or least
        self._places = sum(int(node.get(kind, 0) // share) for node in nodes)
        if not self._places:
            wanted = "a GPU" if on_gpu else f"{share} CPUs on one machine"
            raise UsageError(
                f"expected a cluster with {wanted} for this plan, found none; use another plan or --threads"
            )
        self._ray = ray
        self._class = ray.remote(num_gpus=1 if on_gpu else 0, num_cpus=1 if on_gpu else share)(RayWorker)
        self._opening = (plan, plan_key, 0 if on_gpu else share, in_flight)
        self._actors: dict[Any, Task | None] = {}
        """What each is at; nothing while it waits for a place, loads the plan or is free."""
        self._under_way: dict[Any, Any] = {}
        """What is waited for -> its actor."""
        self._free: list[Any] = []

    def work(self, tasks: Sequence[Task]) -> Generator[Finished, None, None]:
        waiting, tries, never_opened = deque(tasks), dict.fromkeys((task.run for task in tasks), 0), 0
        for _ in range(min(self._places, len(tasks))):
            self._hire()
        heard = time.monotonic()
        while waiting or any(self._actors.values()):
            while waiting and self._free:
                actor = self._free.pop()
                self._actors[actor] = following = waiting.popleft()
                tries[following.run] += 1
                self._under_way[actor.restore.remote(following)] = actor
            ready, _ = self._ray.wait(list(self._under_way), num_returns=1, timeout=1)
            if any(self._actors.values()) or ready:
                heard = time.monotonic()
            elif time.monotonic() - heard > PATIENCE_SECONDS:
                raise BsstError(f"expected workers on the cluster, got none for {PATIENCE_SECONDS} s; run the same "
                                f"command to go on when there are some")  # fmt: skip
            for reference in ready:
                actor = self._under_way.pop(reference)
                task, self._actors[actor] = self._actors[actor], None
                try:
                    answer = self._ray.get(reference, timeout=CONNECT_SECONDS)
                except self._ray.exceptions.RayTaskError as error:
                    raise portable(error.cause) from error
                except self._ray.exceptions.RayError as error:  # its process, machine or network is gone
                    del self._actors[actor]
                    never_opened += task is None
                    if task is not None:
                        waiting.appendleft(task)
                    if never_opened > TRIES * self._places or (task is not None and tries[task.run] >= TRIES):
                        at = "loading the plan" if task is None else f"frame {task.run[0].keep_from}"
                        raise BsstError(f"expected workers, lost {TRIES} over {at}, for too little memory perhaps; run "
                                        f"the same command to go on") from error  # fmt: skip
                    self._hire()
                    continue
                self._free.append(actor)
                if task is not None:
                    yield from answer

    def dismiss(self) -> None:
        for actor in self._actors:
            with suppress(self._ray.exceptions.RayError):
                self._ray.kill(actor)

    def _hire(self) -> None:
        actor = self._class.remote()
        self._actors[actor] = None
        self._under_way[actor.open.remote(*self._opening)] = actor
