"""Command line: `bsst COMMAND`, and each command as a program of its own, `bsst-run` for `bsst run`.

Errors of `bsst.errors` print one line and set the exit status; results go to standard output, everything else to
standard error. Commands import what they need when they run, so that `bsst --help` and a runtime without torch stay
light.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import click

from bsst.errors import EXIT_INTERRUPTED, EXIT_REPAIRED, BsstError, MissingDependencyError, UsageError

__all__ = ["Command", "export", "inspect", "main", "run"]

EXIT_STATUS = """\b
Exit status:
  0    done
  1    internal error
  2    wrong usage
  3    the video cannot be read
  4    the output exists or cannot be written
  5    the plan or the weights cannot be used
  6    out of memory
  7    the finished file failed its check and was discarded
  8    done, but some frames could not be restored and are unchanged
  130  interrupted; nothing was written
"""

RUN_EXAMPLES = """\b
Examples:
  bsst-run holiday.mp4                        writes holiday.deblurred.mp4
  bsst-run holiday.mp4 -o sharp.mkv --lossless
  bsst-run release.plan holiday.mp4           another plan than the packaged one
  bsst-run --log-json holiday.mp4 > log.jsonl

"""


class Command(click.Command):
    """A command whose errors are one line and an exit status."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        super().__init__(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run; translate exceptions."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BsstError as error:
            _fail(str(error), error.exit_code, error, ctx)
        except KeyboardInterrupt as error:
            _fail("interrupted; nothing was written", EXIT_INTERRUPTED, error, ctx)
        except Exception as error:
            hint = "this is a bug; run again with --debug for a traceback to report"
            _fail(f"{type(error).__name__}: {error}; {hint}", 1, error, ctx)


def _fail(message: str, status: int, error: BaseException, ctx: click.Context) -> None:
    if ctx.params.get("debug"):
        import traceback

        traceback.print_exception(error)
    click.echo("error: " + " ".join(message.split()), err=True)
    ctx.exit(status)


class Group(click.Group):
    """Subcommands are `Command`s."""

    command_class = Command


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
@click.option("--window-overlap", type=int, metavar="FRAMES", help="Shared by neighbouring windows.  [default: plan]")
@click.option("--tile-overlap", type=int, metavar="PIXELS", help="Shared by neighbouring tiles.  [default: plan]")
@click.option("--no-scene-cuts", is_flag=True, help="Treat the video as one scene.")
@click.option("--threads", default=0, show_default="all cores", help="Threads of the network.")
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
    from bsst import progress
    from bsst.runtime.job import deblur

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave no unfinished file behind on `kill`
    display: progress.Quiet
    if log_json:
        display = progress.JsonLines()
    elif quiet:
        display = progress.Quiet()
    else:
        display = progress.Bar() if sys.stderr.isatty() else progress.Lines()
    with display:
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
            on_progress=display.progress,
            on_warning=display.warning,
        )
        if result.repaired:
            display.warning(f"{result.repaired} of {result.frames} frames could not be restored and are unchanged")
        display.result(result)
    if result.repaired:
        click.get_current_context().exit(EXIT_REPAIRED)


