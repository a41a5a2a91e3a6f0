"""How work is shared out: a worker's side of a pipe, and the crew of a cluster whose actors are lost.

Ray itself runs in `test_cluster.py`; here its calls are answered by a script, so that every loss has its turn.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bsst.errors import BsstError, ModelError, OutOfMemoryError, UsageError
from bsst.runtime.jobs import processes
from bsst.runtime.jobs.cluster_ray import TRIES, _Crew
from bsst.runtime.jobs.run import Task
from bsst.runtime.jobs.segment import Segment
from bsst.runtime.restore import Tiling


def task(index: int) -> Task:
    segment = Segment(first=4 * index, last=4 * index + 4, keep_from=4 * index, keep_to=4 * index + 4)
    return Task(
        video=Path("clip.mp4"), folder=Path("work"), run=(segment,), tile=(64, 128), tiling=Tiling(), settings=None,  # type: ignore[arg-type]
        hwaccel="none",
    )  # fmt: skip


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


class Driver:
    """The other end of a worker's pipe."""

    def __init__(self, *tasks: Task) -> None:
        self.tasks, self.answers = list(tasks), list[Any]()

    def recv(self) -> Task:
        if not self.tasks:
            raise EOFError
        return self.tasks.pop(0)

    def send(self, answer: object) -> None:
        self.answers.append(answer)


def test_a_worker_answers_task_after_task_with_lines_or_an_error_and_ends_with_its_driver(
    monkeypatch: pytest.MonkeyPatch, ctrl_c: None
) -> None:
    loaded = list[tuple[object, ...]]()

    class Worker:
        def __init__(self, plan: Path, key: str, *, threads: int, in_flight: int) -> None:
            loaded.append((plan, key, threads, in_flight, os.environ["CUDA_VISIBLE_DEVICES"]))

        def restore(self, task: Task) -> list[str]:
            if task.run[0].first == 4:
                raise MemoryError
            return [f"line of {task.run[0].first}"]

    monkeypatch.setattr(processes, "Worker", Worker)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    driver = Driver(task(0), task(1), task(2))
    processes._serve(driver, Path("edge.plan"), "key", "cuda:1", 3, 1)  # type: ignore[arg-type]
    first, second, third = driver.answers
    assert (first, third) == (["line of 0"], ["line of 8"])
    assert isinstance(second, OutOfMemoryError)
    assert loaded == [(Path("edge.plan"), "key", 3, 1, "GPU-b")]  # once, and on its own GPU
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


class RayError(Exception):
    """A process, machine or network is gone."""


class RayTaskError(RayError):
    """What a worker raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Ray:
    """Answers `restore` of task k by the next entry of `script[k]`, an exception to raise or what to return."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, nodes: list[dict[str, float]], script: dict[int, list[object]], opening: list[object]) -> None:
        self._nodes, self.script, self.opening = nodes, script, opening
        self.asked: dict[str, float] = {}
        self.opened = list[tuple[object, ...]]()
        self.killed = 0

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": node} for node in self._nodes] + [{"Alive": False, "Resources": {}}]

    def remote(self, **resources: float) -> Callable[[type], SimpleNamespace]:
        self.asked = resources
        return lambda actor: SimpleNamespace(remote=self._actor)

    def _actor(self) -> Any:
        class Actor:
            open = SimpleNamespace(remote=lambda *arguments: self._open(arguments))
            restore = SimpleNamespace(remote=lambda task: Reference(self.script[task.run[0].first // 4].pop(0)))

        return Actor()

    def _open(self, arguments: tuple[object, ...]) -> Reference:
        self.opened.append(arguments)
        return Reference(self.opening.pop(0) if self.opening else None)

    def wait(self, references: list[Any], *, num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return references[:1], references[1:]

    def get(self, reference: Reference, *, timeout: float) -> object:
        if isinstance(reference.answer, Exception):
            raise reference.answer
        return reference.answer

    def kill(self, actor: object) -> None:
        self.killed += 1


class Reference:
    def __init__(self, answer: object) -> None:
        self.answer = answer


def crew(ray: Ray, *, on_gpu: bool = False, threads: int = 0) -> _Crew:
    return _Crew(ray, Path("edge.plan"), "key", on_gpu=on_gpu, threads=threads, in_flight=2)


def test_the_task_of_a_lost_actor_goes_to_the_next_and_every_task_is_answered_once() -> None:
    ray = Ray([{"CPU": 2}, {"CPU": 4}], {0: [RayError("gone"), ["a"]], 1: [["b", "c"]], 2: [["d"]]}, [])
    workers = crew(ray)
    assert sorted(workers.work([task(0), task(1), task(2)])) == ["a", "b", "c", "d"]  # type: ignore[type-var]
    assert ray.asked == {"num_gpus": 0, "num_cpus": 2}  # what fits the smallest machine
    assert len(ray.opened) == 3 + 1
    assert set(ray.opened) == {(Path("edge.plan"), "key", 2, 2)}
    workers.dismiss()
    assert ray.killed == 3


def test_a_task_that_takes_every_worker_with_it_ends_the_job() -> None:
    ray = Ray([{"CPU": 1}], {0: [["a"]], 1: [RayError("gone")] * TRIES}, [])
    with pytest.raises(BsstError, match=f"lost {TRIES} over frame 4, for too little memory perhaps"):
        list(crew(ray).work([task(0), task(1)]))


def test_workers_that_never_load_the_plan_end_the_job() -> None:
    ray = Ray([{"CPU": 1}], {}, [RayError("gone")] * 99)
    with pytest.raises(BsstError, match=f"lost {TRIES} over loading the plan"):
        list(crew(ray).work([task(0)]))
    assert len(ray.opened) == TRIES + 1


def test_what_a_worker_raises_arrives_as_it_is() -> None:
    error = ModelError("stage flow: no")
    with pytest.raises(ModelError, match="stage flow: no"):
        list(crew(Ray([{"CPU": 1}], {0: [RayTaskError(error)]}, [])).work([task(0)]))
    with pytest.raises(BsstError, match="it failed: ValueError: odd"):
        list(crew(Ray([{"CPU": 1}], {}, [RayTaskError(ValueError("odd"))])).work([task(0)]))


def test_places_are_gpus_where_the_plan_needs_one_and_refused_where_there_are_none() -> None:
    ray = Ray([{"CPU": 8, "GPU": 2}], {0: [["a"]]}, [])
    assert list(crew(ray, on_gpu=True).work([task(0)])) == ["a"]
    assert ray.asked == {"num_gpus": 1, "num_cpus": 1}
    assert ray.opened == [(Path("edge.plan"), "key", 0, 2)]
    with pytest.raises(UsageError, match="expected a cluster with a GPU"):
        crew(Ray([{"CPU": 8}], {}, []), on_gpu=True)
    with pytest.raises(UsageError, match="expected a cluster with 9 CPUs on one machine"):
        crew(Ray([{"CPU": 8}, {"CPU": 8}], {}, []), threads=9)
