"""A plan, loaded: flow of frame pairs and restoration of clips, over any kind of session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bsst.engines.manifest import Manifest, TensorSpec
from bsst.engines.plan import open_plan, require
from bsst.runtime.session import Array, Session
from bsst.runtime.wiring import Call, View, clip_calls, clip_tensors

__all__ = ["DEFAULT_PLAN", "FlowFeatures", "Network", "load_network"]

DEFAULT_PLAN = Path(__file__).parent / "data" / "edge.plan"
"""Plan of the `edge` configuration, part of the package."""

Frame = NDArray[np.float32]


@dataclass(frozen=True)
class FlowFeatures:
    """What the flow network keeps of one frame."""

    arrays: Mapping[str, Array]
    """Outputs of the stage `flow_features`."""


class Network:
    """Stages of one plan wired together.

    Args:
        manifest: sizes and tensors of the stages.
        sessions: one session per stage.
    """

    def __init__(self, manifest: Manifest, sessions: Mapping[str, Session]) -> None:
        self.manifest = manifest
        self.frames = manifest.frames
        self.tile = manifest.tile
        self.flow_size = manifest.flow_size
        self.tile_overlap = manifest.tile_overlap
        self.window_overlap = manifest.window_overlap
        self._sessions = sessions
        self._calls = clip_calls(tuple(manifest.config["branches"]), manifest.frames)
        self._tensors = {name: _allocate(spec) for name, spec in clip_tensors(manifest).items()}

    def features(self, frame: Frame) -> FlowFeatures:
        """Flow features of a frame (3, flow_h, flow_w) float32 RGB in [0, 1]; needed once per frame."""
        outputs = self._outputs("flow_features")
        self._sessions["flow_features"].run({"frame": np.ascontiguousarray(frame[None])}, outputs)
        return FlowFeatures(outputs)

    def flow(self, a: FlowFeatures, b: FlowFeatures) -> tuple[Frame, Frame]:
        """Flows between two neighbouring frames a and b.

        Returns:
            Backward flow, on a and pointing to b, and forward flow, on b and pointing to a; each
            (2, flow_h / 4, flow_w / 4) float32, channel 0 = x, in pixels at 1/4 scale.
        """
        inputs = {f"{name}_{suffix}": array for suffix, f in (("a", a), ("b", b)) for name, array in f.arrays.items()}
        outputs = self._outputs("flow")
        self._sessions["flow"].run(inputs, outputs)
        return outputs["backward"][0].astype(np.float32), outputs["forward"][0].astype(np.float32)

    def restore(self, clip: Frame, backward: Frame, forward: Frame) -> Frame:
        """Deblur one clip of one tile.

        Args:
            clip: (T, 3, h, w) float32 RGB in [0, 1].
            backward: flow of frame t to t + 1, (T-1, 2, h/4, w/4), pixels at 1/4 scale.
            forward: flow of frame t + 1 to t, same shape.

        Returns:
            (T, 3, h, w) float32, not clamped.
        """
        for name, value in (("frames", clip), ("backward", backward), ("forward", forward)):
            self._tensors[name][...] = value
        for call in self._calls:
            self._run(call)
        return self._tensors["sharp"].astype(np.float32)

    def _run(self, call: Call) -> None:
        self._sessions[call.stage].run(
            {name: self._view(view) for name, view in call.inputs.items()},
            {name: self._view(view) for name, view in call.outputs.items()},
        )

    def _view(self, view: View) -> Array:
        tensor = self._tensors[view.tensor]
        return tensor if view.frame is None else tensor[view.frame : view.frame + 1]

    def _outputs(self, stage: str) -> dict[str, Array]:
        return {spec.name: _allocate(spec) for spec in self.manifest.stage(stage).outputs}


def load_network(path: Path | None = None, *, threads: int = 0) -> Network:
    """Load a plan for this machine.

    Args:
        path: plan file; None for the packaged one.
        threads: CPU threads of ONNX Runtime; 0 for all cores.

    Raises:
        PlanError: the plan is damaged or made for another machine.
        ModelError: the runtime refuses an engine.
    """
    plan = open_plan(path or DEFAULT_PLAN)
    require(plan.manifest, targets=["cpu"])
    from bsst.runtime.session_ort import OrtSession

    make: Callable[[str], Session] = lambda name: OrtSession(name, plan.member(name), threads=threads)  # noqa: E731
    return Network(plan.manifest, {stage.name: make(stage.name) for stage in plan.manifest.stages})


def _allocate(spec: TensorSpec) -> Array:
    return np.zeros(spec.shape, spec.dtype)
