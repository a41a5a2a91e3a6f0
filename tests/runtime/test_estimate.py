"""What a job takes is told before it runs, and told right."""

from __future__ import annotations

import math
import re
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsst.errors import OutOfMemoryError, UsageError
from bsst.plan.archive import open_plan
from bsst.runtime.estimate import (
    CODEC_FRAMES,
    Measured,
    choose_in_flight,
    measure,
    need_bytes,
    plan_workload,
    require_memory,
)
from bsst.runtime.frames.windows import RestoredWindow, SourceFrame, sliding_windows, window_count
from bsst.runtime.jobs.opened import memory_warnings
from bsst.runtime.jobs.options import Execution
from bsst.runtime.network.device_memory import device_memory
from bsst.runtime.network.memory_plan import plan_clip
from bsst.runtime.network.network import DEFAULT_PLAN
from bsst.runtime.network.planned import Planned
from bsst.runtime.restore import Tiling, deblur_frames, restored_windows
from bsst.runtime.video.reader import VideoReader
from tests.media import Clip, Identity
from tests.runtime.fake_stages import fake_manifest
from tests.runtime.recording import RecordingDevice
from tests.runtime.test_order import network_on

EDGE = open_plan(DEFAULT_PLAN).manifest


@given(frames=st.integers(1, 60), length=st.integers(2, 12), overlap=st.integers(0, 11))
def test_windows_are_counted_as_they_are_made(frames: int, length: int, overlap: int) -> None:
    if overlap >= length:
        with pytest.raises(UsageError, match="window overlap"):
            window_count(frames, length=length, overlap=overlap)
        return
    pixels = np.zeros((3, 4, 4), np.float32)
    identity = Identity(flow_size=(4, 4))
    made = list(sliding_windows([SourceFrame(pixels)] * frames, identity, length=length, overlap=overlap))
    assert window_count(frames, length=length, overlap=overlap) == len(made)


@given(count=st.integers(1, 14), height=st.integers(1, 30), width=st.integers(1, 40))
def test_clips_and_flow_areas_are_counted_as_they_are_run(count: int, height: int, width: int) -> None:
    manifest = fake_manifest(4, ("forward_1",), window_overlap=2)
    work = plan_workload(manifest, frames=count, height=height, width=width)
    identity = Identity(frames=4, tile=manifest.tile, flow_size=manifest.flow_size, tile_overlap=4, in_flight=1)
    areas: list[int] = []
    genuine = identity.features
    identity.features = lambda frame: (areas.append(1), genuine(frame))[1]  # type: ignore[method-assign]
    assert len(list(deblur_frames([np.zeros((3, height, width), np.float32)] * count, identity))) == count
    assert work.windows is not None
    assert identity.clips == work.windows * work.tiles
    assert len(areas) == count * work.flow_tiles


@pytest.mark.parametrize(("in_flight", "lanes"), [(1, 1), (2, 1), (3, 2)])
def test_the_device_is_asked_for_what_was_planned(in_flight: int, lanes: int) -> None:
    manifest = fake_manifest(5, ("backward_1", "forward_1"))
    work = plan_workload(manifest, frames=9, height=20, width=30)
    device = RecordingDevice()
    with network_on(device, manifest, in_flight, lanes=lanes) as network:
        list(deblur_frames([np.zeros((3, 20, 30), np.float32)] * 9, network))
        copies = sum(
            array.nbytes for array in (reference() for reference in device._arrays.values()) if array is not None
        )
    need = need_bytes(manifest, work, in_flight=in_flight, lanes=lanes)
    assert sum(buffer.nbytes for buffer in device.buffers) == need.device
    assert need.copies * 0.5 < copies <= need.copies  # arrays of the host need no alignment


