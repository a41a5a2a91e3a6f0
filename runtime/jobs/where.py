"""Where segments are restored: in this process, in others on this machine, or on a cluster."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from bsst.runtime.frames.restorer import Restorer
from bsst.runtime.frames.windows import TileDone
from bsst.runtime.jobs.cluster_ray import restore_on_cluster
from bsst.runtime.jobs.options import Execution, threads_of_worker
from bsst.runtime.jobs.processes import restore_in_processes
from bsst.runtime.jobs.run import Task, restore_run
from bsst.runtime.jobs.segment import stretches
from bsst.runtime.jobs.survey import Survey
from bsst.runtime.jobs.work import Finished
from bsst.runtime.network.planned import Planned
from bsst.runtime.trace import Trace

__all__ = ["restore_elsewhere", "restore_here"]


def restore_here(
    task: Task, restorer: Restorer, survey: Survey, trace: Trace | None
) -> Generator[Finished | TileDone, None, None]:
    """Restore segments in this process, neighbours in one go; see `restore_run` for what comes."""
    before = 0  # frames of the runs that are done
    for run in stretches(task.run):
        with closing(restore_run(replace(task, run=tuple(run)), restorer, survey, trace=trace)) as results:
            for result in results:
                yield TileDone(before + result.frames) if isinstance(result, TileDone) else result
        before += sum(len(segment.kept) for segment in run)


def restore_elsewhere(
    task: Task, plan: object, planned: Planned, execution: Execution
) -> Generator[Finished, None, None]:
    """Restore segments in other processes, each for itself."""
    place = replace(task, video=task.video.absolute(), folder=task.folder.absolute())
    tasks = [replace(place, run=(segment,)) for segment in task.run]
    path = Path(plan).absolute() if isinstance(plan, str | Path) else None
    if execution.ray:
        return restore_on_cluster(
            tasks,
            path,
            planned.plan_key,
            address=execution.ray,
            on_gpu=planned.on_gpu,
            threads=execution.threads,
            in_flight=execution.in_flight,
        )
    return restore_in_processes(
        tasks,
        path,
        planned.plan_key,
        devices=execution.devices,
        threads=threads_of_worker(execution),
        in_flight=execution.in_flight,
    )
