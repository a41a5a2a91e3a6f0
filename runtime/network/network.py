"""A plan, loaded: flow of frame pairs and restoration of clips, on any device.

The calls of a clip run on the stream `network`, one clip after another, over one workspace that is planned once
(`memory_plan.py`). On a CPU there may be several such lanes, each with a stream, a workspace and a share of the cores:
stages that are small or bound by memory gain little from a second thread, and two clips side by side gain all. Every
clip in flight has inputs and output of its own, so that the next clip is uploaded and the previous one downloaded
meanwhile; flow has a stream of its own as well:

    upload    in 0 | in 1 |         in 2 |         in 3 |          no wait: the clip before in that slot has left
    network          clip 0 ------ | clip 1 ------ | clip 2 ----   waits for its upload
    download                         out 0 |         out 1 |       waits for its clip
    flow      features | features | flow | features | flow | ...   ordered with the rest by the caller, through arrays

Where frames have several areas of flow, their flows take turns on as many such streams as there are lanes.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bsst.errors import BsstError, UsageError
from bsst.plan.archive import Plan, open_plan
from bsst.plan.manifest import Manifest
from bsst.runtime.devices.base import Array, Buffer, Device, DeviceTensor, Event, Session, Stream
from bsst.runtime.devices.host import HostDevice
from bsst.runtime.frames.fit import fitting_plan
from bsst.runtime.network.memory_plan import OUTPUT, ZEROS, ClipMemory, plan_clip
from bsst.runtime.network.slots import Slot, Transfer, tensors_in_one_buffer
from bsst.runtime.network.wiring import View
from bsst.runtime.sessions.backends import open_backend
from bsst.runtime.trace import Trace

__all__ = ["DEFAULT_PLAN", "FlowFeatures", "Network", "RestoredClip", "host_network", "load_network"]

DEFAULT_PLAN = Path(__file__).parents[1] / "data" / "edge.plan"
"""Plan of the `edge` configuration, part of the package."""

Frame = NDArray[np.float32]


class FlowFeatures:
    """What the flow network keeps of one frame, on the device; its place is used again when nobody holds it."""

    def __init__(self, tensors: Mapping[str, DeviceTensor], ready: Event | None) -> None:
        self.tensors = tensors
        self.ready = ready
        """When they are made, where other streams read them."""


@dataclass(frozen=True)
class _PendingFlow:
    """A flow under way."""

    done: Event
    arrays: Mapping[str, Array]
    features: tuple[FlowFeatures, FlowFeatures]
    """What it reads; nobody else gets their memory before it is done."""
    taken: Event | None
    """Of the frame that was uploaded last, on the same stream."""


class Network:
    """Stages of one plan wired together. Use as a context manager, or call `close`.

    One thread at a time may ask for flow, one thread at a time may restore, and the two may differ.

    Args:
        manifest: sizes and tensors of the stages.
        device: where the sessions run; closed with the network.
        sessions: one session per stage; closed with the network.
        in_flight: clips that may be under way at once, at least 1.
        lanes: clips that may run side by side, at most `in_flight`; the sessions must bear it.
        fallback: opens the same network in float32; closed with the network.
        line: what runs the plan, for messages.

    Raises:
        OutOfMemoryError: the device has too little memory.
        PlanError: the stages do not fit the network of the manifest.
    """

    def __init__(
        self,
        manifest: Manifest,
        device: Device,
        sessions: Mapping[str, Session],
        *,
        in_flight: int = 1,
        lanes: int = 1,
        fallback: Callable[[], Network] | None = None,
        line: str = "",
    ) -> None:
        self.manifest, self.line, self.plan_key = manifest, line, manifest.content_key
        self.on_gpu = device.on_gpu
        self.frames = manifest.frames
        self.tile = manifest.tile
        self.flow_size = manifest.flow_size
        self.tile_overlap = manifest.tile_overlap
        self.window_overlap = manifest.window_overlap
        self.in_flight = in_flight
        self._device, self._sessions, self._process = device, sessions, os.getpid()
        self._open_fallback = fallback
        self._fallback: Network | None = None
        self._upload, self._download, self._flow = (device.stream(name) for name in ("upload", "download", "flow"))
        self.lanes = min(lanes, in_flight)
        memory = plan_clip(manifest)
        streams = [device.stream("network" if lane == 0 else f"network {lane + 1}") for lane in range(self.lanes)]
        workspaces = [device.allocate(memory.workspace_bytes) for _ in streams]
        for stream, workspace in zip(streams, workspaces, strict=True):
            _fill_zeros(device, stream, memory, workspace)
        places = [(streams[index % self.lanes], workspaces[index % self.lanes]) for index in range(in_flight)]
        self._slots = [Slot(manifest, memory, device, workspace, stream) for stream, workspace in places]
        self._free = deque(self._slots)
        self._flow_inputs = Transfer(device, manifest.stage("flow_features").inputs)
        flows = [self._flow, *(device.stream(f"flow {lane + 1}") for lane in range(1, self.lanes))]
        self._flow_lanes = [(stream, Transfer(device, manifest.stage("flow").outputs)) for stream in flows]
        self._frame_taken: Event | None = None
        self._free_features: deque[Mapping[str, DeviceTensor]] = deque()

    def features(self, frame: Frame) -> FlowFeatures:
        """Flow features of a frame (3, flow_h, flow_w) float32 RGB in [0, 1]; needed once per frame."""
        self.require_own_process()
        if self._frame_taken is not None:
            self._frame_taken.synchronize()
        self._flow_inputs.arrays["frame"][...] = frame
        self._flow_inputs.upload(self._flow)
        if self._flow_inputs.copied:
            self._frame_taken = self._flow.record()
        try:
            tensors = self._free_features.popleft()
        except IndexError:
            tensors = tensors_in_one_buffer(self._device, self.manifest.stage("flow_features").outputs)
        self._sessions["flow_features"].enqueue(self._flow_inputs.tensors, tensors, self._flow)
        if not self._flow_inputs.copied:
            self._frame_taken = self._flow.record()
        features = FlowFeatures(tensors, self._flow.record() if self.lanes > 1 else None)
        weakref.finalize(features, self._free_features.append, tensors).atexit = False
        return features

    def flow(self, a: FlowFeatures, b: FlowFeatures) -> tuple[Frame, Frame]:
        """Flows between two neighbouring frames a and b.

        Returns:
            Backward flow, on a and pointing to b, and forward flow, on b and pointing to a; each
            (2, flow_h / 4, flow_w / 4) float32, channel 0 = x, in pixels at 1/4 scale.
        """
        (pair,) = self.flows([(a, b)])
        return pair

    def flows(self, pairs: Iterable[tuple[FlowFeatures, FlowFeatures]]) -> Iterator[tuple[Frame, Frame]]:
        """`flow` of several pairs in order, as many side by side as there are lanes; to be iterated to the end."""
        self.require_own_process()
        waiting: deque[_PendingFlow] = deque()
        for count, (a, b) in enumerate(pairs):
            if len(waiting) == len(self._flow_lanes):
                yield self._flow_result(waiting.popleft())
            stream, outputs = self._flow_lanes[count % len(self._flow_lanes)]
            inputs = {
                f"{name}_{suffix}": tensor for suffix, f in (("a", a), ("b", b)) for name, tensor in f.tensors.items()
            }
            for features in (a, b):
                if stream is not self._flow and features.ready is not None:
                    stream.wait(features.ready)
            self._sessions["flow"].enqueue(inputs, outputs.tensors, stream)
            outputs.download(stream)
            taken = self._frame_taken if stream is self._flow else None
            waiting.append(_PendingFlow(stream.record(), outputs.arrays, (a, b), taken))
        while waiting:
            yield self._flow_result(waiting.popleft())

    def _flow_result(self, pending: _PendingFlow) -> tuple[Frame, Frame]:
        pending.done.synchronize()
        if pending.taken is self._frame_taken:
            self._frame_taken = None  # it came before
        arrays = pending.arrays
        return arrays["backward"][0].astype(np.float32), arrays["forward"][0].astype(np.float32)

    def submit(self, clip: Sequence[Frame] | Frame, backward: Frame, forward: Frame) -> RestoredClip:
        """Start to deblur one clip of one tile; see `restore`.

        Raises:
            UsageError: `in_flight` results are under way; take one first. Or the network was opened before a fork.
        """
        self.require_own_process()
        if not self._free:
            raise UsageError(f"expected at most {self.in_flight} clips in flight, got one more; take a result first")
        slot = self._free.popleft()
        restored = slot.owner = RestoredClip(self, slot)
        for t, frame in enumerate(clip):
            slot.inputs.arrays["frames"][t] = frame
        slot.inputs.arrays["backward"][...] = backward
        slot.inputs.arrays["forward"][...] = forward
        slot.inputs.upload(self._upload)
        slot.stream.wait(self._upload.record())
        for stage, inputs, outputs in slot.calls:
            self._sessions[stage].enqueue(inputs, outputs, slot.stream)
        self._download.wait(slot.stream.record())
        slot.outputs.download(self._download)
        restored.done = self._download.record()
        return restored

    def restore(self, clip: Sequence[Frame] | Frame, backward: Frame, forward: Frame) -> Frame:
        """Deblur one clip of one tile.

        Args:
            clip: (T, 3, h, w) float32 RGB in [0, 1].
            backward: flow of frame t to t + 1, (T-1, 2, h/4, w/4), pixels at 1/4 scale.
            forward: flow of frame t + 1 to t, same shape.

        Returns:
            (T, 3, h, w) float32, not clamped.
        """
        try:
            return self.submit(clip, backward, forward).result()
        except BaseException:
            self.cancel()
            raise

    def fallback(self) -> Network | None:
        """The same network in float32 on the CPU, loaded by the first call; None where the plan carries none.

        Raises:
            PlanError: the plan was replaced since it was opened.
            ModelError: ONNX Runtime refuses a stage.
            OutOfMemoryError: there is too little memory.
        """
        if self._fallback is None and self._open_fallback is not None:
            self._fallback = self._open_fallback()
        return self._fallback

    def cancel(self) -> None:
        """Give up everything under way and forget failures; results that were not taken fail. Any thread may call."""
        if self._process != os.getpid():  # the threads to wait for are not here
            return
        if self._fallback is not None:
            self._fallback.cancel()
        self._device.abort()
        for slot in self._slots:
            slot.owner = None
        self._free = deque(self._slots)
        self._frame_taken = None

    def close(self) -> None:
        """Give up everything under way and free sessions and device; a second call does nothing."""
        if self._process != os.getpid():
            return
        if self._fallback is not None:
            self._fallback.close()
        self._device.abort()
        for session in self._sessions.values():
            session.close()
        self._device.close()

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def require_own_process(self) -> None:
        """Threads and GPU contexts do not survive a fork: whoever waited for them would wait for ever."""
        if self._process != os.getpid():
            raise UsageError(
                f"expected a network opened by process {os.getpid()}, got one of process {self._process}, its parent; "
                f"open it after the fork, or start processes with multiprocessing.get_context('spawn')"
            )

    def take(self, slot: Slot) -> Frame:
        """Copy a finished result and free its slot."""
        result = slot.outputs.arrays[OUTPUT].astype(np.float32)
        slot.owner = None
        self._free.append(slot)
        return result


class RestoredClip:
    """A clip under way."""

    done: Event

    def __init__(self, network: Network, slot: Slot) -> None:
        self._network, self._slot = network, slot

    def result(self) -> Frame:
        """Wait for the restored clip, (T, 3, h, w) float32, not clamped; may be called once.

        Raises:
            BsstError: a stage failed, or the clip was cancelled.
        """
        self._network.require_own_process()
        self.done.synchronize()
        if self._slot.owner is not self:
            raise BsstError("expected a clip under way, got one that was taken or cancelled; submit it again")
        return self._network.take(self._slot)


def _fill_zeros(device: Device, stream: Stream, memory: ClipMemory, workspace: Buffer) -> None:
    spec = memory.tensors[ZEROS]
    zeros = device.host_array(spec.shape, spec.dtype)
    zeros[...] = 0
    stream.upload(zeros, DeviceTensor(workspace, spec.dtype, spec.shape, memory.offsets[View(ZEROS)]))
    stream.synchronize()


def host_network(
    manifest: Manifest,
    sessions: Mapping[str, Session],
    *,
    in_flight: int = 1,
    lanes: int = 1,
    at_once: int | None = 1,
    trace: Trace | None = None,
) -> Network:
    """Wire sessions of the host together.

    Args:
        manifest: sizes and tensors of the stages.
        sessions: one session per stage.
        in_flight: see `Network`.
        lanes: see `Network`.
        at_once: see `HostDevice`.
        trace: records what each stream does when.
    """
    device = HostDevice(at_once=at_once, trace=trace)
    return Network(manifest, device, sessions, in_flight=in_flight, lanes=lanes)


def load_network(
    plan: str | Path | Plan | None = None,
    *,
    size: tuple[int, int] | None = None,
    threads: int = 0,
    in_flight: int = 2,
    lanes: int | None = None,
    trace: Trace | None = None,
) -> Network:
    """Load a plan for this machine.

    Args:
        plan: plan file, or an opened plan, in one of its shapes of tiles; None for the packaged one.
        size: (height, width) of the frames, where they are known: of several shapes the plan is loaded in the one that
            computes the fewest pixels of them. By default in its first.
        threads: CPU threads of ONNX Runtime; 0 for all cores.
        in_flight: see `Network`; `deblur_frames` works on that many clips at once.
        lanes: clips that may run side by side on a CPU, each with its share of the threads; as many as in flight by
            default.
        trace: records what each stream does when.

    Raises:
        PlanError: the plan is damaged or made for another machine.
        ModelError: the runtime refuses an engine, or what the target needs is not here.
        OutOfMemoryError: the device has too little memory.
    """
    if not isinstance(plan, Plan):
        plan = open_plan(DEFAULT_PLAN if plan is None else Path(plan))
    if size is not None:
        plan = fitting_plan(plan, *size)
    stages = plan.fallback
    # It is rarely needed and waited for: one clip at a time.
    fallback = None if stages is None else lambda: _network_of(stages, threads=threads, in_flight=1)
    return _network_of(
        plan,
        threads=threads,
        in_flight=in_flight,
        lanes=in_flight if lanes is None else lanes,
        trace=trace,
        fallback=fallback,
    )


def _network_of(
    plan: Plan,
    *,
    threads: int,
    in_flight: int,
    lanes: int = 1,
    trace: Trace | None = None,
    fallback: Callable[[], Network] | None = None,
) -> Network:
    backend = open_backend(plan, threads=threads, lanes=min(lanes, in_flight), trace=trace)
    try:
        return Network(
            plan.manifest,
            backend.device,
            backend.sessions,
            in_flight=in_flight,
            lanes=backend.lanes,
            fallback=fallback,
            line=backend.line,
        )
    except BaseException:
        backend.close()
        raise
