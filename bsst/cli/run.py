"""`bsst run`: a plan and a video to a sharp video."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bsst.cli.common import EXIT_STATUS, THREADS, Command, parse_bytes, require_output
from bsst.cli.many import Job, are_many, plan_jobs, split_plan
from bsst.cli.words import devices_of, part_of, share_of
from bsst.errors import UsageError
from bsst.runtime.video.quality import DEFAULT_CRF

if TYPE_CHECKING:
    from bsst.cli import progress
    from bsst.runtime.video.pipes import PipeFormat
    from bsst.runtime.video.reader import HWAccelChoice
    from bsst.runtime.video.sound import Audio

__all__ = ["run"]

RUN_EXAMPLES = """\b
Examples:
  bsst run holiday.mp4                        writes holiday.deblurred.mp4
  bsst run holiday.mp4 -o sharp.mkv --lossless
  bsst run release.plan holiday.mp4           another plan than the packaged one
  bsst run a.mp4 b.mov clips/ -o out/         several; clips/ is searched
  bsst run clips/ -o 'out/{stem}_sharp.mp4'
  bsst run holiday.mp4 --start 1:30 --duration 10
  bsst run holiday.mp4 --preview 5s           the blurriest 5 s, source beside result
  bsst run frames/ --rate 24 -o sharp.mp4     a folder of pictures, or frames/%06d.png; out too
  ffmpeg -i a.mov -f yuv4mpegpipe - | bsst run - -o - | ffmpeg -i - sharp.mov
  bsst run --log-json holiday.mp4 > log.jsonl

