"""Work really overlaps on the host device: whatever is slowest is never kept waiting."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from bsst.runtime.network.network import host_network
from bsst.runtime.restore import deblur_frames
from bsst.runtime.trace import Trace
from tests.runtime.fake_stages import fake_manifest, fake_stages

FRAMES = 16
WINDOW_SECONDS = (0.06, 0.12, 0.24, 0.48)
"""What each kind of work takes for a window, which adds three frames; a busy machine adds less to longer work."""


def run(slowest: str, in_flight: int, window_seconds: float) -> tuple[Trace, float]:
    """Two tiles; one kind of work takes three times as long as the others."""
    seconds = {kind: window_seconds * (3 if kind == slowest else 1) for kind in ("decode", "flow", "network", "encode")}
    manifest = fake_manifest(4, ("forward_1",), flow_size=(12, 20))
    stages = fake_stages(manifest)
    stages["flow"].seconds = seconds["flow"] / 3
    stages["propagate_forward_1"].seconds = seconds["network"] / (2 * manifest.frames)
    trace = Trace()

    def source() -> Iterator[np.ndarray]:
        for _ in range(FRAMES):
            with trace.span("decode", "frame"):
                time.sleep(seconds["decode"] / 3)
            yield np.zeros((3, 8, 20), np.float32)

    with host_network(manifest, stages, in_flight=in_flight, at_once=None, trace=trace) as network:
        started = time.perf_counter()
        # Unguarded: the guard's millisecond a frame is nothing beside a real stage, but something beside these sleeps.
        for _ in deblur_frames(source(), network, guard=False):
            with trace.span("encode", "frame"):
                time.sleep(seconds["encode"] / 3)
        return trace, time.perf_counter() - started


def busy(trace: Trace, track: str) -> float:
    """Share of the time that a track is busy once the pipeline is full, until it has nothing left to do."""
    full = next(span.start for span in trace.spans if span.track == "encode")
    spans = [span for span in trace.spans if span.track == track]
    spans = [span for span in spans if span.start >= min(full, spans[len(spans) // 3].start)]
    return sum(span.seconds for span in spans) / (spans[-1].start + spans[-1].seconds - spans[0].start)


@pytest.mark.parametrize("slowest", ["decode", "flow", "network", "encode"])
def test_the_slowest_is_busy_all_the_time_and_the_rest_is_free(slowest: str) -> None:
    measured = []
    for seconds in WINDOW_SECONDS:  # other programs on the machine can only make it look worse
        trace, together = run(slowest, in_flight=2, window_seconds=seconds)
        _, apart = run(slowest, in_flight=1, window_seconds=seconds)
        # 2 if the first and the last window cost nothing: (3 + 1 + 1 + 1) / 3
        measured.append((busy(trace, slowest) >= 0.95, apart / together > 1.5))
        if all(measured[-1]):
            break
    assert all(measured[-1]), measured
