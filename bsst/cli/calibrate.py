"""`bsst calibrate`: plan and real clips to ranges for `bsst export --int8`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bsst.cli.common import EXIT_STATUS, PLAN, THREADS, Command, require_inputs, require_output, require_packages
from bsst.errors import UsageError
from bsst.text import printable

if TYPE_CHECKING:
    from bsst.calibration.ranges import Method

__all__ = ["calibrate"]

METHODS = ("minmax", "percentile", "entropy")

EXAMPLES = """\b
Examples:
  bsst calibrate packaged street.mp4 park.mp4 -o ranges.json
  bsst calibrate packaged blurry.mp4 --truth sharp.mp4 -o ranges.json   measures losses against ground truth later
  bsst export --from packaged --int8 --ranges ranges.json -o edge_int8.plan

"""


@click.command(cls=Command, imports="bsst.calibration.calibrate", epilog=EXAMPLES + EXIT_STATUS)
@click.argument("plan", type=PLAN)
@click.argument("clips", metavar="CLIP...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", metavar="RANGES", required=True, type=click.Path(path_type=Path),
              help="File of ranges to write.")  # fmt: skip
@click.option("--truth", "truths", metavar="CLIP", multiple=True, type=click.Path(path_type=Path),
              help="Sharp recording of a clip; as often as there are clips, in their order.")  # fmt: skip
@click.option("--method", type=click.Choice(METHODS), default="percentile", show_default=True,
              help="How a range is chosen from the values seen.")  # fmt: skip
@click.option("--percentile", default=99.999, show_default=True, help="Magnitudes inside the range, in percent.")
@click.option("--windows", default=2, show_default=True, help="Windows of each clip, spread evenly.")
@click.option("--threads", type=THREADS, default=0, show_default="all cores", help="Threads of the network.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def calibrate(
    plan: Path,
    clips: tuple[Path, ...],
    output: Path,
    truths: tuple[Path, ...],
    method: Method,
    percentile: float,
    windows: int,
    threads: int,
    quiet: bool,
    debug: bool,
) -> None:
    """Measure on CLIPs which values the activations of PLAN take, so that PLAN can be quantised.

    A CLIP is a video, or a folder of pictures or a pattern of their names, such as frames/%06d.png.
    """
    if truths and len(truths) != len(clips):
        raise UsageError(f"expected --truth once per clip, got {len(truths)} for {len(clips)} clips; name all or none")
    require_inputs(*clips, *truths)
    require_output(output, others=[plan, *clips, *truths])
    require_packages("onnx", "onnxscript", extra="export", purpose="bsst calibrate")
    from bsst.calibration.calibrate import calibrate as measure
    from bsst.calibration.ranges import write_ranges
    from bsst.calibration.samples import clip_record

    def show(step: str) -> None:
        if not quiet:
            click.echo(step, err=True)

    records = [clip_record(clip, truth) for clip, truth in zip(clips, truths or [None] * len(clips), strict=True)]
    ranges = measure(
        plan,
        records,
        method=method,
        percentile=percentile,
        windows=windows,
        threads=threads,
        progress=show,
    )
    write_ranges(output, ranges)
    count = sum(map(len, ranges.tensors.values()))
    click.echo(printable(f"{output}: {count} ranges of {len(ranges.tensors)} stages"))
