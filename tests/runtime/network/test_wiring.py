"""The wiring of stages, run on PyTorch modules, is the reference network."""

import numpy as np
import pytest
import torch

from bsst.errors import PlanError
from bsst.export.session_torch import TorchSession
from bsst.export.stage import Geometry
from bsst.export.stages import pipeline_stages
from bsst.plan.manifest import Compiler, Manifest, StageSpec, TensorSpec
from bsst.runtime.network.network import Network, host_network
from bsst.runtime.network.wiring import View, calls_of, clip_tensors
from tests.networks import city, seeded


def torch_network(name: str, geometry: Geometry) -> Network:
    """A network over PyTorch sessions; its manifest is read off the modules."""
    networks = seeded(name)
    stages = pipeline_stages(networks.network, networks.raft, geometry)
    specs = []
    for stage in stages:
        with torch.no_grad():
            result = stage.module(*(torch.zeros(shape, dtype=dtype) for shape, dtype in stage.inputs.values()))
        tensors = result if isinstance(result, tuple) else (result,)
        specs.append(
            StageSpec(
                name=stage.name,
                member=f"{stage.name}.onnx",
                inputs=tuple(_spec(key, shape, dtype) for key, (shape, dtype) in stage.inputs.items()),
                outputs=tuple(_spec(k, t.shape, t.dtype) for k, t in zip(stage.outputs, tensors, strict=True)),
                precision={},
                build={},
            )
        )
    manifest = Manifest(
        bsst_version="0",
        label="seeded",
        target="cpu",
        config=networks.network.config.to_json(),
        weights_sha256="0" * 64,
        frames=geometry.frames,
        tile=geometry.tile,
        flow_size=geometry.flow_size,
        tile_overlap=16,
        window_overlap=0,
        precision="fp32",
        compiler=Compiler(name="onnxruntime", version="0"),
        compute_capabilities=(),
        plugins=(),
        stages=tuple(specs),
        parity={},
    )
    return host_network(manifest, {stage.name: TorchSession(stage) for stage in stages})


def _spec(name, shape, dtype) -> TensorSpec:
    return TensorSpec(name=name, dtype=str(dtype).removeprefix("torch."), shape=tuple(shape))


@pytest.mark.parametrize(
    ("name", "frames", "tile"),
    [
        ("edge", 5, (64, 128)),
        ("edge", 12, (128, 64)),
        pytest.param("release", 8, (64, 64), marks=pytest.mark.slow),
    ],
)
def test_wiring_over_modules_equals_the_reference(name, frames, tile) -> None:
    geometry = Geometry(frames=frames, tile=tile, flow_size=(256, 256))
    network = torch_network(name, geometry)
    clip = city(frames, *tile)
    generator = np.random.default_rng(frames)
    backward, forward = (
        generator.normal(0, 2, (frames - 1, 2, tile[0] // 4, tile[1] // 4)).astype(np.float32) for _ in range(2)
    )
    first = network.restore(clip, backward, forward)
    with torch.no_grad():
        expected = seeded(name).network(*(torch.from_numpy(x)[None] for x in (clip, backward, forward)))[0]
    np.testing.assert_allclose(first, expected.numpy(), atol=2e-5)
    if name == "release":
        return
    # Buffers are reused between clips: nothing of the first may leak into the second.
    network.restore(clip[::-1].copy(), -backward, -forward)
    np.testing.assert_array_equal(network.restore(clip, backward, forward), first)


def test_flow_of_the_wiring_equals_the_reference() -> None:
    from bsst.reference.raft import quarter_flow

    geometry = Geometry(frames=4, tile=(64, 64), flow_size=(144, 160))
    network = torch_network("edge", geometry)
    clip = city(3, 144, 160)
    features = [network.features(frame) for frame in clip]
    with torch.no_grad():
        forward, backward = quarter_flow(seeded("edge").raft, torch.from_numpy(clip))
    for t in range(2):
        got_backward, got_forward = network.flow(features[t], features[t + 1])
        np.testing.assert_allclose(got_backward, backward[t], atol=1e-4)
        np.testing.assert_allclose(got_forward, forward[t], atol=1e-4)


@pytest.mark.parametrize("branches", [("forward_1",), ("backward_1", "forward_1", "backward_2", "forward_2")])
@pytest.mark.parametrize("frames", [4, 12])
def test_every_tensor_is_written_whole_before_it_is_read(branches, frames) -> None:
    written: dict[str, set[int | None]] = {name: {None} for name in ("frames", "backward", "forward", "zero_state")}
    for call in calls_of(branches, frames):
        for view in call.inputs.values():
            have = written[view.tensor]
            assert None in have or view.frame in have or (view.frame is None and have == set(range(frames))), call
        for view in call.outputs.values():
            assert view.frame not in written.setdefault(view.tensor, set()), "written twice"
            written[view.tensor].add(view.frame)
    assert written["sharp"] == set(range(frames))


def test_stages_run_once_per_frame_or_once_per_clip() -> None:
    counts: dict[str, int] = {}
    for call in calls_of(("backward_1", "forward_1"), 8):
        counts[call.stage] = counts.get(call.stage, 0) + 1
    per_frame = {"encode", "restore", "propagate_backward_1", "propagate_forward_1"}
    assert {stage for stage, count in counts.items() if count == 8} == per_frame
    assert {stage for stage, count in counts.items() if count == 1} == {"refine", "fuse", "attend", "decode"}


def test_backward_branches_visit_the_last_frame_first() -> None:
    calls = [call for call in calls_of(("backward_1",), 4) if call.stage == "propagate_backward_1"]
    assert [call.outputs["state"].frame for call in calls] == [3, 2, 1, 0]
    assert calls[2].inputs["state1"] == View("backward_1", 2)
    assert calls[2].inputs["state2"] == View("backward_1", 3)


def test_plan_of_another_wiring_is_refused() -> None:
    manifest = torch_network("edge", Geometry(frames=4, tile=(64, 64), flow_size=(128, 128))).manifest
    import dataclasses

    stages = tuple(s for s in manifest.stages if s.name != "fuse")
    with pytest.raises(PlanError, match="expected a stage fuse"):
        clip_tensors(dataclasses.replace(manifest, stages=stages))
    renamed = tuple(
        dataclasses.replace(s, outputs=(dataclasses.replace(s.outputs[0], name="mix"),)) if s.name == "fuse" else s
        for s in manifest.stages
    )
    with pytest.raises(PlanError, match="stage fuse: expected tensors"):
        clip_tensors(dataclasses.replace(manifest, stages=renamed))
    other = tuple(
        dataclasses.replace(s, outputs=(dataclasses.replace(s.outputs[0], shape=(4, 36, 8, 8)),))
        if s.name == "attend"
        else s
        for s in manifest.stages
    )
    with pytest.raises(PlanError, match="attended"):
        clip_tensors(dataclasses.replace(manifest, stages=other))
