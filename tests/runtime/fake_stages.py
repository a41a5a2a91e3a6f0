"""A network of any size without weights: each output of a stage depends on every byte of its inputs, exactly."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping

import numpy as np

from bsst.plan.manifest import Compiler, Manifest, StageSpec, TensorSpec
from bsst.runtime.devices.base import Array
from bsst.runtime.devices.host import HostSession
from bsst.runtime.network.network import Frame
from bsst.runtime.network.wiring import calls_of, clip_calls, clip_tensors

__all__ = ["FakeStage", "fake_manifest", "fake_stages", "restore_alone"]


def fake_manifest(
    frames: int,
    branches: tuple[str, ...],
    *,
    tile: tuple[int, int] = (8, 12),
    flow_size: tuple[int, int] = (12, 8),
    tile_overlap: int = 4,
    window_overlap: int = 1,
) -> Manifest:
    """A manifest whose stages fit the wiring; channels are few and odd."""
    height, width = tile
    quarter, half = (height // 4, width // 4), (height // 2, width // 2)
    flow = (flow_size[0] // 4, flow_size[1] // 4)
    widths = {"quarter": 3, **{branch: 3 for branch in branches}}
    shapes: dict[str, tuple[int, ...]] = {
        "frames": (frames, 3, height, width),
        "full": (frames, 2, height, width),
        "half": (frames, 5, *half),
        "backward": (frames - 1, 2, *quarter),
        "forward": (frames - 1, 2, *quarter),
        "motion_backward": (frames, 4, *quarter),
        "motion_forward": (frames, 4, *quarter),
        "query_frames": (1, 7),
        "key_frames": (1, 7),
        "active": (1, 5),
        "zero_state": (1, 3, *quarter),
        "reconstruction": (frames, 3, *quarter),
        "attended": (frames, 3, *quarter),
        "decoded": (frames, 5, *half),
        "sharp": (frames, 3, height, width),
        **{name: (frames, channels, *quarter) for name, channels in widths.items()},
    }
    integers = ("query_frames", "key_frames", "active")
    stages: dict[str, StageSpec] = {}
    for call in calls_of(branches, frames):
        tensors = [
            tuple(
                TensorSpec(
                    name=name,
                    dtype="int32" if view.tensor in integers else "float32",
                    shape=shapes[view.tensor] if view.frame is None else (1, *shapes[view.tensor][1:]),
                )
                for name, view in views.items()
            )
            for views in (call.inputs, call.outputs)
        ]
        stages.setdefault(call.stage, _stage(call.stage, *tensors))
    features = {"matching": (1, 3, 2, 2), "hidden": (1, 5)}
    stages["flow_features"] = _stage("flow_features", _floats({"frame": (1, 3, *flow_size)}), _floats(features))
    stages["flow"] = _stage(
        "flow",
        _floats({f"{name}_{x}": shape for x in "ab" for name, shape in features.items()}),
        _floats({"backward": (1, 2, *flow), "forward": (1, 2, *flow)}),
    )
    return Manifest(
        bsst_version="0",
        label="fake",
        target="cpu",
        config={"branches": list(branches)},
        weights_sha256="0" * 64,
        frames=frames,
        tile=tile,
        flow_size=flow_size,
        tile_overlap=tile_overlap,
        window_overlap=window_overlap,
        precision="fp32",
        compiler=Compiler(name="onnxruntime", version="0"),
        compute_capabilities=(),
        plugins=(),
        stages=tuple(stages.values()),
        parity={},
    )


class FakeStage(HostSession):
    """Fills its outputs from a checksum of its inputs.

    Args:
        name: stage name.
        seconds: how long a run sleeps, without the interpreter lock.
    """

    def __init__(self, name: str, seconds: float = 0) -> None:
        self.name, self.seconds = name, seconds
        self.runs = 0
        self.fail_at: int | None = None
        """The run that fails, counted from 0."""
        self.error: BaseException = RuntimeError(f"{name} broke")

    def run(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        run, self.runs = self.runs, self.runs + 1
        if run == self.fail_at:
            raise self.error
        if self.seconds:
            time.sleep(self.seconds)
        for index, name in enumerate(sorted(outputs)):
            digest = zlib.crc32(f"{self.name}.{index}".encode())
            for key in sorted(inputs):
                assert np.isfinite(inputs[key]).all(), f"{self.name}: {key} is not finite"
                digest = zlib.crc32(np.ascontiguousarray(inputs[key]).view(np.uint8).data, digest)
            values = (np.arange(outputs[name].size) * 40503 + digest) % 1009
            outputs[name][...] = (values / 1009 if outputs[name].dtype.kind == "f" else values).reshape(
                outputs[name].shape
            )


def fake_stages(manifest: Manifest) -> dict[str, FakeStage]:
    """One per stage of the manifest."""
    return {stage.name: FakeStage(stage.name) for stage in manifest.stages}


def restore_alone(manifest: Manifest, clip: Frame, backward: Frame, forward: Frame) -> Frame:
    """The wiring with an array of its own for every tensor, in plain order."""
    stages = fake_stages(manifest)
    arrays = {name: np.zeros(spec.shape, spec.dtype) for name, spec in clip_tensors(manifest).items()}
    arrays |= {"frames": clip, "backward": backward, "forward": forward}

    def view(name: str, frame: int | None) -> Array:
        return arrays[name] if frame is None else arrays[name][frame : frame + 1]

    for call in clip_calls(manifest):
        stages[call.stage].run(
            {key: view(v.tensor, v.frame) for key, v in call.inputs.items()},
            {key: view(v.tensor, v.frame) for key, v in call.outputs.items()},
        )
    return arrays["sharp"]


def _floats(shapes: Mapping[str, tuple[int, ...]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in shapes.items())


def _stage(name: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> StageSpec:
    return StageSpec(name=name, member=f"{name}.onnx", inputs=inputs, outputs=outputs, precision={}, build={})