@pytest.mark.parametrize("slow", ["decoder", "network", "encoder"])
@pytest.mark.parametrize(("in_flight", "tiles"), [(1, 1), (2, 1), (3, 1), (2, 32)])
def test_no_more_source_frames_are_held_than_told(in_flight: int, tiles: int, slow: str) -> None:
    manifest = fake_manifest(6, ("forward_1",), tile=(16, 16), flow_size=(16, 16), window_overlap=2)
    width = 16 + 12 * (tiles - 1)
    work = plan_workload(manifest, frames=40, height=16, width=width)
    assert work.tiles == tiles
    identity = Identity(frames=6, tile=(16, 16), flow_size=(16, 16), tile_overlap=4, in_flight=in_flight)
    genuine = identity.restore
    identity.restore = lambda *clip: (time.sleep(0.004 / tiles * (slow == "network")), genuine(*clip))[1]  # type: ignore[method-assign]
    made: list[weakref.ref[np.ndarray]] = []

    def source() -> Iterator[SourceFrame]:  # as a job has them; `deblur_frames` copies those of its caller
        for index in range(40):
            time.sleep(0.001 * (slow == "decoder"))
            frame = np.full((3, 16, width), index / 40, np.float32)
            made.append(weakref.ref(frame))
            yield SourceFrame(frame)

    held = 0
    for window in restored_windows(source(), identity):
        frames = window.frames if isinstance(window, RestoredWindow) else ()
        for _ in frames:
            time.sleep(0.001 * (slow == "encoder"))
        held = max(held, sum(frame() is not None for frame in made))
    results = manifest.frames * (1 if in_flight == 1 or tiles > 1 else 2)
    told = need_bytes(manifest, work, in_flight=in_flight).frames // work.frame_bytes
    assert held + results <= told
    assert held + results >= 0.5 * told


def test_memory_picks_the_clips_in_flight_or_names_a_smaller_export() -> None:
    work = plan_workload(EDGE, frames=None, height=720, width=1280)
    assert (work.windows, work.tiles) == (None, 24)
    measured = Measured(
        features_seconds=1, flow_seconds=1, clip_seconds=1, peak_bytes=1_000_000_000, lanes=2, lane_bytes=300_000_000
    )
    rest = 1_000_000_000 + CODEC_FRAMES * work.frame_bytes
    one, two = (rest + need_bytes(EDGE, work, in_flight=n).frames for n in (1, 2))
    two += plan_clip(EDGE).transfer_bytes + 300_000_000
    for limit, expected in ((two, 2), (two - 1, 1), (one, 1)):
        chosen = choose_in_flight(EDGE, work, limit=limit, wanted=2, measured=measured)
        assert chosen == expected
    with pytest.raises(
        OutOfMemoryError, match=r"got 13\d\d MB with one clip in flight.*bsst export --window 10 --tile"
    ):
        choose_in_flight(EDGE, work, limit=one - 1, wanted=2, measured=measured)
    with pytest.raises(OutOfMemoryError, match="--window 4 --tile 64x64"):
        choose_in_flight(EDGE, work, limit=1, wanted=2, measured=measured)
    planned = need_bytes(EDGE, work, in_flight=1).device
    assert choose_in_flight(EDGE, work, limit=planned, wanted=2, measured=None) == 1
    assert planned > device_memory(EDGE).clip_bytes


def test_a_measurement_becomes_seconds() -> None:
    manifest = fake_manifest(4, ("forward_1",), window_overlap=2)
    work = plan_workload(manifest, frames=10, height=8, width=20)
    measured = Measured(features_seconds=1, flow_seconds=10, clip_seconds=1000, peak_bytes=0)
    assert (work.windows, work.tiles, work.flow_tiles) == (4, 2, 3)
    assert work.computed == 4 * 4 * 2 * math.prod(manifest.tile) / (10 * 8 * 20)
    assert measured.seconds(work) == 3 * (10 + 90) + 8000
    # Two lanes halve the clips, and the flow of several areas; of one area the flow of the first window has one lane.
    beside = Measured(features_seconds=1, flow_seconds=10, clip_seconds=1000, peak_bytes=0, lanes=2)
    assert beside.seconds(work) == (120 + 180) / 2 + 4000
    assert beside.seconds(replace(work, flow_tiles=1)) == 40 + 60 / 2 + 4000
    assert measured.seconds(plan_workload(manifest, frames=None, height=8, width=20)) is None
    with network_on(RecordingDevice(), manifest, 2, lanes=2) as network:
        real = measure(network)
    assert real.lanes == 2
    assert min(real.clip_seconds, real.flow_seconds, real.peak_bytes) > 0


