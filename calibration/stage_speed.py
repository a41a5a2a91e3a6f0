"""How much faster one form of a stage is than another on this CPU.

The two take turns on one thread, and seconds of the processor are compared, not of the clock: what else runs on the
machine then moves both alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import numpy as np
import onnx

from bsst.plan.manifest import StageSpec
from bsst.runtime.devices.base import Array
from bsst.runtime.devices.host import HostSession
from bsst.runtime.sessions.ort import OrtSession

__all__ = ["speedup"]

ROUNDS = 5


def speedup(spec: StageSpec, before: onnx.ModelProto, after: onnx.ModelProto) -> float:
    """Median over a few rounds of the time of `before` as a multiple of the time of `after`.

    Args:
        spec: inputs and outputs that both have.
        before: graph for ONNX Runtime.
        after: another one.
    """
    rng = np.random.default_rng(0)
    inputs: dict[str, Array] = {}
    for tensor in spec.inputs:
        drawn = rng.standard_normal(tensor.shape) if tensor.dtype.startswith("float") else np.zeros(tensor.shape)
        inputs[tensor.name] = drawn.astype(tensor.dtype)
    outputs: dict[str, Array] = {tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in spec.outputs}
    sessions = [OrtSession(spec.name, model.SerializeToString(), threads=1) for model in (before, after)]
    rounds = [[_seconds(session, inputs, outputs) for session in sessions] for _ in range(ROUNDS + 1)]
    return statistics.median(slow / fast for slow, fast in rounds[1:])


def _seconds(session: HostSession, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> float:
    started = time.process_time()
    session.run(inputs, outputs)
    return max(time.process_time() - started, 1e-9)