"""


@click.command(cls=Command, imports="bsst.runtime.job", epilog=RUN_EXAMPLES + EXIT_STATUS)
@click.argument("files", metavar="[PLAN] VIDEO...", nargs=-1, required=True)
@click.option("--plan", metavar="FILE", type=click.Path(path_type=Path),
              help="The plan, as an argument that ends in .plan.  [default: the packaged one]")  # fmt: skip
@click.option("-o", "--output", "target", metavar="FILE",
              help="What to write: a file (.mp4, .m4v, .mov, .mkv or .webm), pictures such as out/%06d.png, - for "
                   "standard output, or for several videos a folder, or a pattern with {stem}, {suffix}, {folder}: "
                   "out/{stem}_sharp.mp4.  [default: VIDEO.deblurred.SUFFIX]")  # fmt: skip
@click.option("-y", "--overwrite", is_flag=True, help="Replace an existing output.")
@click.option("--resume/--no-resume", default=True, show_default=True,
              help="Go on where the same job was interrupted, or throw its work away.")  # fmt: skip
@click.option("--keep-work", is_flag=True, help="Leave the hidden folder with the encoded segments beside the output.")
@click.option("--rate", metavar="FPS", help="Pictures a second, where pictures are read.  [default: 25]")
@click.option("--format", "pipe_format", type=click.Choice(["y4m", "nut", "mkv"]),
              help="What goes to standard output with -o -.  [default: as from standard input, or nut]")  # fmt: skip
@click.option("--start", metavar="TIME", help="Restore from here on: seconds, or 1:30, or 0:01:30.5.")
@click.option("--end", metavar="TIME", help="Restore up to here.")
@click.option("--duration", metavar="TIME", help="Restore so much from --start on.")
@click.option(
    "--preview",
    metavar="TIME",
    help="Restore the blurriest part of this length, such as 5s, beside its source: VIDEO.preview.SUFFIX.",
)
@click.option("--open", "show", is_flag=True, help="Show the result in the desktop's player.")
@click.option("--lossless", is_flag=True, help="Keep the restored frames exactly; large files. FFV1 in .mkv.")
@click.option("--crf", default=DEFAULT_CRF, show_default=True,
              help="Quality of the encoder, 0 (best) to 51; 16 looks alike, at a quarter of the size.")  # fmt: skip
@click.option("--audio", type=click.Choice(["copy", "convert", "none"]), default="copy", show_default=True,
              help="Copy sound and convert what cannot be copied, convert all, or leave it out.")  # fmt: skip
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
@click.option("--no-guard", is_flag=True, help="Keep changes that look implausible.")
@click.option("--no-scene-cuts", is_flag=True, help="Treat the video as one scene.")
@click.option("--threads", type=THREADS, default=0, show_default="all cores", help="Threads of the network.")
@click.option("--in-flight", type=click.IntRange(1, 8), default=2, show_default=True,
              help="Clips under way at once; 1 takes the least memory.")  # fmt: skip
@click.option("--devices", metavar="NAME,...", default="",
              help="A process for each: cuda:0,cuda:1 or cpu,cpu.  [default: this process alone]")  # fmt: skip
@click.option("--workers", type=click.IntRange(1, 64), metavar="N",
              help="As many processes, each with a share of the cores; more frames a second, more memory.")  # fmt: skip
@click.option("--ray", metavar="ADDRESS", default="",
              help="Restore on a Ray cluster: host:port, or auto for this machine's or a new one.")  # fmt: skip
@click.option("--segment", metavar="K/N",
              help="Restore share K of N into the work folder; the same command without it joins all.")  # fmt: skip
@click.option("--hwaccel", type=click.Choice(["auto", "none", "cuda"]), default="auto", show_default=True,
              help="Decode and encode video on an NVIDIA GPU; auto does if the plan runs on one.")  # fmt: skip
@click.option("--max-memory", metavar="SIZE", help="Choose --in-flight to fit, such as 2GB; measures one clip first.")
@click.option("--dry-run", "dry", is_flag=True, help="Measure one clip, print what the job takes, and stop.")
@click.option("--trace", metavar="FILE", type=click.Path(path_type=Path),
              help="Write what happened when as JSON for ui.perfetto.dev.")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="Print warnings and errors only.")
@click.option("--log-json", is_flag=True, help="Print progress and result as JSON lines on standard output.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def run(
    files: tuple[str, ...],
    plan: Path | None,
    target: str | None,
    overwrite: bool,
    resume: bool,
    keep_work: bool,
    rate: str | None,
    pipe_format: PipeFormat | None,
    start: str | None,
    end: str | None,
    duration: str | None,
    preview: str | None,
    show: bool,
    lossless: bool,
    crf: int,
    audio: Audio,
    window_overlap: int | None,
    tile_overlap: int | None,
    no_guard: bool,
    no_scene_cuts: bool,
    threads: int,
    in_flight: int,
    devices: str,
    workers: int | None,
    ray: str,
    segment: str | None,
    hwaccel: HWAccelChoice,
    max_memory: str | None,
    dry: bool,
    trace: Path | None,
    quiet: bool,
    log_json: bool,
    debug: bool,
) -> None:
    """Deblur VIDEO with PLAN, or with the packaged plan when only VIDEO is given.

    VIDEO may be several files, and folders that are searched for videos and folders of pictures. Those whose result is
    there are skipped, what fails does not keep the others, and a line for each tells at the end.

    Every frame keeps its time; audio, subtitles and metadata are copied. The result appears under its name only after
    it was read back and checked.
    """
    from bsst.cli import progress
    from bsst.cli.remote import Remote
    from bsst.cli.restoring import Request, dry_run, restore_all
    from bsst.runtime.jobs.options import Execution, OutputFormat
    from bsst.runtime.jobs.output import default_output, default_preview
    from bsst.runtime.jobs.part import parse_rate
    from bsst.runtime.restore import Tiling
    from bsst.system import return_freed_frames

    return_freed_frames()
    part, remote = part_of(start, end, duration, preview), Remote()
    pictures = None if rate is None else parse_rate(rate)
    plan, videos = split_plan([remote.source(name) for name in files], plan)
    output = None if target is None else remote.output(target)

    def default(video: Path) -> Path:
        usual = default_output(video) if preview is None else default_preview(video)
        return Path(usual.name) if remote.is_remote(video) else usual

    several = are_many(videos, output)
    jobs = plan_jobs(videos, output, default) if several else [Job(videos[0], output or default(videos[0]))]
    if len(jobs) == 1 and jobs[0].video == videos[0]:
        several = False
    if show and (several or jobs[0].out == Path("-")):
        raise UsageError("expected one file to --open, got several or standard output; leave it out")
    require_output(trace, others=[plan, *(path for job in jobs for path in (job.video, job.out))])
    request = Request(
        jobs=jobs,
        several=several,
        remote=remote,
        plan=plan,
        overwrite=overwrite,
        part=part,
        rate=pictures,
        output_format=OutputFormat(lossless=lossless, crf=crf, audio=audio, pipe_format=pipe_format),
        tiling=Tiling(
            window_overlap=window_overlap,
            tile_overlap=tile_overlap,
            scene_cuts=not no_scene_cuts,
            guard=not no_guard,
        ),
        execution=Execution(
            threads=threads,
            in_flight=in_flight,
            devices=devices_of(devices, workers, ray),
            ray=ray,
            hwaccel=hwaccel,
            resume=resume,
            keep_work=keep_work,
            share=share_of(segment),
        ),
        trace=trace,
    )
    if dry or max_memory is not None:
        limit = None if max_memory is None else parse_bytes(max_memory)
        request = dry_run(request, limit=limit, tables=dry)
        if dry:
            return

    def display_of() -> progress.Quiet:
        if log_json:
            return progress.JsonLines(sys.stderr if output == Path("-") else None)
        if quiet:
            return progress.Quiet()
        return progress.Bar() if sys.stderr.isatty() else progress.Lines()

    status = restore_all(request, display_of, always_result=log_json)
    if show:
        click.launch(str(jobs[0].out))
    if status:
        click.get_current_context().exit(status)
