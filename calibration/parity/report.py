"""A comparison as JSON, as text for a terminal, and as one HTML file that needs nothing else.

The three are made from one dictionary, `parity_summary`, so they cannot disagree.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bsst.calibration.parity.compare import KINDS, Image, Mean, Score, WorstFrame
from bsst.calibration.parity.judge import Parity
from bsst.calibration.parity.plot import Line, drift_plot
from bsst.calibration.parity.stages import StageError, worst_stage
from bsst.errors import MissingDependencyError
from bsst.runtime.metrics import to_uint8

__all__ = ["parity_html", "parity_summary", "parity_text"]

TEMPLATE = Path(__file__).parent / "report.html"
CROP = 384
"""Largest side in pixels of the pictures in a report; of larger frames, the part around the largest difference."""
MEANS: tuple[Mean, ...] = ("sub-sequences", "frames")


def parity_summary(
    parity: Parity, *, plan: str, footage: str, deviations: Sequence[str] | None = None
) -> dict[str, Any]:
    """Plain values, ready for JSON; figures that are infinite or undefined are "inf", "-inf" and "nan".

    Args:
        parity: what was measured.
        plan: name of the plan.
        footage: name of the video or data set.
        deviations: why scores are not comparable with published ones; None if that was not the intention.
    """
    comparison, manifest = parity.comparison, parity.manifest
    summary = {
        "plan": plan,
        "label": manifest.label,
        "precision": manifest.precision,
        "target": manifest.target,
        "bytes": parity.size,
        "window_frames": manifest.frames,
        "tile": list(manifest.tile),
        "reference": parity.reference,
        "footage": footage,
        "protocol_deviations": None if deviations is None else list(deviations),
        "difference": {
            "psnr": comparison.psnr,
            "ssim": comparison.ssim,
            "largest": max(frame.largest for frame in comparison.frames),
            "drift_db_per_frame": comparison.drift,
            "not_finite": dict(comparison.not_finite),
        },
        "worst_frame": {
            "clip": comparison.worst.figures.clip,
            "frame": comparison.worst.figures.index,
            "psnr": comparison.worst.figures.psnr,
        },
        "worst_stage": worst_stage(parity.stages).name,
        "stages": [
            {
                "name": stage.name,
                "isolated": _error(stage.isolated),
                "accumulated": _error(stage.accumulated),
                "steps": list(stage.steps),
            }
            for stage in parity.stages
        ],
        "ground_truth": {kind: {mean: _score(comparison.scores(kind, mean=mean)) for mean in MEANS} for kind in KINDS}
        if comparison.scores("plan", mean="frames")
        else None,
        "bisect": _bisect(parity),
        "budgets": [
            {"name": check.name, "limit": check.limit, "got": check.got, "within": check.within}
            for check in parity.checks
        ],
        "stage_budget": parity.budgets.stage,
        "within": parity.within,
        "frames": [
            {
                "clip": frame.clip,
                "sub_sequence": frame.start,
                "frame": frame.index,
                "psnr": frame.psnr,
                "ssim": frame.ssim,
                "largest": frame.largest,
                "scores": {kind: _score(score) for kind, score in frame.scores.items()},
            }
            for frame in comparison.frames
        ],
    }
    result: dict[str, Any] = _finite(summary)
    return result


def parity_text(summary: dict[str, Any]) -> str:
    """A screenful for a terminal."""
    difference, worst = summary["difference"], summary["worst_frame"]
    lines = [
        f"plan         {summary['plan']}: {summary['label']}, {summary['precision']}, {summary['bytes'] / 1e6:.1f} MB",
        f"reference    {summary['reference']}",
        f"footage      {summary['footage']}, {len(summary['frames'])} restored frames",
        "",
        f"difference   PSNR {number(difference['psnr'], 1)} dB, SSIM {number(difference['ssim'], 6)}, largest "
        f"{number(difference['largest'], 7)}, drift {number(difference['drift_db_per_frame'], 2)} dB per frame",
        f"not finite   plan {difference['not_finite']['plan']}, reference {difference['not_finite']['reference']}",
        f"worst frame  {worst['clip']} {worst['frame']}, {number(worst['psnr'], 1)} dB",
        f"worst stage  {summary['worst_stage']}",
        "",
        f"{'stage, dB':24} {'isolated':>9} {'accumulated':>12}",
    ]
    for stage in summary["stages"]:
        isolated, accumulated = stage["isolated"], stage["accumulated"]
        remark = f"  {isolated['entries_changed']} table entries changed" if isolated["entries_changed"] else ""
        lines.append(
            f"{stage['name']:24} {number(isolated['psnr'], 1):>9} {number(accumulated['psnr'], 1):>12}{remark}"
        )
    if summary["ground_truth"]:
        lines += ["", f"{'against ground truth':33} {'PSNR':>9} {'SSIM':>8} {'SSIM (scikit-image)':>20}"]
        for mean in MEANS:
            for kind, scores in summary["ground_truth"].items():
                score = scores[mean]
                lines.append(
                    f"{kind + ', mean of ' + mean:33} {number(score['psnr'], 4):>9} {number(score['ssim'], 5):>8} "
                    f"{number(score['ssim_skimage'], 5):>20}"
                )
    if summary["protocol_deviations"] is not None:
        deviations = summary["protocol_deviations"]
        lines += ["", "published protocol: " + ("followed exactly" if not deviations else "not comparable, because")]
        lines += [f"  {reason}" for reason in deviations]
    if summary["bisect"]:
        lines += ["", f"bisect       {summary['bisect']['text']}"]
    lines.append("")
    for check in summary["budgets"]:
        state = "within budget" if check["within"] else "OVER BUDGET"
        lines.append(f"{state:14} {check['name']}: {number(check['got'], 4)} ({check['limit']})")
    return "\n".join(lines)


def parity_html(summary: dict[str, Any], worst: WorstFrame) -> str:
    """One HTML file: tables, plots, and a slider between pictures of the worst frame.

    Raises:
        MissingDependencyError: jinja2 or Pillow is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise MissingDependencyError("jinja2", "parity", "the HTML report") from error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = number
    footages: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for frame in summary["frames"]:
        footages.setdefault((frame["clip"], frame["sub_sequence"]), []).append((frame["frame"], float(frame["psnr"])))
    output = drift_plot([Line(clip, points) for (clip, _), points in footages.items()], unit="frame of the clip")
    recurrence = drift_plot(
        [
            Line(stage["name"].removeprefix("propagate_"), list(enumerate(map(float, stage["steps"]))))
            for stage in summary["stages"]
            if stage["name"].startswith("propagate_")
        ],
        unit="step of the recurrence",
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        summary=summary,
        means=MEANS,
        output_plot=output,
        recurrence_plot=recurrence,
        pictures={name: _png(image) for name, image in _pictures(worst).items()},
    )


