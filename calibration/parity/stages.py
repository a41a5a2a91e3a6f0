"""Stage by stage: how far a plan is from its reference, on the reference's inputs and on its own.

*Isolated*: every call of every stage gets what the reference gave it, so an error belongs to that stage alone.
*Accumulated*: the plan runs by itself; the errors of earlier stages, and of earlier steps of a recurrence, come along.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bsst.calibration.parity.stage_session import GraphSession
from bsst.errors import PlanError
from bsst.plan.archive import Plan
from bsst.plan.manifest import Manifest, TensorSpec
from bsst.runtime.devices.base import Array
from bsst.runtime.devices.host import HostSession
from bsst.runtime.metrics import float_psnr
from bsst.runtime.network.network import host_network
from bsst.runtime.one_clip import restore_clip

__all__ = [
    "StageError",
    "StageFigures",
    "compare_stages",
    "graph_sessions",
    "single_precision",
    "tensor_error",
    "worst_stage",
]


@dataclass(frozen=True)
class StageError:
    """What one call, or the worst of several, put out against the reference."""

    psnr: float
    """dB of the worst output; peak is the largest magnitude of the reference's output; 200 where equal."""
    entries_changed: int = 0
    """Entries of integer tables that differ."""
    not_finite: int = 0
    """NaN and infinite values where the reference has none."""

    @property
    def rank(self) -> tuple[int, float]:
        """Smaller is worse: broken values before decibels."""
        return -self.not_finite, self.psnr

    def within(self, minimum: float, *, exact_tables: bool = True) -> bool:
        """At least `minimum` dB, everything finite, and with `exact_tables` no table changed."""
        return self.psnr >= minimum and not self.not_finite and not (exact_tables and self.entries_changed)


@dataclass(frozen=True, kw_only=True)
class StageFigures:
    """All calls of one stage on one clip."""

    name: str
    isolated: StageError
    """Worst call on the reference's inputs."""
    accumulated: StageError
    """Worst call on the plan's own inputs."""
    steps: tuple[float, ...]
    """Accumulated dB of every call in the order of the calls: for `propagate_*`, over the recurrence."""
    worst_inputs: Mapping[str, Array]
    """The reference's inputs of the call that is worst in isolation."""


def compare_stages(
    manifest: Manifest, plan: Mapping[str, HostSession], reference: Mapping[str, HostSession], clip: NDArray[np.float32]
) -> tuple[StageFigures, ...]:
    """Run one clip through both.

    Args:
        manifest: of the plan.
        plan: sessions of the plan's stages.
        reference: sessions of the same stages that take and give float32 where the plan takes lower precision.
        clip: (T, 3, H, W) float32 in [0, 1]; H and W cover the tile and the flow size.

    Returns:
        Figures in the order in which a clip meets the stages.
    """
    probes = {stage.name: _Probe(reference[stage.name], plan[stage.name], stage.outputs) for stage in manifest.stages}
    with host_network(single_precision(manifest), probes) as network:
        restore_clip(network, clip)
    followers = {name: _Follower(plan[name], probe.expected) for name, probe in probes.items()}
    with host_network(manifest, followers) as network:
        restore_clip(network, clip)
    return tuple(
        StageFigures(
            name=name,
            isolated=_worst(probe.errors),
            accumulated=_worst(followers[name].errors),
            steps=tuple(error.psnr for error in followers[name].errors),
            worst_inputs=probe.worst_inputs,
        )
        for name, probe in probes.items()
    )


def graph_sessions(plan: Plan, *, threads: int = 0) -> dict[str, HostSession]:
    """Sessions of a plan that holds ONNX graphs.

    Raises:
        PlanError: it holds compiled engines.
    """
    if any(not stage.member.endswith(".onnx") for stage in plan.manifest.stages):
        raise PlanError(
            f"{plan.path}: expected ONNX graphs to compare stages, got engines for {plan.manifest.target}; "
            "give the cpu plan of the same weights and precision"
        )
    return {s.name: GraphSession(plan.member(s.name), threads=threads) for s in plan.manifest.stages}


def single_precision(manifest: Manifest) -> Manifest:
    """The same stages with float32 in place of shorter floating point types."""

    def widen(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(
            dataclasses.replace(spec, dtype="float32") if spec.dtype in ("float16", "bfloat16") else spec
            for spec in specs
        )

    stages = (dataclasses.replace(s, inputs=widen(s.inputs), outputs=widen(s.outputs)) for s in manifest.stages)
    return dataclasses.replace(manifest, stages=tuple(stages), precision="fp32")


def tensor_error(expected: Array, got: Array) -> StageError:
    """Error of one tensor."""
    if not np.issubdtype(expected.dtype, np.floating):
        return StageError(200.0, entries_changed=int(np.count_nonzero(expected != got)))
    broken = int(np.count_nonzero(np.isfinite(expected) & ~np.isfinite(got)))
    if broken:
        return StageError(float("-inf"), not_finite=broken)
    return StageError(float_psnr(expected, got, float(np.abs(expected).max(initial=0)) or 1.0))


def worst_stage(stages: Sequence[StageFigures]) -> StageFigures:
    """The stage with the largest error of its own."""
    return min(stages, key=lambda stage: stage.isolated.rank)


class _Probe(HostSession):
    """Runs the reference; gives the plan's stage the same inputs and measures it; keeps what the reference said."""

    def __init__(self, reference: HostSession, plan: HostSession, outputs: tuple[TensorSpec, ...]) -> None:
        self._reference, self._plan, self._outputs = reference, plan, outputs
        self.errors: list[StageError] = []
        self.expected: list[dict[str, Array]] = []
        self.worst_inputs: dict[str, Array] = {}

    def run(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        self._reference.run(inputs, outputs)
        got = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in self._outputs}
        self._plan.run(inputs, got)
        error = _worst([tensor_error(outputs[name], got[name]) for name in got])
        if not self.errors or error.rank < min(known.rank for known in self.errors):
            self.worst_inputs = {name: array.copy() for name, array in inputs.items()}
        self.errors.append(error)
        self.expected.append({name: array.copy() for name, array in outputs.items()})


class _Follower(HostSession):
    """Runs the plan; compares every call with what the reference said at that call."""

    def __init__(self, plan: HostSession, expected: list[dict[str, Array]]) -> None:
        self._plan, self._expected = plan, expected
        self.errors: list[StageError] = []

    def run(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        self._plan.run(inputs, outputs)
        expected = self._expected[len(self.errors)]
        self.errors.append(_worst([tensor_error(expected[name], outputs[name]) for name in expected]))


def _worst(errors: list[StageError]) -> StageError:
    return StageError(
        min(error.psnr for error in errors),
        max(error.entries_changed for error in errors),
        max(error.not_finite for error in errors),
    )
