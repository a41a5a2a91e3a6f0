"""The memory plan: no two live tensors share a byte, and little more is taken than is needed at once."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bsst.plan.archive import open_plan
from bsst.runtime.devices.base import ITEM_BYTES
from bsst.runtime.network.memory_plan import INPUTS, OUTPUT, ClipMemory, Lifetime, greedy_by_size, plan_clip
from bsst.runtime.network.network import DEFAULT_PLAN
from bsst.runtime.network.wiring import View, clip_calls

LIFETIMES = st.lists(
    st.builds(
        lambda nbytes, first, more: Lifetime(nbytes, first, first + more),
        st.integers(1, 40),
        st.integers(0, 12),
        st.integers(0, 6),
    ),
    min_size=1,
    max_size=30,
)


def largest_sum(lives: list[Lifetime]) -> int:
    return max(sum(a.nbytes for a in lives if a.first <= step <= a.last) for step in range(20))


@given(LIFETIMES)
def test_no_two_live_tensors_overlap(lives: list[Lifetime]) -> None:
    offsets = greedy_by_size(dict(enumerate(lives)))
    for i, a in enumerate(lives):
        assert offsets[i] >= 0
        for j, b in enumerate(lives[:i]):
            if a.first <= b.last and b.first <= a.last:
                assert offsets[i] + a.nbytes <= offsets[j] or offsets[j] + b.nbytes <= offsets[i]


@given(LIFETIMES)
def test_the_plan_lies_between_the_lower_bound_and_no_sharing(lives: list[Lifetime]) -> None:
    offsets = greedy_by_size(dict(enumerate(lives)))
    size = max(offsets[i] + life.nbytes for i, life in enumerate(lives))
    assert largest_sum(lives) <= size <= sum(life.nbytes for life in lives)


def test_tensors_that_never_meet_share_their_bytes() -> None:
    chain = {name: Lifetime(10, step, step + 1) for step, name in enumerate("abcdef")}
    offsets = greedy_by_size(chain)
    assert set(offsets.values()) == {0, 10}


def places(memory: ClipMemory, view: View, frames: int) -> Iterator[tuple[View, slice]]:
    """Where a view lies in the workspace, frame by frame if it has frames."""
    spec = memory.tensors[view.tensor]
    if view.frame is None and spec.shape[0] == frames:
        for t in range(frames):
            yield from places(memory, View(view.tensor, t), frames)
        return
    nbytes = math.prod(spec.shape) * ITEM_BYTES[spec.dtype] // (1 if view.frame is None else frames)
    whole = memory.offsets.get(View(view.tensor))
    start = memory.offsets[view] if whole is None else whole + (view.frame or 0) * nbytes
    yield view, slice(start, start + nbytes)


def test_every_read_of_the_packaged_plan_finds_what_its_tensor_wrote() -> None:
    manifest = open_plan(DEFAULT_PLAN).manifest
    memory = plan_clip(manifest)
    numbers: dict[View, int] = {}
    workspace = np.zeros(memory.workspace_bytes, np.uint16)  # who wrote each byte last

    def own(view: View) -> Iterator[tuple[int, slice]]:
        for part, place in places(memory, view, manifest.frames):
            yield numbers.setdefault(part, len(numbers) + 1), place

    for number, place in own(View("zero_state")):
        workspace[place] = number
    for _ in range(2):  # the second clip finds what the first one left
        for call in clip_calls(manifest):
            for view in call.inputs.values():
                if view.tensor not in INPUTS:
                    assert all((workspace[place] == number).all() for number, place in own(view)), (call, view)
            for view in call.outputs.values():
                if view.tensor != OUTPUT:
                    for number, place in own(view):
                        workspace[place] = number


def test_the_packaged_plan_needs_no_more_than_the_lower_bound() -> None:
    memory = plan_clip(open_plan(DEFAULT_PLAN).manifest)
    assert memory.live_bytes == memory.workspace_bytes
    apart = sum(math.prod(spec.shape) * ITEM_BYTES[spec.dtype] for spec in memory.tensors.values())
    assert memory.workspace_bytes + 2 * memory.transfer_bytes < apart
