"""One opened plan that restores segments for a job elsewhere: in another process, or on another machine.

A worker gets paths and numbers, and returns lines of a journal; frames never travel. Only the driver writes the
journal.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from bsst.errors import BsstError, MissingDependencyError, ModelError, OutOfMemoryError, OutputError, PlanError
from bsst.runtime.jobs.opened import OpenedPlan
from bsst.runtime.jobs.run import Task, restore_run
from bsst.runtime.jobs.survey import Survey
from bsst.runtime.jobs.work import Finished, read_survey
from bsst.runtime.video.memory import ran_out

__all__ = ["Worker", "portable"]


class Worker:
    """Holds a plan from the first task to the last.

    Args:
        plan: plan file; the packaged plan by default.
        plan_key: content key of the plan that the job began with.
        threads: threads of the network; 0 for all cores.

    Raises:
        PlanError: the plan here is another one, or cannot be used.
    """

    def __init__(self, plan: Path | None, plan_key: str, *, threads: int = 0, in_flight: int = 2) -> None:
        self._opened = OpenedPlan(plan, threads=threads, in_flight=in_flight)
        if (found := self._opened.plan.manifest.content_key) != plan_key:
            raise PlanError(f"expected plan {plan_key} like the rest of the job, got {found} from "
                            f"{plan or 'the package'}; give all machines the same plan and version")  # fmt: skip

    def restore(self, task: Task, on_line: Callable[[Finished], None] = lambda line: None) -> list[Finished]:
        """Restore a task's segments into the work folder.

        Raises:
            OutputError: the work folder is not here.
        """
        survey: Survey | None = read_survey(task.folder)
        if survey is None:
            raise OutputError(f"expected the job's survey in {task.folder}, found none; is the folder shared?")
        lines = []
        with closing(restore_run(task, self._opened.of_tile(task.tile), survey)) as run:
            for line in run:
                if isinstance(line, Finished):
                    lines.append(line)
                    on_line(line)
        return lines


def portable(error: Exception) -> BsstError:
    """An error that can be sent to the driver, whatever it carries."""
    if isinstance(error, MissingDependencyError):  # made of other words than its message
        return ModelError(str(error))
    if ran_out(error):
        return OutOfMemoryError("expected memory for a segment, a worker ran out; use fewer workers, or --in-flight 1")
    if isinstance(error, BsstError):
        return error
    return BsstError(
        f"expected a worker to restore its segment, it failed: {type(error).__name__}: {error}; run the same command "
        f"without workers and with --debug for a traceback to report"
    )
