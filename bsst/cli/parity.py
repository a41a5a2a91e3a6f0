"""`bsst parity`: a plan against the reference that it was made from, and against ground truth."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bsst.cli.common import PLAN, THREADS, Command, Finite, require_inputs, require_output, require_packages
from bsst.errors import EXIT_OVER_BUDGET, UsageError
from bsst.text import printable

if TYPE_CHECKING:
    from bsst.calibration.parity.compare import Footage
    from bsst.calibration.parity.judge import Reference
    from bsst.plan.manifest import Manifest

__all__ = ["parity"]

EPILOG = """\b
Examples:
  bsst parity engine.plan --clip holiday.mp4 --html report.html
  bsst parity packaged --clip blurry.mp4 --truth sharp.mp4 --limit 24
  bsst parity fp16.plan --against fp32.plan --clip holiday.mp4 --min-psnr 50
  bsst parity gopro.plan --weights BSST_gopro.pth --raft raft-things.pth --gopro GOPRO --patches
  bsst parity broken.plan --clip holiday.mp4 --limit 12 --bisect

\b
Budgets by precision, where the options do not say otherwise:
             --min-psnr  --max-loss  --min-stage-psnr
  fp32       80 dB       0.02 dB     80 dB
  fp16       50 dB       0.02 dB     40 dB
  bf16       40 dB       0.1 dB      25 dB
  int8       45 dB or, with ground truth, none; 0.1 dB; 20 dB

\b
Exit status:
  0    compared, everything within its budget
  1    internal error, or nobody reads the output any more
  2    wrong usage
  3    footage that cannot be read
  4    a report that cannot be written
  5    a plan or weights that cannot be used, or a missing package
  6    out of memory
  9    compared, a figure is outside its budget
  130  interrupted
