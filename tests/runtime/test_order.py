"""No race in the pipeline: whole clips and videos through the real scheduler on the recording device."""

from __future__ import annotations

import contextlib
import random
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsst.errors import BsstError, ModelError, UsageError
from bsst.plan.manifest import Manifest
from bsst.runtime.devices.host import host_view
from bsst.runtime.estimate import plan_workload
from bsst.runtime.frames.windows import SourceFrame, TileDone, window_by_window
from bsst.runtime.network.network import Network, host_network
from bsst.runtime.restore import Tiling, deblur_frames, restored_windows
from tests.runtime.fake_stages import FakeStage, fake_manifest, fake_stages, restore_alone
from tests.runtime.recording import RecordingDevice, Violation
from tests.threads import left_threads

BRANCHES = st.sampled_from([("forward_1",), ("backward_1", "forward_1"), ("backward_1", "forward_1", "backward_2")])


def network_on(
    device: RecordingDevice,
    manifest: Manifest,
    in_flight: int,
    stages: dict[str, FakeStage] | None = None,
    lanes: int = 1,
) -> Network:
    stages = stages or fake_stages(manifest)
    return Network(manifest, device, stages, in_flight=in_flight, lanes=lanes)


class Alone:
    """A restorer without device, streams or shared memory: what the pipeline must agree with."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest, self.in_flight, self.on_gpu = manifest, 1, False
        self.frames, self.tile, self.flow_size = manifest.frames, manifest.tile, manifest.flow_size
        self.tile_overlap, self.window_overlap = manifest.tile_overlap, manifest.window_overlap
        self.stages = fake_stages(manifest)

    def features(self, frame):
        return self._run("flow_features", {"frame": frame[None]})

    def flow(self, a, b):
        inputs = {f"{name}_{x}": array for x, f in (("a", a), ("b", b)) for name, array in f.items()}
        outputs = self._run("flow", inputs)
        return outputs["backward"][0], outputs["forward"][0]

    def submit(self, clip, backward, forward):
        restored = restore_alone(self.manifest, np.stack(clip), backward, forward)
        return type("Finished", (), {"result": lambda self: restored})()

    def fallback(self):
        return None

    def cancel(self) -> None:
        pass

    def _run(self, stage, inputs):
        outputs = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in self.manifest.stage(stage).outputs}
        self.stages[stage].run(inputs, outputs)
        return outputs


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def video(count: int, height: int, width: int, cuts: tuple[int, ...] = ()) -> list[np.ndarray]:
    """Frames of one noise with a little noise of their own; another one, much darker or brighter, after each cut."""
    scenes = np.cumsum([index in cuts for index in range(count)]).tolist()
    return [
        (0.9 * noise(3, height, width, seed=100 + scene) + 0.1 * noise(3, height, width, seed=index))
        * np.float32(0.2 if scene % 2 else 1)
        for index, scene in enumerate(scenes)
    ]


def clip_of(manifest: Manifest, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    frames, (height, width) = manifest.frames, manifest.tile
    flow = (frames - 1, 2, height // 4, width // 4)
    return noise(frames, 3, height, width, seed=seed), noise(*flow, seed=seed + 1), noise(*flow, seed=seed + 2)


@given(
    frames=st.integers(2, 6),
    branches=BRANCHES,
    in_flight=st.integers(1, 3),
    orders=st.data(),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=40)
def test_calls_in_any_order_never_race_and_give_what_runs_alone_give(frames, branches, in_flight, orders, seed) -> None:
    manifest = fake_manifest(frames, branches)
    alone = Alone(manifest)
    device = RecordingDevice(seed)
    with network_on(device, manifest, in_flight) as network:
        under_way, features = [], []
        for step in range(orders.draw(st.integers(1, 12))):
            match orders.draw(st.sampled_from(["submit", "result", "features", "flow"])):
                case "submit" if len(under_way) < in_flight:
                    clip = clip_of(manifest, step)
                    under_way.append((network.submit(*clip), clip))
                case "result" if under_way:
                    restored, clip = under_way.pop(0)
                    np.testing.assert_array_equal(restored.result(), restore_alone(manifest, *clip))
                case "features":
                    frame = noise(3, *manifest.flow_size, seed=step)
                    features = [*features[-1:], (network.features(frame), alone.features(frame))]
                case "flow" if len(features) == 2:
                    (a, plain_a), (b, plain_b) = features
                    np.testing.assert_array_equal(network.flow(a, b), alone.flow(plain_a, plain_b))
    assert device.closed


@given(
    frames=st.integers(2, 5),
    branches=BRANCHES,
    count=st.integers(1, 12),
    size=st.tuples(st.integers(1, 21), st.integers(1, 29)),
    overlaps=st.tuples(st.integers(0, 1), st.sampled_from([0, 4])),
    cuts=st.sets(st.integers(1, 11), max_size=2),
    in_flight=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=40)
def test_videos_never_race_and_give_what_runs_alone_give(
    frames, branches, count, size, overlaps, cuts, in_flight, seed
) -> None:
    manifest = fake_manifest(frames, branches, window_overlap=overlaps[0], tile_overlap=overlaps[1])
    source = video(count, *size, cuts=tuple(cuts))
    expected = list(deblur_frames(source, Alone(manifest), guard=False))
    device = RecordingDevice(seed)
    work: list[float] = []
    with network_on(device, manifest, in_flight) as network:
        got = []
        for result in restored_windows(map(SourceFrame, source), network, Tiling(guard=False)):
            if isinstance(result, TileDone):
                work.append(result.frames)
            else:
                got.extend(result.frames)
        again = list(
            deblur_frames(source[: count // 2], network, guard=False)
        )  # by other threads, over the same memory
    np.testing.assert_array_equal(got, expected)
    assert len(again) == count // 2
    assert work == sorted(work)
    assert work[-1] == count
    assert left_threads() == []
    assert device.closed


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_forgetting_any_single_wait_is_noticed(in_flight: int) -> None:
    """The proof of the proof: every wait there is, of a stream or of the host, is needed and seen to be needed."""
    manifest = fake_manifest(3, ("backward_1", "forward_1"))
    source = video(7, 11, 14, cuts=(5,))  # two tiles, four windows, features of neighbours without a flow between them
    expected = list(deblur_frames(source, Alone(manifest), guard=False))

    def run(forget: int | None) -> int:
        device = RecordingDevice(forget or 0, forget=forget)
        with network_on(device, manifest, in_flight) as network:
            np.testing.assert_array_equal(list(deblur_frames(source, network, guard=False)), expected)
        return device.waits

    waits = run(None)
    assert waits > 40
    unnoticed = []
    for wait in range(waits):
        try:
            run(wait)
        except (Violation, AssertionError, ValueError, BsstError):
            continue
        unnoticed.append(wait)
    assert unnoticed == []


@given(
    stage=st.sampled_from(["encode", "refine", "propagate_forward_1", "attend", "restore", "flow", "flow_features"]),
    run=st.integers(0, 6),
    in_flight=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=25)
def test_a_failure_ends_everything_names_its_window_and_can_be_recovered_from(stage, run, in_flight, seed) -> None:
    manifest = fake_manifest(3, ("forward_1",))
    source = video(9, 9, 20)
    stages = fake_stages(manifest)
    stages[stage].fail_at, stages[stage].error = run, ModelError(f"stage {stage}: expected a result")
    device = RecordingDevice(seed)
    with network_on(device, manifest, in_flight, stages) as network:
        expected = list(deblur_frames(source, Alone(manifest), guard=False))
        got: list[np.ndarray] = []
        if run < _runs(manifest, stage, source):
            with pytest.raises(ModelError, match=f"stage {stage}: expected a result") as caught:
                got.extend(deblur_frames(source, network, guard=False))
            if not stage.startswith("flow"):
                assert str(caught.value).startswith("frames ")
            assert left_threads() == []
        np.testing.assert_array_equal(got, expected[: len(got)] if got else got)
        np.testing.assert_array_equal(list(deblur_frames(source, network, guard=False)), expected)


def _runs(manifest: Manifest, stage: str, source: list[np.ndarray]) -> int:
    alone = Alone(manifest)
    stages = fake_stages(manifest)
    with network_on(RecordingDevice(), manifest, 1, stages) as network:
        list(deblur_frames(source, network, guard=False))
    del alone
    return stages[stage].runs


@pytest.mark.parametrize("in_flight", [1, 2])
@pytest.mark.parametrize("taken", [0, 1, 4])
def test_a_caller_who_stops_leaves_nothing_under_way(taken: int, in_flight: int) -> None:
    manifest = fake_manifest(3, ("forward_1",))
    device = RecordingDevice(taken)
    with network_on(device, manifest, in_flight) as network:
        frames = deblur_frames(video(20, 9, 20), network, guard=False)
        for _ in range(taken):
            next(frames)
        frames.close()
        assert left_threads() == []
        assert not any(stream.queue for stream in device.streams)
        clip = clip_of(manifest, 1)
        np.testing.assert_array_equal(network.restore(*clip), restore_alone(manifest, *clip))


def test_more_results_than_in_flight_are_refused_and_each_is_taken_once() -> None:
    manifest = fake_manifest(2, ("forward_1",))
    with network_on(RecordingDevice(), manifest, 2) as network:
        first, second = (network.submit(*clip_of(manifest, seed)) for seed in (1, 2))
        with pytest.raises(UsageError, match="at most 2 clips in flight"):
            network.submit(*clip_of(manifest, 3))
        first.result()
        with pytest.raises(BsstError, match="taken or cancelled"):
            first.result()
        network.cancel()
        with pytest.raises(BsstError, match="cancelled"):
            second.result()


def test_nothing_is_allocated_after_the_first_window() -> None:
    manifest = fake_manifest(3, ("forward_1",))
    device = RecordingDevice()
    with network_on(device, manifest, 2) as network:
        list(deblur_frames(video(4, 9, 20), network, guard=False))
        before = (len(device.buffers), len(device._arrays))
        list(deblur_frames(video(30, 9, 20), network, guard=False))
        assert (len(device.buffers), len(device._arrays)) == before


def test_a_session_that_refuses_is_named_with_the_frames_and_comes_after_the_windows_before() -> None:
    class Refusing(FakeStage):
        calls = 0

        def enqueue(self, *arguments) -> None:
            self.calls += 1
            if self.calls == 3:
                raise ModelError("stage fuse: refused")
            super().enqueue(*arguments)

    manifest = fake_manifest(3, ("forward_1",))
    sessions = fake_stages(manifest)
    source, got = video(9, 9, 12), []
    expected = list(deblur_frames(source, Alone(manifest), guard=False))
    for in_flight in (1, 2):
        sessions["fuse"] = Refusing("fuse")
        with Network(manifest, RecordingDevice(), sessions, in_flight=in_flight) as network:
            got = []
            with pytest.raises(ModelError, match="^frames 2 to 3, tile 1 of 2: stage fuse: refused"):
                got.extend(deblur_frames(source, network, guard=False))
        np.testing.assert_array_equal(got, expected[:2])


def test_a_network_goes_on_after_a_clip_that_failed() -> None:
    manifest = fake_manifest(3, ("forward_1",))
    stages = fake_stages(manifest)
    stages["fuse"].fail_at = 0
    clip = clip_of(manifest, 1)
    with network_on(RecordingDevice(), manifest, 1, stages) as network:
        with pytest.raises(RuntimeError, match="fuse broke"):
            network.restore(*clip)
        np.testing.assert_array_equal(network.restore(*clip), restore_alone(manifest, *clip))


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_stopping_at_any_moment_leaves_no_thread_and_a_network_that_works(in_flight: int) -> None:
    """On the host device, in real time: stages sleep, and the caller stops or a stage fails at random moments."""
    manifest = fake_manifest(3, ("forward_1",))
    stages = fake_stages(manifest)
    for stage in stages.values():
        stage.seconds = 0.0005
    chance = random.Random(in_flight)
    source, clip = video(9, 9, 20), clip_of(manifest, 1)
    expected = list(deblur_frames(source, Alone(manifest), guard=False))
    with host_network(manifest, stages, in_flight=in_flight, at_once=None) as network:
        before = threading.active_count()
        for _ in range(12):
            if chance.random() < 0.5:
                broken = stages[chance.choice(sorted(stages))]
                broken.fail_at, broken.runs = chance.randrange(8), 0
            frames = deblur_frames(source, network, guard=False)
            with contextlib.suppress(RuntimeError):
                for _ in range(chance.randrange(10)):
                    next(frames, None)
                    time.sleep(chance.random() * 0.02)
            frames.close()
            assert threading.active_count() <= before + 4  # the streams of the device
            for stage in stages.values():
                stage.fail_at = None
            np.testing.assert_array_equal(network.restore(*clip), restore_alone(manifest, *clip))
        np.testing.assert_array_equal(list(deblur_frames(source, network, guard=False)), expected)
    assert left_threads() == []


@pytest.mark.parametrize(("in_flight", "lanes", "width"), [(2, 2, 30), (4, 2, 30), (5, 3, 30), (2, 2, 76)])
def test_clips_and_flows_in_several_lanes_never_race_and_equal_those_one_by_one(
    in_flight: int, lanes: int, width: int
) -> None:
    """The widest frames have tiles enough to be restored window by window."""
    manifest = fake_manifest(4, ("backward_1", "forward_1"), window_overlap=2)
    frames = video(9, 20, width)
    work = plan_workload(manifest, frames=9, height=20, width=width)
    assert window_by_window(tiles=work.tiles, in_flight=in_flight) == (width == 76)
    assert work.flow_tiles > lanes
    with network_on(RecordingDevice(), manifest, in_flight, lanes=lanes) as network:
        restored = list(deblur_frames(frames, network, guard=False))
    np.testing.assert_array_equal(restored, list(deblur_frames(frames, Alone(manifest), guard=False)))


def test_two_lanes_run_flows_of_two_areas_at_the_same_time() -> None:
    manifest = fake_manifest(2, ("forward_1",))
    stages = fake_stages(manifest)
    meeting = threading.Barrier(2)
    genuine = stages["flow"].run

    def meet(inputs, outputs) -> None:  # passes only if both flows are here
        meeting.wait(timeout=10)
        genuine(inputs, outputs)

    stages["flow"].run = meet  # type: ignore[method-assign]
    with host_network(manifest, stages, in_flight=2, lanes=2, at_once=2) as network:
        a, b = (network.features(noise(3, *manifest.flow_size, seed=seed)) for seed in (1, 2))
        assert len(list(network.flows([(a, b)] * 4))) == 4


def test_the_host_fills_and_reads_clips_where_its_stages_do() -> None:
    with host_network(fake_manifest(2, ("forward_1",)), fake_stages(fake_manifest(2, ("forward_1",)))) as network:
        slot = network._slots[0]
        for transfer in (slot.inputs, slot.outputs):
            for name, array in transfer.arrays.items():
                assert np.shares_memory(array, host_view(transfer.tensors[name]))


def test_two_lanes_run_two_clips_at_the_same_time() -> None:
    manifest = fake_manifest(4, ("forward_1",))
    stages = fake_stages(manifest)
    meeting = threading.Barrier(2)
    genuine = stages["refine"].run

    def meet(inputs, outputs) -> None:  # once a clip: passes only if both clips are here
        meeting.wait(timeout=10)
        genuine(inputs, outputs)

    stages["refine"].run = meet  # type: ignore[method-assign]
    clip, flow = noise(4, 3, *manifest.tile), np.zeros((3, 2, manifest.tile[0] // 4, manifest.tile[1] // 4), np.float32)
    with host_network(manifest, stages, in_flight=2, lanes=2, at_once=2) as network:
        for restored in [network.submit(clip, flow, flow) for _ in range(2)]:
            restored.result()
