"""Every stage of a plan on one provider of ONNX Runtime, against the CPU.

A provider that is offered and passes small probes can still be wrong about a stage: only its result tells. It works in
a process of its own, since providers have been seen to abort: `python -m bsst.engines.doctor.stage_trial FOLDER
PROVIDER STAGE...`, which prints a line `@stage <name> <dB> <seconds>` for each stage.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bsst.engines.child import run_limited
from bsst.plan.archive import Plan
from bsst.runtime.devices.base import Array
from bsst.runtime.devices.host import HostSession
from bsst.runtime.metrics import float_psnr
from bsst.runtime.network.network import host_network
from bsst.runtime.one_clip import moving_texture, restore_clip
from bsst.runtime.sessions.ort import OrtSession

__all__ = ["StageTrial", "record_stages", "try_stages"]

_LINE = "@stage"


@dataclass(frozen=True, kw_only=True)
class StageTrial:
    """One stage on a provider."""

    name: str
    """Stage name."""
    psnr: float
    """Of the worst output against the CPU, in dB, peak its largest value; 0 where it is not finite."""
    seconds: float
    """Of the faster of two runs, copies of inputs and outputs included."""


class _Recorded(HostSession):
    """A session that keeps the arrays of its last run and the time of its fastest."""

    def __init__(self, session: OrtSession) -> None:
        self._session = session
        self.arrays: dict[str, Array] = {}
        self.seconds = float("inf")

    def run(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        started = time.perf_counter()
        self._session.run(inputs, outputs)
        self.seconds = min(self.seconds, time.perf_counter() - started)
        self.arrays = {f"in {name}": array.copy() for name, array in inputs.items()}
        self.arrays |= {f"out {name}": array.copy() for name, array in outputs.items()}


def record_stages(plan: Plan, folder: Path, *, threads: int = 0) -> dict[str, float]:
    """Restore a clip on the CPU and write what every stage was last given and gave to `<stage>.npz`.

    Args:
        plan: of target `cpu`.
        folder: where the files go.
        threads: of the CPU; 0 for all cores.

    Returns:
        Stage -> seconds of its fastest run.
    """
    manifest = plan.manifest
    sessions = {s.name: _Recorded(OrtSession(s.name, plan.member(s.name), threads=threads)) for s in manifest.stages}
    size = [max(pair) for pair in zip(manifest.tile, manifest.flow_size, strict=True)]
    with host_network(manifest, sessions) as network:
        restore_clip(network, moving_texture(manifest.frames, *size))
    for name, session in sessions.items():
        np.savez(folder / f"{name}.npz", **session.arrays)  # type: ignore[arg-type]
    return {name: session.seconds for name, session in sessions.items()}


def try_stages(
    models: Mapping[str, bytes], folder: Path, provider: str, *, time_limit_seconds: float
) -> tuple[tuple[StageTrial, ...], str]:
    """Run recorded stages on a provider.

    Args:
        models: graph of each stage in the form that the provider's target runs.
        folder: of `record_stages`; the graphs are written beside.
        provider: to try.
        time_limit_seconds: the provider is stopped beyond that.

    Returns:
        The stages that gave a result, and why others did not, "" if all did.
    """
    for name, model in models.items():
        (folder / f"{name}.onnx").write_bytes(model)
    command = [sys.executable, "-m", "bsst.engines.doctor.stage_trial", str(folder), provider, *models]
    result = run_limited(command, time_limit_seconds=time_limit_seconds, memory_limit_bytes=16 << 30)
    lines = [line.split() for line in result.lines if line.startswith(_LINE)]
    trials = tuple(StageTrial(name=name, psnr=float(db), seconds=float(took)) for _, name, db, took in lines)
    if result.failure is None:
        return trials, ""
    stage = next((name for name in models if name not in {trial.name for trial in trials}), "the last one")
    words = next((line for line in reversed(result.lines) if line.strip() and not line.startswith(_LINE)), "")
    return trials, f"stage {stage}: {result.failure}" + (f", {words.strip()[:200]}" if words else "")


def _run(folder: Path, provider: str, names: list[str]) -> Iterator[tuple[str, float, float]]:
    for name in names:
        with np.load(folder / f"{name}.npz") as stored:
            inputs = {key.removeprefix("in "): stored[key] for key in stored if key.startswith("in ")}
            expected = {key.removeprefix("out "): stored[key] for key in stored if key.startswith("out ")}
        session = OrtSession(name, (folder / f"{name}.onnx").read_bytes(), threads=0, provider=provider)
        outputs = {key: np.empty_like(array) for key, array in expected.items()}
        seconds = float("inf")
        for _ in range(2):
            started = time.perf_counter()
            session.run(inputs, outputs)
            seconds = min(seconds, time.perf_counter() - started)
        yield name, min(_difference(array, outputs[key]) for key, array in expected.items()), seconds


def _difference(expected: Array, got: Array) -> float:
    """PSNR in dB; 0 where something is not finite, so that it is the least."""
    if not np.all(np.isfinite(got)):
        return 0.0
    return float_psnr(expected, got, float(np.max(np.abs(expected.astype(np.float64)))) or 1.0)


if __name__ == "__main__":
    for stage, decibels, took in _run(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]):
        print(_LINE, stage, f"{decibels:.2f}", f"{took:.6f}", flush=True)
