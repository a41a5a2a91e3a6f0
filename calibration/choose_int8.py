"""Which stages of a plan become int8: as many as the loss on real clips allows, chosen one by one.

Every stage that may be quantised is measured alone; then, from the least to the most costly, each joins those chosen
before if the clips stay within the budget, and otherwise keeps the fallback precision. On a CPU it must also be faster
than float32 here: integers save bytes anywhere, and time only where the kernels and the processor have instructions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from bsst.calibration.calibrate import sample_size
from bsst.calibration.precision.emulate import emulate_half
from bsst.calibration.precision.int8 import to_int8
from bsst.calibration.precision.int8_placement import INT8_STAGES, cpu_int8_sites, int8_sites, plain_graph
from bsst.calibration.precision.to_half import HalfType, feature_tensors, to_half
from bsst.calibration.ranges import Ranges
from bsst.calibration.samples import Sample, read_samples
from bsst.calibration.stage_speed import speedup
from bsst.errors import ExportError
from bsst.plan.archive import Plan
from bsst.runtime import metrics
from bsst.runtime.network.network import host_network
from bsst.runtime.one_clip import clip_flows, restore_crop
from bsst.runtime.sessions.ort import OrtSession

__all__ = ["Budget", "Figures", "choose_int8", "decision_table"]


LEAST_SPEEDUP = 1.05
"""Times as fast as float32 that a stage in int8 must be on a CPU; less is noise."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What int8 may cost on every window measured."""

    loss_db: float = 0.1
    """PSNR lost against the ground truth, where there is one."""
    psnr_db: float = 45.0
    """PSNR against the same plan in fp32, where there is none."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The worst window of all."""

    psnr: float
    """Against fp32, dB."""
    loss: float | None
    """Against ground truth, dB lost; None where no clip has one."""
    within: bool
    """Whether every window keeps to the budget."""


def choose_int8(
    plan: Plan,
    ranges: Ranges,
    fallback: Mapping[str, onnx.ModelProto],
    *,
    half: HalfType | None,
    budget: Budget,
    cpu: bool = False,
    after: Callable[[onnx.ModelProto], onnx.ModelProto] = lambda model: model,
    progress: Callable[[str], None] = lambda step: None,
) -> tuple[dict[str, onnx.ModelProto], dict[str, Any]]:
    """Quantise what the budget allows.

    Args:
        plan: fp32 plan of target `cpu`.
        ranges: measured on this plan (`require_plan`).
        fallback: every stage in the precision it has unless it becomes int8.
        half: type of the products that stay floating point, None for float32; the same as in `fallback`.
        budget: what all chosen stages together may cost.
        cpu: the plan will run on a CPU: pairs where its kernels want them, and no stage that is not faster.
        after: graph pass that the target wants last.
        progress: told about every measurement.

    Returns:
        The stages that become int8, and the decisions for the manifest, see `decision_table`.

    Raises:
        InputError: a clip that was calibrated on is missing or changed.
        ModelError: an activation without a range.
        ExportError: no stage can be quantised within the budget.
    """
    quantised = {}
    for name in INT8_STAGES:
        model = plain_graph(onnx.load_from_string(plan.member(name)))
        if cpu_int8_sites(model) if cpu else int8_sites(model):
            integer = to_int8(model, ranges.tensors.get(name, {}), stage=name, cpu=cpu)
            mixed = to_half(integer, half, half_tensors=feature_tensors(integer)) if half else integer
            quantised[name] = after(mixed)
    bench = _Bench(plan, fallback, quantised, ranges, budget)
    base = bench.measure(())
    alone: dict[str, Figures] = {}
    for name in quantised:
        progress(f"measuring {name} in int8 alone")
        alone[name] = bench.measure((name,))
    chosen: list[str] = []
    together = base
    rows = {}
    for name in sorted(alone, key=lambda name: -alone[name].psnr):
        if chosen:
            progress(f"measuring {name} in int8 with {', '.join(chosen)}")
        joint = bench.measure((*chosen, name)) if chosen else alone[name]
        rows[name] = {"int8": joint.within, "alone": _row(alone[name]), "together": _row(joint)}
        if cpu:
            progress(f"timing {name} in int8 and in float32")
            gained = speedup(plan.manifest.stage(name), fallback[name], quantised[name])
            rows[name] |= {"speed": gained, "int8": joint.within and gained >= LEAST_SPEEDUP}
        if rows[name]["int8"]:
            chosen.append(name)
            together = joint
    decisions: dict[str, Any] = {
        "budget": dataclasses.asdict(budget),
        "ranges": {"method": ranges.method, "windows": len(bench.samples)},
        "without": _row(base),
        "clip": _row(together),
        "stages": rows,
    }
    if not chosen:
        for line in decision_table(decisions):
            progress(line)
        faster = " that is faster too" if cpu else ""
        raise ExportError(
            f"expected at least one stage in int8 within {budget.loss_db} dB of ground truth or {budget.psnr_db} dB of "
            f"fp32, got none{faster}, see the table; allow more with --int8-loss or --int8-psnr, or export without "
            "--int8"
        )
    return {name: quantised[name] for name in chosen}, decisions