@main.command(epilog=EXIT_STATUS)
@click.argument("plan", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the whole manifest as JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def inspect(plan: Path | None, as_json: bool, debug: bool) -> None:
    """Show what PLAN holds, the packaged plan by default, after checking that it is undamaged."""
    from bsst.engines.manifest import manifest_to_json
    from bsst.engines.plan import open_plan
    from bsst.runtime.network import DEFAULT_PLAN

    path = plan or DEFAULT_PLAN
    manifest = open_plan(path).manifest
    if as_json:
        click.echo(manifest_to_json(manifest).decode())
        return
    size = sum(stage.size for stage in manifest.stages)
    rows = {
        "plan": f"{path} ({size / 1e6:.1f} MB)",
        "network": f"{manifest.config.get('name')}: {manifest.label}",
        "target": f"{manifest.target}, built by {manifest.compiler.name} {manifest.compiler.version}",
        "GPUs": ", ".join(manifest.compute_capabilities) or "none needed",
        "precision": manifest.precision,
        "window": f"{manifest.frames} frames, {manifest.window_overlap} shared",
        "tile": f"{manifest.tile[1]}x{manifest.tile[0]} pixels, {manifest.tile_overlap} shared",
        "weights": manifest.weights_sha256[:16],
        "stages": ", ".join(stage.name for stage in manifest.stages),
    }
    for name, value in rows.items():
        click.echo(f"{name:10} {value}")


EXPORT_EXAMPLES = """\b
Examples:
  bsst-export -o edge.plan                                         packaged weights, any CPU
  bsst-export --weights BSST_gopro.pth --raft raft-things.pth -o gopro.plan
  bsst-export --frames 24 --tile 512x512 -o edge24.plan

"""


class Size(click.ParamType[tuple[int, int]]):
    """HEIGHTxWIDTH."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Parse a size such as 256x384."""
        if isinstance(value, tuple):
            return value
        height, _, width = str(value).partition("x")
        if not (height.isdecimal() and width.isdecimal()):
            self.fail(f"expected HEIGHTxWIDTH such as 256x256, got {value}", param, ctx)
        return int(height), int(width)


@main.command(epilog=EXPORT_EXAMPLES + EXIT_STATUS)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Plan to write.")
@click.option(
    "--weights", type=click.Path(path_type=Path), help="BSSTNet checkpoint.  [default: packaged edge weights]"
)
@click.option("--raft", type=click.Path(path_type=Path), help="RAFT checkpoint, if WEIGHTS does not contain it.")
@click.option(
    "--config", type=click.Choice(["edge", "release"]), help="Insist on a configuration.  [default: recognise]"
)
@click.option("--frames", default=12, show_default=True, help="Frames of a window.")
@click.option("--tile", type=Size(), default="256x256", show_default=True, help="Area restored in one run.")
@click.option("--flow-size", type=Size(), help="Area whose flow is computed in one run.  [default: the tile]")
@click.option("--tile-overlap", default=32, show_default=True, help="Pixels shared by neighbouring tiles.")
@click.option("--window-overlap", default=4, show_default=True, help="Frames shared by neighbouring windows.")
@click.option("--no-check", is_flag=True, help="Skip the comparison with the reference.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def export(
    output: Path,
    weights: Path | None,
    raft: Path | None,
    config: str | None,
    frames: int,
    tile: tuple[int, int],
    flow_size: tuple[int, int] | None,
    tile_overlap: int,
    window_overlap: int,
    no_check: bool,
    quiet: bool,
    debug: bool,
) -> None:
    """Export a checkpoint as one plan file, after comparing every stage with the PyTorch reference."""
    try:
        import onnxscript  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(error.name or "torch", "export", "bsst-export") from error
    from bsst.export.export_plan import export_plan
    from bsst.export.stage import Geometry
    from bsst.reference.checkpoint import load_networks

    def show(step: str) -> None:
        if not quiet:
            click.echo(step, err=True)

    networks = load_networks(weights, raft, config)
    if networks.unused:
        show(f"{len(networks.unused)} checkpoint entries are not used by the network, as in the released files")
    manifest = export_plan(
        output,
        networks,
        Geometry(frames=frames, tile=tile, flow_size=flow_size or tile),
        tile_overlap=tile_overlap,
        window_overlap=window_overlap,
        check=not no_check,
        progress=show,
    )
    for name, figure in manifest.parity.get("stages", {}).items():
        show(f"{name:24} {figure:6.1f} dB against the reference")
    if "clip" in manifest.parity:
        show(f"{'whole clip':24} {manifest.parity['clip']:6.1f} dB against the reference")
    click.echo(f"{output}: {len(manifest.stages)} stages, {output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
