"""The float32 fallback restores what is not finite, where the plan carries it, and nothing else changes."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from bsst import cli
from bsst.calibration.precision.to_half import to_half
from bsst.engines.inspect_plan import extract_plan, plan_table
from bsst.errors import ModelError
from bsst.plan.archive import Plan, open_plan, write_plan
from bsst.plan.manifest import Manifest, StageSpec, TensorSpec
from bsst.runtime.devices.base import Array
from bsst.runtime.frames.windows import RestoredWindow, SourceFrame
from bsst.runtime.network import network as network_module
from bsst.runtime.network.network import Network, host_network, load_network
from bsst.runtime.restore import deblur_frames, restored_windows
from tests.media import Clip, decode
from tests.networks import city
from tests.runtime.fake_stages import FakeStage, fake_manifest, fake_stages
from tests.runtime.recording import RecordingDevice
from tests.runtime.simulated_gpu import gpu_plan, simulated_gpu
from tests.runtime.test_order import Alone, clip_of, video
from tests.threads import left_threads

SCALE = 2.0**20
"""Exact in float32, and beyond float16 for whatever is larger than a sixteenth."""


class Spoiled(FakeStage):
    """Puts one NaN into its first output at chosen runs, counted from 0."""

    def __init__(self, name: str, runs: set[int]) -> None:
        super().__init__(name)
        self.spoiled = runs

    def run(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        run = self.runs
        super().run(inputs, outputs)
        if run in self.spoiled:
            outputs[min(outputs)].reshape(-1)[0] = np.nan


def network_on(device: Any, manifest: Manifest, stages: dict[str, FakeStage], **options: Any) -> Network:
    return Network(manifest, device, stages, **options)


@given(
    restore=st.sets(st.integers(0, 60), max_size=4),
    flow=st.sets(st.integers(0, 30), max_size=2),
    count=st.integers(1, 10),
    size=st.tuples(st.integers(1, 21), st.integers(1, 29)),
    cuts=st.sets(st.integers(1, 9), max_size=1),
    in_flight=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=20)
def test_videos_with_retries_never_race_and_give_what_float32_gives(
    restore, flow, count, size, cuts, in_flight, seed
) -> None:
    manifest = fake_manifest(3, ("backward_1", "forward_1"))
    source = video(count, *size, cuts=tuple(cuts))
    stages = fake_stages(manifest) | {"restore": Spoiled("restore", restore), "flow": Spoiled("flow", flow)}
    devices = RecordingDevice(seed), RecordingDevice(seed + 1)
    opened: list[Network] = []

    def float32() -> Network:
        opened.append(network_on(devices[1], manifest, fake_stages(manifest)))
        return opened[-1]

    with network_on(devices[0], manifest, stages, in_flight=in_flight, fallback=float32) as network:
        got, fallen_back, repaired = collected(source, network)
    assert not repaired
    np.testing.assert_array_equal(got, list(deblur_frames(source, Alone(manifest))))
    assert len(opened) <= 1
    assert bool(opened) == bool(fallen_back)
    frames = [index for window in fallen_back for index in window]
    assert frames == sorted(set(frames))
    assert set(frames) <= set(range(count))
    assert devices[0].closed
    assert devices[1].closed == bool(opened)
    assert left_threads() == []


def collected(source: Iterable[np.ndarray], network: Network) -> tuple[list[np.ndarray], list[range], list[int]]:
    """Restored frames, the frames of each window that the fallback restored, and those that are the source's."""
    frames: list[np.ndarray] = []
    fallen_back: list[range] = []
    repaired: list[int] = []
    for result in restored_windows(map(SourceFrame, source), network):
        if isinstance(result, RestoredWindow):
            frames += result.frames
            repaired += result.repaired
            if result.fallback:
                fallen_back.append(range(result.first, len(frames)))
    return frames, fallen_back, repaired


