"""One plan against one reference: clips, stages, the first bad node, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from bsst.calibration.parity.bisect import Culprit, NodeFault, first_bad_node, first_bad_stage, trusted_graphs
from bsst.calibration.parity.budget import Budgets, Check, verdict
from bsst.calibration.parity.compare import Comparison, Footage, Tiling, compare
from bsst.calibration.parity.footage import worst_clip
from bsst.calibration.parity.stages import StageFigures, compare_stages, graph_sessions
from bsst.errors import UsageError
from bsst.plan.archive import open_plan
from bsst.plan.manifest import Manifest
from bsst.runtime.devices.host import HostSession
from bsst.runtime.frames.restorer import Restorer
from bsst.runtime.network.network import load_network

__all__ = ["Parity", "Reference", "judge_plan", "plan_reference"]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a plan is judged by; as a whole, by stage, and as graphs."""

    name: str
    """Shown to users."""
    restorer: Restorer
    """The whole, at the sizes of the plan."""
    sessions: Mapping[str, HostSession]
    """Every stage in float32."""
    graphs: Callable[[str], Iterable[onnx.ModelProto]]
    """Stage name -> float32 graphs whose tensors may have the names of the plan's."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Everything that was measured."""

    manifest: Manifest
    size: int
    """Bytes of the plan."""
    reference: str
    comparison: Comparison
    stages: tuple[StageFigures, ...]
    """On the window and tile with the largest difference."""
    budgets: Budgets
    checks: tuple[Check, ...]
    culprit: Culprit | None
    """First stage outside its budget; only searched for if asked."""
    node: NodeFault | None
    """First bad node of a culprit that is broken by itself."""

    @property
    def within(self) -> bool:
        """Every check passed."""
        return all(check.within for check in self.checks)


def judge_plan(
    path: Path,
    reference: Reference,
    footages: Sequence[Footage],
    *,
    budgets: Budgets,
    tiling: Tiling | None = None,
    bisect: bool = False,
    threads: int = 0,
    progress: Callable[[str], None] = lambda step: None,
) -> Parity:
    """Compare a plan with its reference on footage, then stage by stage where they differ most.

    Args:
        path: plan of target `cpu`.
        reference: at the sizes of the plan.
        footages: at least one.
        budgets: limits of the verdict and, for `stage`, of the search.
        tiling: how frames are cut.
        bisect: look for the first stage and node outside the budget.
        threads: of ONNX Runtime; 0 for all cores.
        progress: told about every frame and step.

    Raises:
        PlanError: the plan cannot be run here.
        InputError: footage cannot be read.
    """
    plan = open_plan(path)
    with load_network(path, threads=threads) as network:
        comparison = compare(footages, network, reference.restorer, tiling=tiling, progress=progress)
    progress("comparing the stages where the difference is largest")
    manifest = plan.manifest
    height, width = (max(pair) for pair in zip(manifest.tile, manifest.flow_size, strict=True))
    clip = worst_clip(comparison.worst, frames=manifest.frames, size=(height, width))
    stages = compare_stages(manifest, graph_sessions(plan, threads=threads), reference.sessions, clip)
    culprit = node = None
    if bisect:
        culprit = first_bad_stage(stages, budgets.stage, exact_tables=budgets.exact_tables)
    if culprit is not None and culprit.inputs == "reference":
        progress(f"looking for the first bad node of {culprit.stage}")
        node = first_bad_node(
            onnx.load_from_string(plan.member(culprit.stage)),
            reference.graphs(culprit.stage),
            next(stage.worst_inputs for stage in stages if stage.name == culprit.stage),
            minimum=budgets.stage,
            exact_tables=budgets.exact_tables,
            threads=threads,
        )
    return Parity(
        manifest=manifest,
        size=path.stat().st_size,
        reference=reference.name,
        comparison=comparison,
        stages=stages,
        budgets=budgets,
        checks=verdict(comparison, stages, budgets),
        culprit=culprit,
        node=node,
    )


def plan_reference(path: Path, manifest: Manifest, *, threads: int = 0) -> Reference:
    """Another plan as the reference, typically the fp32 plan that this one was built from.

    Raises:
        UsageError: its sizes or its network differ from the plan's.
        PlanError: it is damaged or cannot be run here.
    """
    plan = open_plan(path)
    for name in ("config", "frames", "tile", "flow_size", "tile_overlap", "window_overlap"):
        expected, got = getattr(manifest, name), getattr(plan.manifest, name)
        if expected != got:
            raise UsageError(
                f"expected --against {path.name} to have the {name.replace('_', ' ')} of the plan, got "
                f"{str(got)[:60]} instead of {str(expected)[:60]}; export both with the same options"
            )
    return Reference(
        name=f"{path.name} ({plan.manifest.precision})",
        restorer=load_network(path, threads=threads),
        sessions=graph_sessions(plan, threads=threads),
        graphs=lambda stage: trusted_graphs(onnx.load_from_string(plan.member(stage))),
    )
