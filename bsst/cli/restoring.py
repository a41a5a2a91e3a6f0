"""`bsst run` at work: its jobs one after the other, each shown while it goes on, and what they took."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import click

from bsst.cli.many import Job, Outcome, run_jobs, worst_status
from bsst.cli.progress import Quiet
from bsst.cli.remote import Remote
from bsst.errors import EXIT_REPAIRED, OutputError
from bsst.runtime.job import deblur
from bsst.runtime.jobs.opened import OpenedPlan
from bsst.runtime.jobs.options import Execution, OutputFormat
from bsst.runtime.jobs.part import Part, Preview
from bsst.runtime.jobs.report import Observer, Result
from bsst.runtime.restore import Tiling
from bsst.runtime.trace import Trace
from bsst.runtime.video.pictures import are_pictures

__all__ = ["Request", "dry_run", "restore_all"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What one command asks for; see `deblur`."""

    jobs: Sequence[Job]
    several: bool
    """Whether each job gets a line at the end, and what is wrong with one does not keep the others."""
    remote: Remote
    plan: Path | None
    overwrite: bool
    part: Part | Preview | None
    rate: Fraction | None
    output_format: OutputFormat
    tiling: Tiling
    execution: Execution
    trace: Path | None
    """Where to write what happened when."""
    tiles: Mapping[Path, tuple[int, int]] = field(default_factory=dict)
    """By video, where memory is limited: tiles of a smaller shape than it would get."""


def dry_run(request: Request, *, limit: int | None, tables: bool) -> Request:
    """Measure one clip of each job.

    Args:
        request: what would be done.
        limit: bytes that as many clips in flight as possible must fit into; tiles are smaller where one does not fit.
        tables: print what each job takes.

    Returns:
        The request with the clips in flight, and the tiles, that fit.
    """
    from bsst.cli import dry_run as dry

    in_flight, part = request.execution.in_flight, request.part
    tiles: dict[Path, tuple[int, int]] = {}
    for job in request.jobs:
        request.remote.fetch(job.video, lambda line: click.echo(line, err=True))
        measured = dry.Job(
            job.video,
            request.plan,
            threads=request.execution.threads,
            in_flight=in_flight,
            limit=limit,
            window_overlap=request.tiling.window_overlap,
            tile_overlap=request.tiling.tile_overlap,
            part=Part(end=Fraction(part.seconds)) if isinstance(part, Preview) else part,
            rate=request.rate,
        )
        in_flight = measured.in_flight
        if measured.tile is not None:
            tiles[job.video] = measured.tile
        if tables:
            click.echo(f"{job.video}\n" * request.several + measured.table())
    return replace(request, execution=replace(request.execution, in_flight=in_flight), tiles=tiles)


def restore_all(request: Request, display_of: Callable[[], Quiet], *, always_result: bool) -> int:
    """Restore what was asked for.

    Args:
        request: what to do.
        display_of: makes what shows a job.
        always_result: show the result of each of several jobs too.

    Returns:
        Exit status.

    Raises:
        BsstError: a single job failed.
    """
    jobs, several, execution = request.jobs, request.several, request.execution
    recorded = None if request.trace is None else Trace()
    plan: Path | OpenedPlan | None = request.plan

    def restore(job: Job) -> Result:
        with display_of() as display:
            result = _restore(job, request, plan, display, recorded)
            if not several or always_result:
                shared = execution.share is not None
                display.result(result, str(result.output) if shared else request.remote.name(job.out))
        return result

    with ExitStack() as stack:
        if request.trace is not None and recorded is not None:
            stack.callback(_write_trace, recorded, request.trace, display_of())  # also of a job that fails
        if not several:
            return EXIT_REPAIRED if restore(jobs[0]).repaired else 0
        if not (execution.devices or execution.ray):
            opened = OpenedPlan(request.plan, threads=execution.threads, in_flight=execution.in_flight, trace=recorded)
            plan = stack.enter_context(opened)
        outcomes = list[Outcome]()
        try:
            for outcome in run_jobs(jobs, restore, display_of, overwrite=request.overwrite, remote=request.remote):
                outcomes.append(outcome)
        finally:
            display_of().outcomes(outcomes)
        return worst_status(outcomes)


def _restore(
    job: Job, request: Request, plan: Path | OpenedPlan | None, display: Quiet, recorded: Trace | None
) -> Result:
    remote, several = request.remote, request.several
    if several:
        display.info(f"{remote.name(job.video)}:")
    elif not request.overwrite and remote.is_done(job.out):
        raise OutputError(
            f"expected nothing at {remote.name(job.out)}, found something; choose another name, or pass -y"
        )
    remote.fetch(job.video, display.info)
    result = deblur(
        job.video,
        job.out,
        plan,
        overwrite=request.overwrite,
        part=request.part,
        rate=request.rate if not several or are_pictures(job.video) else None,
        output_format=request.output_format,
        tiling=replace(request.tiling, tile=request.tiles.get(job.video)),
        execution=request.execution,
        observer=Observer(info=display.info, progress=display.progress, warning=display.warning, trace=recorded),
    )
    if request.execution.share is None:
        remote.finish(job.video, job.out, display.info)
    return result


def _write_trace(trace: Trace, path: Path, display: Quiet) -> None:
    """Hours of work are not lost for want of a trace."""
    try:
        trace.write(path)
    except OutputError as error:
        display.warning(str(error))