def run_fakes(
    spoiled: FakeStage, exact: dict[str, FakeStage] | None, *, in_flight: int = 2
) -> tuple[list[np.ndarray], list[range], list[int]]:
    """Nine frames, four windows of two tiles -> restored frames, windows run again, frames that fell back."""
    manifest = fake_manifest(3, ("forward_1",))
    stages = fake_stages(manifest) | {spoiled.name: spoiled}
    float32 = None if exact is None else lambda: host_network(manifest, exact)
    with network_on(RecordingDevice(), manifest, stages, in_flight=in_flight, fallback=float32) as network:
        return collected(video(9, 8, 20), network)


MANIFEST = fake_manifest(3, ("forward_1",))


@pytest.mark.parametrize("in_flight", [1, 2])
def test_the_window_of_a_bad_tile_is_named_and_only_that_tile_is_restored_again(in_flight: int) -> None:
    exact = fake_stages(MANIFEST)
    # Frame 1 in the second tile of the first window, and frame 4 in the next one, which is kept from the one after.
    _, fallen_back, repaired = run_fakes(Spoiled("restore", {4, 8}), exact, in_flight=in_flight)
    assert (fallen_back, repaired) == ([range(0, 2)], [])
    assert exact["restore"].runs == 3
    assert exact["flow"].runs == exact["flow_features"].runs == 0


def test_flow_that_is_not_finite_is_estimated_again_between_those_frames_alone() -> None:
    exact = fake_stages(MANIFEST)
    _, fallen_back, repaired = run_fakes(Spoiled("flow", {3}), exact)
    assert fallen_back
    assert not repaired
    assert exact["restore"].runs == 0
    assert exact["flow_features"].runs == 2 * exact["flow"].runs > 0


def test_without_float32_a_bad_frame_is_the_sources() -> None:
    got, fallen_back, repaired = run_fakes(Spoiled("restore", {4}), None)
    assert (fallen_back, repaired) == ([], [1])
    np.testing.assert_array_equal(got[1], video(9, 8, 20)[1])


def test_what_float32_cannot_restore_either_is_the_sources() -> None:
    exact = fake_stages(MANIFEST) | {"restore": Spoiled("restore", {1})}
    got, fallen_back, repaired = run_fakes(Spoiled("restore", {4}), exact)
    assert (fallen_back, repaired) == ([range(0, 2)], [1])
    np.testing.assert_array_equal(got[1], video(9, 8, 20)[1])


@pytest.mark.parametrize(
    ("spoiled", "broken", "message"),
    [
        ("restore", "fuse", "^frames 0 to 1, tile 2 of 2, by the float32 fallback: stage fuse: no"),
        ("flow", "flow", "^frames 0 to 1, flow by the float32 fallback: stage flow: no"),
    ],
)
def test_a_retry_that_fails_is_named_and_can_be_recovered_from(spoiled: str, broken: str, message: str) -> None:
    exact = fake_stages(MANIFEST)
    exact[broken].fail_at, exact[broken].error = 0, ModelError(f"stage {broken}: no")
    stages = fake_stages(MANIFEST) | {spoiled: Spoiled(spoiled, {4 if spoiled == "restore" else 0})}
    source = video(9, 8, 20)
    device = RecordingDevice()
    with network_on(device, MANIFEST, stages, in_flight=2, fallback=lambda: host_network(MANIFEST, exact)) as network:
        with pytest.raises(ModelError, match=message):
            list(deblur_frames(source, network))
        stages[spoiled].runs = 0
        np.testing.assert_array_equal(
            list(deblur_frames(source, network)), list(deblur_frames(source, Alone(MANIFEST)))
        )
    assert left_threads() == []


def test_a_float32_network_that_cannot_be_opened_is_named() -> None:
    def refuse() -> Network:
        raise ModelError("stage encode: refused")

    stages = fake_stages(MANIFEST) | {"restore": Spoiled("restore", {0})}
    with (
        network_on(RecordingDevice(), MANIFEST, stages, in_flight=2, fallback=refuse) as network,
        pytest.raises(ModelError, match="^frames 0 to 1, tile 1 of 2, by the float32 fallback: stage encode: refused"),
    ):
        list(deblur_frames(video(9, 8, 20), network))