def test_too_little_memory_is_said_before_the_start_with_the_option_that_fits() -> None:
    work = plan_workload(EDGE, frames=100, height=1080, width=1920)

    def said(free: float, most: float) -> str:
        return require_memory(
            EDGE, work, in_flight=2, lanes=2, on_gpu=False, free=int(free), most=int(most)
        )  # fmt: skip

    one, two = (sum((need.frames, need.device)) for need in (
        need_bytes(EDGE, work, in_flight=count, lanes=count) for count in (1, 2)))  # fmt: skip
    assert said(two, two) == ""
    assert said(two - 1, two).endswith("MB are free; use --in-flight 1")
    assert "scale the video down, or use a plan made by bsst export --window" in said(one - 1, two)
    least = 2 * EDGE.frames * work.frame_bytes
    with pytest.raises(OutOfMemoryError, match="for the frames and tensors of one window, this machine has"):
        said(least, least)


def test_memory_of_several_workers_is_that_of_all_of_them() -> None:
    work = plan_workload(EDGE, frames=100, height=1080, width=1920)
    one, two = (sum((need.frames, need.device)) for need in (
        need_bytes(EDGE, work, in_flight=count, lanes=count) for count in (1, 2)))  # fmt: skip
    assert one < two

    def said(free: int) -> str:
        return require_memory(
            EDGE, work, in_flight=2, lanes=2, on_gpu=False, free=free, most=free, processes=4
        ).partition("are free; ")[2]  # fmt: skip

    assert said(4 * two) == ""
    assert said(4 * two - 1) == said(4 * one) == "use --in-flight 1"
    assert said(4 * one - 1) == f"use {(4 * one - 1) // two} in place of 4 workers"
    assert said(two) == "use 1 in place of 4 workers"
    assert said(two - 1) == said(one) == "use one worker and --in-flight 1"


def test_a_plan_of_small_tiles_is_not_advised_where_frames_alone_are_too_large() -> None:
    work = plan_workload(EDGE, frames=100, height=8000, width=8000)
    need = need_bytes(EDGE, work, in_flight=1)
    free = need.device + need.frames // 4  # a window of four frames takes ten, of 2 * 12 + 2
    said = require_memory(EDGE, work, in_flight=1, lanes=1, on_gpu=False, free=free, most=10 * free)
    assert said.endswith("scale the video to 1/2 of its width and height")


def test_a_job_for_workers_compares_memory_before_it_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clip = Clip(times=tuple(range(0, 60 * 512, 512))).write(tmp_path / "clip")
    monkeypatch.setattr("bsst.runtime.jobs.opened.memory_bytes", lambda: (1 << 20, 1 << 40))
    plan = Planned(open_plan(DEFAULT_PLAN))
    with VideoReader(clip) as reader:
        [alone], [warning] = (
            memory_warnings(plan, reader, Tiling(), Execution(devices=("cpu",) * count, in_flight=1))
            for count in (1, 3)
        )
        assert memory_warnings(plan, reader, Tiling(), Execution(ray="auto")) == []
    needed, once = (int(re.findall(r"up to (\d+) MB", text)[0]) for text in (warning, alone))
    assert abs(needed - 3 * once) <= 2


def test_a_still_needs_no_window_of_copies() -> None:
    work = plan_workload(EDGE, frames=1, height=4000, width=4000)
    most = 3 * work.frame_bytes + 10**9
    assert "may be needed" in require_memory(EDGE, work, in_flight=2, lanes=1, on_gpu=False, free=most, most=most)
