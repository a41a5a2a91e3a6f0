"""`bsst export`: checkpoint or plan to plan."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import click

from bsst.cli.common import (
    EXIT_STATUS,
    PLAN,
    Command,
    Finite,
    parse_bytes,
    require_inputs,
    require_output,
    require_packages,
)
from bsst.errors import UsageError
from bsst.plan.manifest import Target
from bsst.text import printable

if TYPE_CHECKING:
    from bsst.engines.builder import BuildOptions
    from bsst.engines.rebuild import Int8Request
    from bsst.plan.manifest import Precision, Target

__all__ = ["export"]

FRAMES, TILE, TILE_OVERLAP, WINDOW_OVERLAP = 12, (256, 256), 32, 4

EXPORT_EXAMPLES = """\b
Examples:
  bsst export -o edge.plan                                         packaged weights, any CPU
  bsst export --weights BSST_gopro.pth --raft raft-things.pth -o gopro.plan
  bsst export --window 8 --tile 512x512 -o edge8.plan
  bsst export --fp16 --target tensorrt-rtx --sm 86,89,120 -o rtx.plan
  bsst export --from packaged --fp16 --target tensorrt -o engine.plan
  bsst export --from packaged --int8 --ranges ranges.json -o edge_int8.plan     status 5 where int8 costs too much
  bsst export --fp16 --target tensorrt --timing-cache timings.bin --optimization-level 5 -o engine.plan

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


@click.command(cls=Command, epilog=EXPORT_EXAMPLES + EXIT_STATUS)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Plan to write.")
@click.option(
    "--weights", type=click.Path(path_type=Path), help="BSSTNet checkpoint.  [default: packaged edge weights]"
)
@click.option("--raft", type=click.Path(path_type=Path), help="RAFT checkpoint, if WEIGHTS does not contain it.")
@click.option(
    "--config", type=click.Choice(["edge", "release"]), help="Insist on a configuration.  [default: recognise]"
)
@click.option("--from", "source", metavar="PLAN", type=PLAN,
              help="Build from a cpu plan instead of weights, or from `packaged`; needs no torch.")  # fmt: skip
@click.option(
    "--target", type=click.Choice(get_args(Target)), default="cpu", show_default=True, help="What runs the plan."
)
@click.option("--fp16", is_flag=True, help="Convolutions and matrix products in half precision.")
@click.option("--bf16", is_flag=True, help="The same in bfloat16; TensorRT and TensorRT-RTX from SM 80 on.")
@click.option("--int8", is_flag=True, help="Quantise the stages that keep to a budget; needs --ranges.")
@click.option("--ranges", metavar="RANGES", type=click.Path(path_type=Path), help="File written by bsst calibrate.")
@click.option("--int8-loss", type=Finite(min=0), metavar="DB",
              help="What int8 may lose against ground truth.  [default: 0.1]")  # fmt: skip
@click.option("--int8-psnr", type=Finite(min=0), metavar="DB",
              help="What int8 must keep against fp32 without one.  [default: 45]")  # fmt: skip
@click.option("--keep-float32", is_flag=True,
              help="Carry the float32 stages too, as a fallback for what is not finite, on the CPU. Adds the "
              "size of the fp32 plan.")  # fmt: skip
@click.option("--sm", metavar="LIST", default="", help="Compute capabilities to build for, such as 86,89,120.")
@click.option(
    "frames", "--window", "--frames", type=int, metavar="FRAMES", help=f"Length of a window.  [default: {FRAMES}]"
)
@click.option("--tile", type=Size(), multiple=True,
              help="Area restored in one run, height x width; again for other shapes in the same plan, of which "
              f"bsst run takes what fits a video.  [default: {TILE[0]}x{TILE[1]}]")  # fmt: skip
@click.option(
    "--flow-size", type=Size(), help="Area whose flow is computed in one run.  [default: the tile, or the least]"
)
@click.option(
    "--tile-overlap", type=int, metavar="PIXELS", help=f"Shared by neighbouring tiles.  [default: {TILE_OVERLAP}]"
)
@click.option(
    "--window-overlap",
    type=int,
    metavar="FRAMES",
    help=f"Shared by neighbouring windows.  [default: {WINDOW_OVERLAP}, or half of a shorter window]",
)
@click.option("--optimization-level", "--builder-optimization-level", type=click.IntRange(0, 5), metavar="0-5",
              help="Effort of TensorRT and TensorRT-RTX.  [default: 3]")  # fmt: skip