def decision_table(decisions: Mapping[str, Any]) -> list[str]:
    """Decisions of `choose_int8` as lines of text."""

    def cells(row: Mapping[str, float]) -> tuple[str, str]:
        return f"{row['psnr']:.1f} dB", f"{row['loss']:+.3f} dB" if "loss" in row else "-"

    rows = [("stage", "alone to fp32", "lost", "together to fp32", "lost", "times as fast", "int8")]
    rows.append(("none", *cells(decisions["without"]), *cells(decisions["without"]), "", ""))
    for name, row in sorted(decisions["stages"].items(), key=lambda item: -item[1]["alone"]["psnr"]):
        speed = f"{row['speed']:.2f}" if "speed" in row else "-"
        rows.append((name, *cells(row["alone"]), *cells(row["together"]), speed, "yes" if row["int8"] else "no"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(figures: Figures) -> dict[str, float]:
    return {"psnr": figures.psnr} | ({} if figures.loss is None else {"loss": figures.loss})


class _Bench:
    """The same windows through any mixture of stages; flow is computed once, because it is never quantised."""

    def __init__(
        self,
        plan: Plan,
        fallback: Mapping[str, onnx.ModelProto],
        quantised: Mapping[str, onnx.ModelProto],
        ranges: Ranges,
        budget: Budget,
    ) -> None:
        self._manifest = plan.manifest
        self._budget = budget
        self._fallback = {name: _session(name, model) for name, model in fallback.items()}
        self._quantised = {name: _session(name, model) for name, model in quantised.items()}
        size = sample_size(plan.manifest)
        self.samples = tuple(read_samples(ranges.clips, frames=plan.manifest.frames, size=size, windows=ranges.windows))
        exact = {
            stage.name: OrtSession(stage.name, plan.member(stage.name), threads=0) for stage in plan.manifest.stages
        }
        with host_network(plan.manifest, exact) as network:
            self._expected = [
                restore_crop(network, sample.blurry, clip_flows(network, sample.blurry)) for sample in self.samples
            ]
        with host_network(plan.manifest, self._fallback) as network:
            self._flows = [clip_flows(network, sample.blurry) for sample in self.samples]

    def measure(self, stages: Collection[str]) -> Figures:
        """Figures with `stages` in int8."""
        sessions = self._fallback | {name: self._quantised[name] for name in stages}
        found = []
        with host_network(self._manifest, sessions) as network:
            for sample, flows, expected in zip(self.samples, self._flows, self._expected, strict=True):
                got = restore_crop(network, sample.blurry, flows)
                found.append((metrics.float_psnr(expected, got, 1.0), self._loss(sample, expected, got)))
        losses = [loss for _, loss in found if loss is not None]
        return Figures(
            psnr=min(figure for figure, _ in found),
            loss=max(losses, default=None),
            # Written so that NaN is not within.
            within=all(
                figure >= self._budget.psnr_db if loss is None else loss <= self._budget.loss_db
                for figure, loss in found
            ),
        )

    def _loss(self, sample: Sample, expected: Any, got: Any) -> float | None:
        if sample.sharp is None:
            return None
        height, width = self._manifest.tile
        truth = metrics.to_uint8(sample.sharp[..., :height, :width])
        return metrics.psnr(truth, metrics.to_uint8(expected)) - metrics.psnr(truth, metrics.to_uint8(got))


def _session(name: str, model: onnx.ModelProto) -> OrtSession:
    """What ONNX Runtime would hide is emulated, see `emulate_half`; a graph without 16-bit values stays as it is."""
    return OrtSession(name, emulate_half(model).SerializeToString(), threads=0)
