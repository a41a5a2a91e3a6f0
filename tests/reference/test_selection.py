"""Window and frame selection: tables equal the flat cutting rule of the specification."""

import numpy as np
import pytest
import torch

from bsst.errors import UsageError
from bsst.reference.selection import expandable_groups, legal_frames, select

LEGAL = [4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32, 48]


def blur_of(frames: int, seed: int, size: int = 32) -> torch.Tensor:
    """A blur map whose four windows are: blurred in even frames, in odd frames, always, never."""
    generator = torch.Generator().manual_seed(seed)
    blur = torch.rand(frames, 1, size, size, generator=generator) * 0.2
    even = torch.arange(frames) % 2 == 0
    blur[even, :, :16, :16] += 0.5
    blur[~even, :, :16, 16:] += 0.5
    blur[:, :, 16:, :16] += 0.5
    return blur


def numpy_masks(blur: torch.Tensor, blocks: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Query and key masks (T, windows) of each block, as section 11 describes them, ties to the lowest frame."""
    padded = np.pad(blur[:, 0].numpy().astype(np.float64), ((0, 0), (2, 2), (2, 2)))
    size = blur.shape[-1] // 2
    token = sum(padded[:, dy : dy + 2 * size : 2, dx : dx + 2 * size : 2] for dy in range(5) for dx in range(5)) / 25
    mean = token.reshape(len(token), size // 8, 8, size // 8, 8).mean((2, 4)).reshape(len(token), -1)
    hard = mean > 0.3
    shared = mean.copy()
    masks = []
    for block in range(blocks):
        member = np.arange(len(mean)) % 2 == block % 2
        count = member.sum() // 2
        shared[~member] = 0
        keys = np.where(member[:, None], 1 - shared, 0)
        spatial = hard[member].any(0)
        pair = []
        for ranked in (shared, keys):
            mask = np.zeros_like(hard)
            for window in range(mean.shape[1]):
                mask[np.argsort(-ranked[:, window], kind="stable")[:count], window] = spatial[window]
            pair.append(mask)
        masks.append((pair[0], pair[1]))
    return masks


@pytest.mark.parametrize("frames", LEGAL)
def test_groups_equal_flat_runs_of_the_masks(frames: int) -> None:
    blur = blur_of(frames, seed=frames)
    selection = select(blur, blocks=4, threshold=0.3)
    group = frames // 4
    for block, (query, key) in enumerate(numpy_masks(blur, 4)):
        # Flat (window, frame) lists, frame fastest, cut into runs; our groups are those runs in window order.
        runs: dict[int, list[tuple[list[int], list[int], int]]] = {window: [] for window in range(query.shape[1])}
        for chosen, flag in ((query, 1), (~query, 0)):
            pairs = [(window, frame) for window in range(query.shape[1]) for frame in np.flatnonzero(chosen[:, window])]
            keys = [(window, frame) for window in range(query.shape[1]) for frame in np.flatnonzero(key[:, window])]
            for start in range(0, len(pairs), group):
                run = pairs[start : start + group]
                source = keys[start : start + group] if flag else run
                (window,) = {window for window, _ in run + source}
                runs[window].append(([f for _, f in run], [f for _, f in source], flag))
        expected = [run for window in runs for run in runs[window]]
        got = [
            (q.tolist(), k.tolist(), int(a))
            for q, k, a in zip(
                selection.query_frames[block], selection.key_frames[block], selection.active[block], strict=True
            )
        ]
        assert got == expected


@pytest.mark.parametrize("frames", LEGAL)
def test_every_window_holds_every_frame_once_and_only_leading_groups_are_active(frames: int) -> None:
    selection = select(blur_of(frames, seed=1), blocks=3, threshold=0.3)
    groups = frames // (frames // 4)
    for block in range(3):
        by_window = selection.query_frames[block].reshape(4, frames)
        assert (by_window.sort(1).values == torch.arange(frames)).all()
        active = selection.active[block].reshape(4, groups)
        assert not active[:, expandable_groups(frames, block) :].any()
        assert active[3].sum() == 0  # the sharp window
        assert active[2].sum() == expandable_groups(frames, block)


def test_constant_motion_selects_nothing() -> None:
    selection = select(torch.zeros(8, 1, 32, 32), blocks=2, threshold=0.3)
    assert not selection.active.any()


@pytest.mark.parametrize("frames", [1, 2, 3, 9, 11, 14, 15, 18, 33])
def test_other_lengths_are_refused(frames: int) -> None:
    assert not legal_frames(frames)
    with pytest.raises(UsageError, match=f"got {frames}"):
        select(torch.zeros(frames, 1, 32, 32), blocks=1, threshold=0.3)