"""

File = click.Path(path_type=Path)


@click.command(cls=Command, imports="bsst.calibration.parity.footage", epilog=EPILOG)
@click.argument("plan", type=PLAN)
@click.option("--clip", metavar="VIDEO", type=File, help="Compare on a video, or a folder of pictures.")
@click.option("--truth", metavar="VIDEO", type=File, help="Sharp frames of --clip, to score against.")
@click.option("--gopro", metavar="ROOT", type=File, help="Compare and score on GoPro: ROOT/test/blur and ROOT/test/GT.")
@click.option("--dvd", metavar="ROOT", type=File, help="Compare and score on DVD, the same layout.")
@click.option("--against", metavar="reference|PLAN2", default="reference", show_default=True,
              help="The PyTorch reference, or another plan of the same sizes.")  # fmt: skip
@click.option("--weights", type=File, help="BSSTNet checkpoint of the reference.  [default: packaged edge weights]")
@click.option("--raft", type=File, help="RAFT checkpoint, if WEIGHTS does not contain it.")
@click.option(
    "frames", "--limit", "--frames", type=click.IntRange(min=1), help="Compare only the first frames of each clip."
)
@click.option("--patches", is_flag=True, help="Cut and join tiles as the released evaluation: 64 pixels overlap.")
@click.option("--bisect", is_flag=True, help="Name the first stage and the first ONNX node outside the budget.")
@click.option("--min-psnr", type=Finite(), metavar="DB", help="Least PSNR between plan and reference.")
@click.option("--max-loss", type=Finite(), metavar="DB", help="Most PSNR lost to the reference against ground truth.")
@click.option("--min-stage-psnr", type=Finite(), metavar="DB", help="Least PSNR of each stage, for --bisect.")
@click.option("--html", metavar="FILE", type=File, help="Write a report to open in a browser.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option(
    "--threads", type=THREADS, default=0, show_default="all cores", help="Threads of ONNX Runtime and PyTorch."
)
@click.option("-q", "--quiet", is_flag=True, help="Print results and errors only.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def parity(
    plan: Path,
    clip: Path | None,
    truth: Path | None,
    gopro: Path | None,
    dvd: Path | None,
    against: str,
    weights: Path | None,
    raft: Path | None,
    frames: int | None,
    patches: bool,
    bisect: bool,
    min_psnr: float | None,
    max_loss: float | None,
    min_stage_psnr: float | None,
    html: Path | None,
    as_json: bool,
    threads: int,
    quiet: bool,
    debug: bool,
) -> None:
    """Measure how far PLAN is from its reference on real footage, and judge it by budgets.

    GoPro and DVD are scored as published: sub-sequences of 48 frames that share 4, PSNR on 8-bit RGB, the released
    SSIM, mean of sub-sequences and mean of frames. What keeps the scores from being comparable is listed.
    """
    given = {"--clip": clip, "--gopro": gopro, "--dvd": dvd}
    kind, footage = _chosen({option: path for option, path in given.items() if path is not None})
    if truth is not None and kind != "--clip":
        raise UsageError(f"expected --truth with --clip, got it with {kind}, which has its own; leave it out")
    if against != "reference" and (weights is not None or raft is not None):
        raise UsageError(f"expected --weights and --raft with --against reference, got --against {against}; choose one")
    compared = None if against == "reference" else PLAN.convert(against, None, None)
    require_inputs(weights, raft, truth)
    require_output(html, others=[plan, footage, truth, weights, raft, compared])
    require_packages("PIL", "skimage", "jinja2", "onnx", extra="parity", purpose="bsst parity")
    from bsst.calibration.parity.budget import default_budgets
    from bsst.calibration.parity.compare import Tiling
    from bsst.calibration.parity.footage import PATCH_OVERLAP, video_footage
    from bsst.calibration.parity.judge import judge_plan, plan_reference
    from bsst.calibration.parity.report import parity_html, parity_summary, parity_text
    from bsst.files import atomic_file
    from bsst.plan.archive import open_plan, require

    manifest = open_plan(plan).manifest
    require(manifest, targets=["cpu"])
    protocol = kind != "--clip"  # the published one: each sub-sequence on its own, as one scene
    footages, deviations = (
        _data_set(manifest, kind, footage, frames, patches)
        if protocol
        else ((video_footage(footage, truth, limit=frames),), None)
    )
    defaults = default_budgets(manifest.precision, ground_truth=footages[0].sharp is not None)
    budgets = dataclasses.replace(
        defaults,
        psnr=defaults.psnr if min_psnr is None else min_psnr,
        loss=defaults.loss if max_loss is None else max_loss,
        stage=defaults.stage if min_stage_psnr is None else min_stage_psnr,
    )
    show = (lambda step: None) if quiet else _Lines()
    result = judge_plan(
        plan,
        _reference(manifest, weights, raft, threads)
        if compared is None
        else plan_reference(compared, manifest, threads=threads),
        footages,
        budgets=budgets,
        tiling=Tiling(
            tile_overlap=PATCH_OVERLAP if patches else None,
            blend="release" if patches else "feather",
            scene_cuts=not protocol,
        ),
        bisect=bisect,
        threads=threads,
        progress=show,
    )
    show("")
    summary = parity_summary(result, plan=plan.name, footage=str(footage), deviations=deviations)
    if html is not None:
        with atomic_file(html) as file:
            file.write(parity_html(summary, result.comparison.worst).encode())
    click.echo(json.dumps(summary, indent=1) if as_json else printable(parity_text(summary)))
    if not result.within:
        click.get_current_context().exit(EXIT_OVER_BUDGET)


def _chosen(given: dict[str, Path]) -> tuple[str, Path]:
    if len(given) != 1:
        raise UsageError(f"expected one of --clip, --gopro and --dvd, got {', '.join(given) or 'none'}; give footage")
    return next(iter(given.items()))


def _data_set(
    manifest: Manifest, kind: str, root: Path, limit: int | None, patches: bool
) -> tuple[tuple[Footage, ...], tuple[str, ...]]:
    """What to compare on, and why its scores are not comparable with published ones."""
    from bsst.calibration.parity.datasets import DVD, GOPRO, read_layout
    from bsst.calibration.parity.footage import dataset_footages, deviations

    clips = read_layout(root)
    reasons = deviations(manifest, clips, GOPRO if kind == "--gopro" else DVD, patches=patches, limit=limit)
    return dataset_footages(clips, limit=limit), reasons


def _reference(manifest: Manifest, weights: Path | None, raft: Path | None, threads: int) -> Reference:
    require_packages("torch", "safetensors", "onnxscript", extra="export", purpose="--against reference")
    import torch

    from bsst.calibration.parity.reference import torch_reference
    from bsst.reference.checkpoint import load_networks

    if threads:
        torch.set_num_threads(threads)
    return torch_reference(load_networks(weights, raft), manifest)


class _Lines:
    """Steps on standard error: overwritten on a terminal, else one line every ten seconds."""

    def __init__(self) -> None:
        self._next = time.monotonic()

    def __call__(self, step: str) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r\x1b[K{printable(step)}", err=True, nl=False)
        elif step and time.monotonic() >= self._next:
            self._next = time.monotonic() + 10
            click.echo(printable(step), err=True)