@click.option("--hardware-compatibility", "--hardware-compatibility-level",
              type=click.Choice(["ampere+", "same-capability"]),
              help="TensorRT: engines for several GPUs; slower, and without our kernels.")  # fmt: skip
@click.option("--timing-cache", "--load-timing-cache", "--timingCacheFile", metavar="FILE",
              type=click.Path(path_type=Path, dir_okay=False),
              help="TensorRT: kernel timings kept between builds on this GPU.")  # fmt: skip
@click.option("--no-plugins", is_flag=True, help="TensorRT: custom operators as standard ones, not as our kernels.")
@click.option("--time-limit", type=Finite(min=0, min_open=True), metavar="SECONDS",
              help="Stop a stage that compiles longer.  [default: 3600]")  # fmt: skip
@click.option("--max-memory", metavar="SIZE",
              help="Stop a stage whose compiler takes more, such as 8GB.  [default: 16GiB]")  # fmt: skip
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
    bf16: bool,
    int8: bool,
    ranges: Path | None,
    int8_loss: float | None,
    int8_psnr: float | None,
    keep_float32: bool,
    sm: str,
    frames: int | None,
    tile: tuple[tuple[int, int], ...],
    flow_size: tuple[int, int] | None,
    tile_overlap: int | None,
    window_overlap: int | None,
    optimization_level: int | None,
    hardware_compatibility: Literal["ampere+", "same-capability"] | None,
    timing_cache: Path | None,
    no_plugins: bool,
    time_limit: float | None,
    max_memory: str | None,
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
        "--window": frames,
        "--tile": tile or None,
        "--flow-size": flow_size,
        "--tile-overlap": tile_overlap,
        "--window-overlap": window_overlap,
    }
    given = [option for option, value in traced.items() if value is not None]
    if source is not None and given:
        raise UsageError(f"expected --from alone, got {', '.join(given)} too; these are fixed in {source}")
    compiling: dict[str, tuple[str, Any]] = {
        "--sm": ("compute_capabilities", _compute_capabilities(sm) or None),
        "--optimization-level": ("optimization_level", optimization_level),
        "--hardware-compatibility": ("hardware_compatibility", hardware_compatibility),
        "--timing-cache": ("timing_cache", timing_cache),
        "--no-plugins": ("plugins", False if no_plugins else None),
        "--time-limit": ("time_limit_seconds", time_limit),
        "--max-memory": ("memory_limit_bytes", None if max_memory is None else parse_bytes(max_memory)),
    }
    chosen = {option: entry for option, entry in compiling.items() if entry[1] is not None}
    if fp16 and bf16:
        raise UsageError("expected --fp16 or --bf16, got both; choose one")
    precision: Precision = "fp16" if fp16 else "bf16" if bf16 else "fp32"
    quantising = {"--ranges": ranges, "--int8-loss": int8_loss, "--int8-psnr": int8_psnr}
    if stray := [option for option, value in quantising.items() if value is not None and not int8]:
        raise UsageError(f"expected --int8 with {', '.join(stray)}, got none; add --int8")
    if keep_float32 and precision == "fp32" and not int8:
        raise UsageError("expected --fp16, --bf16 or --int8 with --keep-float32, got fp32; leave --keep-float32 out")
    options: BuildOptions | None = None
    request: Int8Request | None = None
    if source is not None or target != "cpu" or precision != "fp32" or int8:
        options = _build_options(target, precision, dict(chosen.values()), int8)
        request = _int8_request(ranges, int8_loss, int8_psnr) if int8 else None
    elif chosen:
        raise UsageError(
            f"expected {', '.join(chosen)} with --target, --from or --fp16, got a plain cpu plan, for which nothing is "
            "compiled; name a target, as in --target tensorrt-rtx"
        )
    require_inputs(weights, raft)
    require_output(output, others=[source, weights, raft, ranges, timing_cache])
    with tempfile.TemporaryDirectory(prefix="bsst-export-") as folder:
        if source is None:
            source = output if options is None else Path(folder) / "cpu.plan"
            _export_cpu(
                source,
                load=(weights, raft, config),
                sizes=(FRAMES if frames is None else frames, tile or (TILE,), flow_size),
                overlaps=(tile_overlap, window_overlap),
                check=not no_check,
                show=show,
            )
        if options is not None:
            _rebuild(
                source,
                output,
                target,
                precision,
                request,
                options,
                cached=not no_cache,
                check=not no_check,
                keep_float32=keep_float32,
                show=show,
            )
    click.echo(printable(f"{output}: {output.stat().st_size / 1e6:.1f} MB"))