def test_a_caller_who_stops_during_a_retry_ends_it() -> None:
    exact = fake_stages(MANIFEST)
    for stage in exact.values():
        stage.seconds = 0.05
    stages = fake_stages(MANIFEST) | {"restore": Spoiled("restore", set(range(6, 1000)))}
    opened: list[Network] = []

    def float32() -> Network:
        opened.append(host_network(MANIFEST, exact))
        return opened[-1]

    with host_network(MANIFEST, stages, in_flight=2) as network:
        network._open_fallback = float32
        frames = deblur_frames(video(40, 8, 20), network)
        next(frames)  # the fallback restores the window after it
        while not exact["encode"].runs:
            time.sleep(0.005)
        frames.close()
        runs = sum(stage.runs for stage in exact.values())
        time.sleep(0.15)
        assert sum(stage.runs for stage in exact.values()) == runs
        clip = clip_of(MANIFEST, 1)
        np.testing.assert_array_equal(
            opened[0].restore(*clip), host_network(MANIFEST, fake_stages(MANIFEST)).restore(*clip)
        )
    assert len(opened) == 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bsst ")]


@dataclasses.dataclass(frozen=True)
class Overflowing:
    """One network three times."""

    exact: Path
    """In float32: right."""
    bare: Path
    """With features in float16 between `encode` and `restore`, where they overflow."""
    kept: Path
    """The same with its float32 stages."""


