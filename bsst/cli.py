"""Command line: `bsst COMMAND`, and each command as a program of its own, `bsst-run` for `bsst run`.

Errors of `bsst.errors` print one line and set the exit status; results go to standard output, everything else to
standard error. Commands import what they need when they run, so that `bsst --help` and a runtime without torch stay
light.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bsst.cli_calibrate import calibrate
from bsst.cli_common import EXIT_STATUS, THREADS, Group, require_output
from bsst.cli_export import export
from bsst.cli_parity import parity
from bsst.errors import EXIT_REPAIRED, UsageError

if TYPE_CHECKING:
    from bsst.runtime.reader_av import HWAccelChoice

__all__ = ["calibrate", "doctor", "export", "inspect", "main", "parity", "run"]

RUN_EXAMPLES = """\b
Examples:
  bsst-run holiday.mp4                        writes holiday.deblurred.mp4
  bsst-run holiday.mp4 -o sharp.mkv --lossless
  bsst-run release.plan holiday.mp4           another plan than the packaged one
  bsst-run --log-json holiday.mp4 > log.jsonl

"""


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bsst", prog_name="bsst")
def main() -> None:
    """Deblur videos with BSSTNet: checkpoint to plan, plan and video to sharp video."""


@main.command(epilog=RUN_EXAMPLES + EXIT_STATUS)
@click.argument("files", metavar="[PLAN] VIDEO", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path),
              help="File to write: .mp4, .m4v, .mov, .mkv or .webm.  [default: VIDEO.deblurred.SUFFIX]")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@click.option("--lossless", is_flag=True, help="Keep the restored frames exactly; large files. FFV1 in .mkv.")
@click.option("--crf", default=16, show_default=True, help="Quality of the encoder, 0 (best) to 51.")
@click.option(
    "--window-overlap",
    type=click.IntRange(min=0),
    metavar="FRAMES",
    help="Shared by neighbouring windows.  [default: plan]",
)
@click.option(
    "--tile-overlap",
    type=click.IntRange(min=0),
    metavar="PIXELS",
    help="Shared by neighbouring tiles.  [default: plan]",
)
@click.option("--no-scene-cuts", is_flag=True, help="Treat the video as one scene.")
@click.option("--threads", type=THREADS, default=0, show_default="all cores", help="Threads of the network.")
@click.option("--in-flight", type=click.IntRange(1, 8), default=2, show_default=True,
              help="Clips under way at once; 1 takes the least memory.")  # fmt: skip
@click.option("--hwaccel", type=click.Choice(["auto", "none", "cuda"]), default="auto", show_default=True,
              help="Decode and encode video on an NVIDIA GPU; auto does if the plan runs on one.")  # fmt: skip
@click.option("--max-memory", metavar="SIZE", help="Choose --in-flight to fit, such as 2GB; measures one clip first.")
@click.option("--dry-run", is_flag=True, help="Measure one clip, print what the job takes, and stop.")
@click.option("--trace", metavar="FILE", type=click.Path(path_type=Path),
              help="Write what happened when as JSON for ui.perfetto.dev.")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="Print warnings and errors only.")
@click.option("--log-json", is_flag=True, help="Print progress and result as JSON lines on standard output.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def run(
    files: tuple[Path, ...],
    output: Path | None,
    overwrite: bool,
    lossless: bool,
    crf: int,
    window_overlap: int | None,
    tile_overlap: int | None,
    no_scene_cuts: bool,
    threads: int,
    in_flight: int,
    hwaccel: HWAccelChoice,
    max_memory: str | None,
    dry_run: bool,
    trace: Path | None,
    quiet: bool,
    log_json: bool,
    debug: bool,
) -> None:
    """Deblur VIDEO with PLAN, or with the packaged plan when only VIDEO is given.

    Every frame keeps its time; audio, subtitles and metadata are copied. The result appears under its name only after
    it was read back and checked.
    """
    if len(files) > 2:
        raise UsageError(f"expected [PLAN] VIDEO, got {len(files)} files; deblur one video at a time")
    plan, video = files if len(files) == 2 else (None, files[0])
    if plan is not None and video.suffix == ".plan":
        raise UsageError(f"expected [PLAN] VIDEO, got {plan} before {video}; name the plan first")
    from bsst import progress
    from bsst.runtime.job import deblur, default_output
    from bsst.runtime.trace import Trace

    require_output(trace, others=[plan, video, output or default_output(video)])
    if dry_run or max_memory is not None:
        from bsst.dry_run import Job, parse_bytes

        limit = None if max_memory is None else parse_bytes(max_memory)
        job = Job(video, plan, threads=threads, window_overlap=window_overlap, tile_overlap=tile_overlap)
        in_flight = in_flight if limit is None else job.in_flight(limit, in_flight)
        if dry_run:
            click.echo(job.table(in_flight))
            return
    recorded = None if trace is None else Trace()
    display: progress.Quiet
    if log_json:
        display = progress.JsonLines()
    elif quiet:
        display = progress.Quiet()
    else:
        display = progress.Bar() if sys.stderr.isatty() else progress.Lines()
    with display, ExitStack() as stack:
        if trace is not None and recorded is not None:
            stack.callback(recorded.write, trace)  # also of a job that fails
        result = deblur(
            video,
            output,
            plan,
            overwrite=overwrite,
            lossless=lossless,
            crf=crf,
            window_overlap=window_overlap,
            tile_overlap=tile_overlap,
            scene_cuts=not no_scene_cuts,
            threads=threads,
            in_flight=in_flight,
            hwaccel=hwaccel,
            trace=recorded,
            on_info=display.info,
            on_progress=display.progress,
            on_warning=display.warning,
        )
        display.result(result)
    if result.repaired:
        click.get_current_context().exit(EXIT_REPAIRED)


@main.command(epilog=EXIT_STATUS)
@click.argument("plan", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--extract", metavar="DIR", type=click.Path(path_type=Path), help="Write the stages as files to DIR.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def inspect(plan: Path | None, as_json: bool, extract: Path | None, debug: bool) -> None:
    """Show what PLAN holds, the packaged plan by default, after checking that it is undamaged."""
    from bsst.engines.inspect_plan import describe_plan, extract_plan, plan_table
    from bsst.engines.plan import open_plan
    from bsst.runtime.network import DEFAULT_PLAN

    opened = open_plan(plan or DEFAULT_PLAN)
    if extract is not None:
        for path in extract_plan(opened, extract):
            click.echo(path)
    elif as_json:
        click.echo(json.dumps(describe_plan(opened), indent=2))
    else:
        click.echo(plan_table(opened))


@main.command(epilog=EXIT_STATUS)
@click.option("--selftest", is_flag=True, help="Build, run, compare and measure a small plan with all that works here.")
@click.option("--report", default="bsst-selftest.md", show_default=True, type=click.Path(path_type=Path),
              help="Where --selftest writes its report.")  # fmt: skip
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def doctor(selftest: bool, report: Path, debug: bool) -> None:
    """Try what this machine can run and build, and say how to close each gap; status 1 if something is broken."""
    from bsst.engines.doctor import diagnose

    if selftest:
        require_output(report)
    findings = diagnose()
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        click.echo(f"{finding.status:8} {finding.subject:{width}}  {finding.found}")
        if finding.remedy:
            click.echo(f"{'':8} {'':{width}}  -> {finding.remedy}")
    healthy = all(finding.status != "broken" for finding in findings)
    if selftest:
        from bsst.engines.selftest_report import write_selftest

        healthy &= write_selftest(report, findings, progress=lambda step: click.echo(step, err=True))
        click.echo(report)
    if not healthy:
        click.get_current_context().exit(1)


main.add_command(calibrate)
main.add_command(export)
main.add_command(parity)


if __name__ == "__main__":
    main()