def _export_cpu(
    output: Path,
    *,
    load: tuple[Path | None, Path | None, str | None],
    sizes: tuple[int, tuple[tuple[int, int], ...], tuple[int, int] | None],
    overlaps: tuple[int | None, int | None],
    check: bool,
    show: Callable[[str], None],
) -> None:
    require_packages("onnxscript", "torch", extra="export", purpose="bsst export")
    from bsst.export.export_plan import export_plan
    from bsst.export.stage import Geometry
    from bsst.reference.checkpoint import load_networks

    networks = load_networks(*load)
    if networks.unused:
        show(f"{len(networks.unused)} checkpoint entries are not used by the network, as in the released files")
    frames, tiles, flow_size = sizes
    minimum = networks.network.config.raft.frame_minimum  # small tiles are fine for the network, not for its flow
    geometry, *shapes = (
        Geometry(frames=frames, tile=tile, flow_size=flow_size or (max(tile[0], minimum), max(tile[1], minimum)))
        for tile in tiles
    )
    manifest = export_plan(
        output,
        networks,
        geometry,
        shapes=shapes,
        tile_overlap=TILE_OVERLAP if overlaps[0] is None else overlaps[0],
        window_overlap=max(0, min(WINDOW_OVERLAP, frames // 2)) if overlaps[1] is None else overlaps[1],
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
    precision: Precision,
    int8: Int8Request | None,
    options: BuildOptions,
    *,
    cached: bool,
    check: bool,
    keep_float32: bool,
    show: Callable[[str], None],
) -> None:
    from bsst.engines.cache import EngineCache
    from bsst.engines.inspect_plan import memory_lines
    from bsst.engines.rebuild import rebuild_plan
    from bsst.files import cache_directory

    manifest = rebuild_plan(
        source,
        output,
        target=target,
        precision=precision,
        int8=int8,
        options=options,
        cache=EngineCache(directory=cache_directory() / "engines") if cached else None,
        check=check,
        keep_float32=keep_float32,
        progress=show,
    )
    for half in {"fp16", "bf16"}.intersection(manifest.parity):
        show(f"{half:24} {manifest.parity[half]['clip']:6.1f} dB against float32 on a clip, emulated on the CPU")
    if "int8" in manifest.parity:
        from bsst.calibration.choose_int8 import decision_table

        for line in decision_table(manifest.parity["int8"]):
            show(line)
    for name, figure in memory_lines(manifest):
        show(f"{name:24} {figure}")


def _int8_request(ranges: Path | None, loss: float | None, psnr: float | None) -> Int8Request:
    if ranges is None:
        raise UsageError("expected --ranges with --int8, got none; write them: bsst calibrate PLAN CLIP... -o RANGES")
    from bsst.calibration.choose_int8 import Budget
    from bsst.calibration.ranges import read_ranges
    from bsst.engines.rebuild import Int8Request

    given = {name: value for name, value in (("loss_db", loss), ("psnr_db", psnr)) if value is not None}
    return Int8Request(ranges=read_ranges(ranges), budget=Budget(**given))


def _build_options(target: Target, precision: Precision, chosen: dict[str, Any], int8: bool) -> BuildOptions:
    """Options of the compiler, after a look at whether they fit: before minutes of tracing, not after."""
    extra = target if target.startswith("tensorrt") else "export"
    require_packages("onnx", "onnxscript", extra=extra, purpose=f"building for target {target}")
    from bsst.engines.builder import BuildOptions
    from bsst.engines.targets import check_request

    options = BuildOptions(**chosen)
    check_request(target, precision, options, int8=int8)
    return options


def _compute_capabilities(text: str) -> tuple[str, ...]:
    """`86,8.9,120` -> ("8.6", "8.9", "12.0")."""
    names = [name.strip().replace(".", "") for name in text.split(",") if name.strip()]
    if wrong := [name for name in names if not (name.isdecimal() and len(name) in (2, 3))]:
        raise UsageError(f"expected --sm such as 86,89,120, got {wrong[0]}")
    return tuple(f"{name[:-1]}.{name[-1]}" for name in names)
