"""Command line: `bsst COMMAND`, and each command as a program of its own, `bsst-run` for `bsst run`.

Errors of `bsst.errors` print one line and set the exit status; results go to standard output, everything else to
standard error. Commands import what they need when they run, so that `bsst --help` and a runtime without torch stay
light.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from bsst.errors import EXIT_INTERRUPTED, EXIT_REPAIRED, BsstError, MissingDependencyError, UsageError

if TYPE_CHECKING:
    from bsst.engines.manifest import Target

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


TARGETS = ("cpu", "ort-cuda", "ort-tensorrt", "tensorrt", "tensorrt-rtx")
FRAMES, TILE, TILE_OVERLAP, WINDOW_OVERLAP = 12, (256, 256), 32, 4

EXPORT_EXAMPLES = """\b
Examples:
  bsst-export -o edge.plan                                         packaged weights, any CPU
  bsst-export --weights BSST_gopro.pth --raft raft-things.pth -o gopro.plan
  bsst-export --frames 24 --tile 512x512 -o edge24.plan
  bsst-export --fp16 --target tensorrt-rtx --sm 86,89,120 -o rtx.plan
  bsst-export --from edge.plan --fp16 --target tensorrt -o engine.plan

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
@click.option("--from", "source", metavar="PLAN", type=click.Path(path_type=Path),
              help="Build from a cpu plan instead of weights; needs no torch.")  # fmt: skip
@click.option("--target", type=click.Choice(TARGETS), default="cpu", show_default=True, help="What runs the plan.")
@click.option("--fp16", is_flag=True, help="Convolutions and matrix products in half precision.")
@click.option("--sm", metavar="LIST", default="", help="Compute capabilities to build for, such as 86,89,120.")
@click.option("--frames", type=int, help=f"Frames of a window.  [default: {FRAMES}]")
@click.option("--tile", type=Size(), help=f"Area restored in one run.  [default: {TILE[0]}x{TILE[1]}]")
@click.option("--flow-size", type=Size(), help="Area whose flow is computed in one run.  [default: the tile]")
@click.option("--tile-overlap", type=int, help=f"Pixels shared by neighbouring tiles.  [default: {TILE_OVERLAP}]")
@click.option("--window-overlap", type=int, help=f"Frames shared by windows.  [default: {WINDOW_OVERLAP}]")
@click.option("--no-check", is_flag=True, help="Skip the comparison with the reference.")
@click.option("--no-cache", is_flag=True, help="Build every engine again.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def export(
    output: Path,
    weights: Path | None,
    raft: Path | None,
    config: str | None,
    source: Path | None,
    target: Target,
    fp16: bool,
    sm: str,
    frames: int | None,
    tile: tuple[int, int] | None,
    flow_size: tuple[int, int] | None,
    tile_overlap: int | None,
    window_overlap: int | None,
    no_check: bool,
    no_cache: bool,
    quiet: bool,
    debug: bool,
) -> None:
    """Export a checkpoint as one plan file, after comparing every stage with the PyTorch reference."""

    def show(step: str) -> None:
        if not quiet:
            click.echo(step, err=True)

    traced = {
        "--weights": weights,
        "--raft": raft,
        "--config": config,
        "--frames": frames,
        "--tile": tile,
        "--flow-size": flow_size,
        "--tile-overlap": tile_overlap,
        "--window-overlap": window_overlap,
    }
    given = [option for option, value in traced.items() if value is not None]
    if source is not None and given:
        raise UsageError(f"expected --from alone, got {', '.join(given)} too; these are fixed in {source}")
    capabilities = _compute_capabilities(sm)
    with tempfile.TemporaryDirectory(prefix="bsst-export-") as folder:
        rebuild = source is not None or target != "cpu" or fp16
        if source is None:
            source = Path(folder) / "cpu.plan" if rebuild else output
            tile = tile or TILE
            _export_cpu(
                source,
                load=(weights, raft, config),
                sizes=(frames or FRAMES, tile, flow_size or tile),
                overlaps=(
                    TILE_OVERLAP if tile_overlap is None else tile_overlap,
                    WINDOW_OVERLAP if window_overlap is None else window_overlap,
                ),
                check=not no_check,
                show=show,
            )
        if rebuild:
            _rebuild(source, output, target, "fp16" if fp16 else "fp32", capabilities, not no_cache, not no_check, show)
    click.echo(f"{output}: {output.stat().st_size / 1e6:.1f} MB")


def _export_cpu(
    output: Path,
    *,
    load: tuple[Path | None, Path | None, str | None],
    sizes: tuple[int, tuple[int, int], tuple[int, int]],
    overlaps: tuple[int, int],
    check: bool,
    show: Callable[[str], None],
) -> None:
    try:
        import onnxscript  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(error.name or "torch", "export", "bsst-export") from error
    from bsst.export.export_plan import export_plan
    from bsst.export.stage import Geometry
    from bsst.reference.checkpoint import load_networks

    networks = load_networks(*load)
    if networks.unused:
        show(f"{len(networks.unused)} checkpoint entries are not used by the network, as in the released files")
    manifest = export_plan(
        output,
        networks,
        Geometry(frames=sizes[0], tile=sizes[1], flow_size=sizes[2]),
        tile_overlap=overlaps[0],
        window_overlap=overlaps[1],
        check=check,
        progress=show,
    )
    for name, figure in manifest.parity.get("stages", {}).items():
        show(f"{name:24} {figure:6.1f} dB against the reference")
    if "clip" in manifest.parity:
        show(f"{'whole clip':24} {manifest.parity['clip']:6.1f} dB against the reference")


def _rebuild(
    source: Path,
    output: Path,
    target: Target,
    precision: Literal["fp32", "fp16"],
    capabilities: tuple[str, ...],
    cached: bool,
    check: bool,
    show: Callable[[str], None],
) -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(error.name or "onnx", "export", "building engines") from error
    from bsst.engines.builder import BuildOptions
    from bsst.engines.cache import EngineCache, cache_directory
    from bsst.engines.rebuild import rebuild_plan

    manifest = rebuild_plan(
        source,
        output,
        target=target,
        precision=precision,
        options=BuildOptions(compute_capabilities=capabilities),
        cache=EngineCache(directory=cache_directory() / "engines") if cached else None,
        check=check,
        progress=show,
    )
    if "fp16" in manifest.parity:
        show(f"{'float16':24} {manifest.parity['fp16']['clip']:6.1f} dB against float32 on a clip, emulated on the CPU")


def _compute_capabilities(text: str) -> tuple[str, ...]:
    """`86,8.9,120` -> ("8.6", "8.9", "12.0")."""
    names = [name.strip().replace(".", "") for name in text.split(",") if name.strip()]
    if wrong := [name for name in names if not (name.isdecimal() and len(name) in (2, 3))]:
        raise UsageError(f"expected --sm such as 86,89,120, got {wrong[0]}")
    return tuple(f"{name[:-1]}.{name[-1]}" for name in names)


if __name__ == "__main__":
    main()
