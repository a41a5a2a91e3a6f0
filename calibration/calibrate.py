"""Plan and real clips -> ranges of activations: `bsst calibrate`.

Every stage runs in its place of the real wiring, on what the stages before it made of real frames. A stage alone on
made-up inputs would see other values: flows, states and attention depend on what moves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import onnx

from bsst.calibration.observe import ObservingSession, RangeCollector
from bsst.calibration.precision.int8_placement import INT8_STAGES, cpu_int8_sites, int8_sites, plain_graph
from bsst.calibration.ranges import ClipRecord, Method, Ranges, stages_key
from bsst.calibration.samples import read_samples
from bsst.errors import UsageError
from bsst.plan.archive import Plan, open_plan
from bsst.plan.manifest import Manifest, require
from bsst.runtime.devices.host import HostSession
from bsst.runtime.network.network import host_network
from bsst.runtime.one_clip import restore_clip
from bsst.runtime.sessions.ort import OrtSession

__all__ = ["calibrate", "sample_size"]


def calibrate(
    plan: Path,
    clips: Sequence[ClipRecord],
    *,
    method: Method = "percentile",
    percentile: float = 99.999,
    windows: int = 2,
    threads: int = 0,
    progress: Callable[[str], None] = lambda step: None,
) -> Ranges:
    """Run a plan on windows of clips and collect the range of every activation that may be quantised.

    Args:
        plan: target `cpu`, precision fp32.
        clips: from `clip_record`.
        method: how a range is chosen from the values seen.
        percentile: share in percent of the magnitudes inside, for `percentile`.
        windows: at most so many windows of each clip.
        threads: CPU threads; 0 for all cores.
        progress: told about every window.

    Raises:
        UsageError: no clips, or options out of range.
        PlanError: the plan is damaged or not for the CPU.
        InputError: a clip cannot be read.
        ModelError: an activation is not finite, or nothing but zero.
    """
    if windows < 1 or not 50 < percentile <= 100:
        raise UsageError(
            f"expected 1 or more windows and a percentile above 50 up to 100, got {windows} and {percentile}; "
            "try --windows 2 --percentile 99.999"
        )
    opened = open_plan(plan)
    require(opened.manifest, targets=["cpu"])
    if opened.manifest.precision != "fp32":
        raise UsageError(
            f"expected a plan in fp32, got {opened.manifest.precision}; calibrate the plan it was made from"
        )
    collectors = {
        stage.name: RangeCollector(stage.name, method, percentile)
        for stage in opened.manifest.stages
        if stage.name in INT8_STAGES
    }
    samples = read_samples(clips, frames=opened.manifest.frames, size=sample_size(opened.manifest), windows=windows)
    first = next(samples)  # a clip that cannot be read is known before sessions are made
    with host_network(opened.manifest, _sessions(opened, collectors, threads)) as network:
        for number, sample in enumerate(chain([first], samples), start=1):
            progress(f"window {number} of at most {windows * len(clips)}: {sample.name}")
            restore_clip(network, sample.blurry)
    progress("choosing ranges")
    return Ranges(
        stages_sha256=stages_key(opened.manifest),
        method=method,
        percentile=percentile,
        windows=windows,
        clips=tuple(clips),
        tensors={name: collector.result() for name, collector in collectors.items()},
    )


def sample_size(manifest: Manifest) -> tuple[int, int]:
    """(H, W) of the frames that `restore_clip` takes."""
    height, width = (max(pair) for pair in zip(manifest.tile, manifest.flow_size, strict=True))
    return height, width


def _sessions(plan: Plan, collectors: dict[str, RangeCollector], threads: int) -> dict[str, HostSession]:
    sessions: dict[str, HostSession] = {}
    for stage in plan.manifest.stages:
        member = plan.member(stage.name)
        if stage.name not in collectors:
            sessions[stage.name] = OrtSession(stage.name, member, threads=threads)
            continue
        model = plain_graph(onnx.load_from_string(member))
        operands = {site.tensor for site in int8_sites(model) if site.axis is None}
        results = {site.tensor for site in cpu_int8_sites(model) if site.result} - operands
        tensors = operands | results
        collectors[stage.name].results = frozenset(results)
        sessions[stage.name] = ObservingSession(model, tensors, collectors[stage.name], threads=threads)
    return sessions