def number(value: float | str, digits: int) -> str:
    """Fixed digits; counts, "inf" and "nan" as they are."""
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def _error(error: StageError) -> dict[str, Any]:
    return {"psnr": error.psnr, "entries_changed": error.entries_changed, "not_finite": error.not_finite}


def _score(score: Score | None) -> dict[str, float] | None:
    return None if score is None else {"psnr": score.psnr, "ssim": score.ssim, "ssim_skimage": score.ssim_skimage}


def _bisect(parity: Parity) -> dict[str, Any] | None:
    culprit, node = parity.culprit, parity.node
    if culprit is None:
        return None
    found = {"stage": culprit.stage, "inputs": culprit.inputs, "error": _error(culprit.error), "node": None}
    words = f"{culprit.stage} leaves its budget of {parity.budgets.stage:g} dB on the {culprit.inputs}'s inputs"
    if culprit.inputs == "plan":
        text = f"{words} ({culprit.error.psnr:.1f} dB); every stage is within it on the reference's: errors add up"
    elif node is None:
        text = f"{words} ({culprit.error.psnr:.1f} dB); no single node could be named"
    else:
        found["node"] = {
            "name": node.name,
            "operator": node.operator,
            "output": node.output,
            "position": node.position,
            "error": _error(node.error),
            "compared": node.compared,
            "tensors": node.tensors,
        }
        text = (
            f"{words}; first bad node: {node.operator} {node.name} (number {node.position}), {node.error.psnr:.1f} dB "
            f"at {node.output}, tensor {node.compared} of {node.tensors} compared"
        )
    return {**found, "text": text}


def _pictures(worst: WorstFrame) -> dict[str, Image]:
    """What the slider shows, (3, h, w) uint8 each."""
    difference = np.abs(worst.plan - worst.reference)
    scale = 1 / max(float(np.nanmax(difference)), 1e-12)
    frames = {
        "blurry": to_uint8(worst.blurry),
        "plan": to_uint8(worst.plan),
        "reference": to_uint8(worst.reference),
        f"difference x {scale:.3g}": to_uint8(difference * scale),
    }
    if worst.sharp is not None:
        frames["ground truth"] = worst.sharp
    place = np.unravel_index(int(difference.sum(0).argmax()), difference.shape[1:])
    window = tuple(
        slice(start := max(0, min(int(centre) - CROP // 2, full - CROP)), start + CROP)
        for centre, full in zip(place, difference.shape[1:], strict=True)
    )
    return {name: np.ascontiguousarray(image[:, *window]) for name, image in frames.items()}


def _png(image: Image) -> str:
    """(3, h, w) uint8 -> data URI."""
    try:
        from PIL import Image as Pillow
    except ImportError as error:
        raise MissingDependencyError("pillow", "parity", "pictures in a report") from error
    buffer = io.BytesIO()
    Pillow.fromarray(image.transpose(1, 2, 0)).save(buffer, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