@pytest.fixture(scope="module")
def plans(cpu_plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Overflowing:
    """The features that skip to the end are scaled up by `encode` and down by `restore`."""
    folder = tmp_path_factory.mktemp("overflow")
    plan = open_plan(cpu_plan)
    models = {stage.name: onnx.load_from_string(plan.member(stage.name)) for stage in plan.manifest.stages}
    _scale(models["encode"].graph, SCALE, output=True)
    _scale(models["restore"].graph, 1 / SCALE, output=False)
    found = Overflowing(*(folder / name for name in ("exact.plan", "bare.plan", "kept.plan")))
    members = {f"{name}.onnx": model.SerializeToString() for name, model in models.items()}
    manifest = write_plan(found.exact, plan.manifest, members)
    half = {name: to_half(models[name], "float16", half_tensors={"full"}).SerializeToString() for name in HALF}
    stages = tuple(map(_with_half, manifest.stages))
    manifest = dataclasses.replace(manifest, precision="fp16", stages=stages)
    engines = members | {f"{name}.onnx": data for name, data in half.items()}
    write_plan(found.bare, manifest, engines)
    float32 = tuple(
        dataclasses.replace(s, member=f"{s.name}_float32.onnx") for s in open_plan(found.exact).manifest.stages
    )
    kept = {s.member: members[f"{s.name}.onnx"] for s in float32}
    write_plan(found.kept, dataclasses.replace(manifest, float32=float32), engines | kept)
    return found


HALF = ("encode", "restore")


def _scale(graph: onnx.GraphProto, factor: float, *, output: bool) -> None:
    """Put a product in front of the output `full`, or behind the input."""
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == "full":
                    names[index] = "full_unscaled"
    ends = ["full_unscaled", "full"] if output else ["full", "full_unscaled"]
    product = helper.make_node("Mul", [ends[0], "full_factor"], [ends[1]])
    graph.node.insert(len(graph.node) if output else 0, product)
    graph.initializer.append(numpy_helper.from_array(np.float32(factor), "full_factor"))


def _with_half(stage: StageSpec) -> StageSpec:
    def half(spec: TensorSpec) -> TensorSpec:
        return dataclasses.replace(spec, dtype="float16") if spec.name == "full" and stage.name in HALF else spec

    return dataclasses.replace(stage, inputs=tuple(map(half, stage.inputs)), outputs=tuple(map(half, stage.outputs)))


def restored(path: Path, **options: Any) -> tuple[np.ndarray, list[range], list[int]]:
    with load_network(path, threads=1, **options) as network:
        frames, fallen_back, repaired = collected(city(5, 60, 101), network)
        return np.stack(frames), fallen_back, repaired


@pytest.fixture(scope="module")
def expected(plans: Overflowing) -> np.ndarray:
    return restored(plans.exact)[0]


def test_a_plan_that_overflows_in_float16_gives_the_float32_result(
    plans: Overflowing, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    genuine = network_module.open_backend

    def counting(plan: Plan, **options: Any) -> Any:
        opened.append(plan.manifest.precision)
        return genuine(plan, **options)

    monkeypatch.setattr(network_module, "open_backend", counting)
    source = city(5, 60, 101)
    bare, fallen_back, repaired = restored(plans.bare)
    assert (fallen_back, repaired, opened) == ([], list(range(5)), ["fp16"])
    np.testing.assert_array_equal(bare, source)
    got, fallen_back, repaired = restored(plans.kept)
    assert [index for window in fallen_back for index in window] == list(range(5))
    assert (repaired, opened) == ([], ["fp16", "fp16", "fp32"])  # the last once for two windows
    np.testing.assert_array_equal(got, expected)
    assert not np.array_equal(got, source)
    load_network(plans.kept, threads=1).close()
    assert opened == ["fp16", "fp16", "fp32", "fp16"]


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_flow_features_that_are_not_finite_are_estimated_again(
    plans: Overflowing, expected: np.ndarray, tmp_path: Path, value: float
) -> None:
    plan = open_plan(plans.exact)
    members = {stage.member: plan.member(stage.name) for stage in plan.manifest.stages}
    float32 = tuple(dataclasses.replace(s, member=f"{s.name}_float32.onnx") for s in plan.manifest.stages)
    members |= {f"{stage.name}_float32.onnx": plan.member(stage.name) for stage in plan.manifest.stages}
    model = onnx.load_from_string(members["flow_features.onnx"])
    weights = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    with np.errstate(invalid="ignore"):  # of a weight that is zero
        spoiled = numpy_helper.to_array(weights) * np.float32(value)
    weights.CopyFrom(numpy_helper.from_array(spoiled, weights.name))
    members["flow_features.onnx"] = model.SerializeToString()
    write_plan(tmp_path / "broken.plan", dataclasses.replace(plan.manifest, float32=float32), members)
    got, retried, repaired = restored(tmp_path / "broken.plan")
    assert (repaired, [index for window in retried for index in window]) == ([], list(range(5)))
    np.testing.assert_array_equal(got, expected)


def test_a_tensorrt_plan_is_helped_by_the_cpu(plans: Overflowing, expected: np.ndarray, tmp_path: Path) -> None:
    with simulated_gpu():
        plan = gpu_plan(plans.kept, "tensorrt", tmp_path)
        assert [stage.member for stage in plan.manifest.float32][:1] == ["flow_features_float32.onnx"]
        got, fallen_back, repaired = restored(plan.path)
    assert [index for window in fallen_back for index in window] == list(range(5))
    assert repaired == []
    np.testing.assert_array_equal(got, expected)


def test_the_command_line_warns_counts_and_succeeds(plans: Overflowing, tmp_path: Path) -> None:
    clip = Clip(size=(60, 90), times=tuple(range(0, 5 * 512, 512))).write(tmp_path / "clip")
    out = tmp_path / "out.mp4"
    done = CliRunner().invoke(cli.run, [str(plans.kept), str(clip), "-o", str(out), "--threads", "1", "--no-guard"])
    assert done.exit_code == 0, done.output
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert warnings == [
        "warning: windows among frames 0 to 4 were restored by the float32 fallback, as they were not finite; "
        "so is every other like them"
    ]
    assert done.stderr.rstrip().endswith(" fps, 5 of them by the float32 fallback")
    assert len(decode(out).seconds) == 5


def test_inspect_shows_and_unpacks_them(plans: Overflowing, tmp_path: Path) -> None:
    plan = open_plan(plans.kept)
    text = plan_table(plan)
    assert "float32         " in text
    assert "of stages kept for results that are not finite" in text
    assert [line.split("  ")[0] for line in text.splitlines() if ", float32 " in line] == [
        f"{stage.name}, float32" for stage in plan.manifest.stages
    ]
    names = {path.name for path in extract_plan(plan, tmp_path / "out")}
    assert names == {*(s.member for s in plan.manifest.members), "manifest.json"}
    assert (tmp_path / "out" / "attend_float32.onnx").read_bytes() == open_plan(plans.exact).member("attend")
    assert "not finite" not in plan_table(open_plan(plans.bare))
