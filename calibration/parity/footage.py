"""Footage for a comparison: a video with or without ground truth, or a data set cut by the published protocol."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bsst.calibration.parity.compare import Footage, Frame, WorstFrame
from bsst.calibration.parity.datasets import LENGTH, ClipFolder, SubSequence, read_image, sub_sequences
from bsst.plan.manifest import Manifest
from bsst.runtime.metrics import to_uint8
from bsst.runtime.video.sources import open_reader

__all__ = ["PATCH_OVERLAP", "dataset_footages", "deviations", "video_footage", "worst_clip"]

PATCH, PATCH_OVERLAP = 256, 64
"""Tile and overlap of the released evaluation, in pixels."""


def video_footage(video: Path, truth: Path | None = None, *, limit: int | None = None) -> Footage:
    """All frames of a video, scored against another video if there is one.

    Args:
        video: blurry video, or folder or pattern of pictures.
        truth: sharp one of as many frames.
        limit: frames to take from the start; None for all.

    Raises:
        InputError: a file cannot be read.
    """
    with open_reader(video) as reader:
        count = reader.info.frames
    if truth is not None:
        with open_reader(truth):  # refuse it now, not after the first window
            pass
    return Footage(
        clip=video.resolve().name,
        start=0,
        count=count if limit is None else min(limit, count),
        blurry=lambda: islice(_frames(video), limit),
        sharp=None if truth is None else lambda: map(to_uint8, islice(_frames(truth), limit)),
        keep=slice(0, sys.maxsize),
    )


def dataset_footages(clips: Sequence[ClipFolder], *, limit: int | None = None) -> tuple[Footage, ...]:
    """The sub-sequences of every clip.

    Args:
        clips: of `read_layout`.
        limit: frames to take from the start of each clip; None for all, as published.
    """
    return tuple(
        _sub_sequence(clip, part)
        for clip in clips
        for part in sub_sequences(len(clip.blurry) if limit is None else min(limit, len(clip.blurry)))
    )


def deviations(
    manifest: Manifest,
    clips: Sequence[ClipFolder],
    published: dict[str, int],
    *,
    patches: bool,
    limit: int | None,
) -> tuple[str, ...]:
    """Why scores are not comparable with published ones, in words; empty if they are.

    Args:
        manifest: of the plan.
        clips: what is scored.
        published: clips of the published test set and their frames.
        patches: the released tiling was asked for.
        limit: frames taken of each clip.
    """
    found = {clip.name: len(clip.blurry) for clip in clips}
    frame = read_image(clips[0].blurry[0]).shape[1:]
    reasons = {
        f"{len(found)} clips with {sum(found.values())} frames, not the published {len(published)} with "
        f"{sum(published.values())}": found != published,
        f"only the first {limit} frames of each clip": limit is not None,
        f"windows of {manifest.frames} frames, not {LENGTH}": manifest.frames != LENGTH,
        f"tiles of {manifest.tile[0]}x{manifest.tile[1]}, not {PATCH}x{PATCH}": manifest.tile != (PATCH, PATCH),
        f"tiles blended over {manifest.tile_overlap} pixels, not cut at {PATCH_OVERLAP} (--patches)": not patches,
        f"flow on {manifest.flow_size[0]}x{manifest.flow_size[1]}, not on the whole frame of {frame[0]}x{frame[1]}": (
            manifest.flow_size != frame
        ),
    }
    notes = (f"{clip.name}: {note}" for clip in clips for note in clip.notes)
    return (*(reason for reason, holds in reasons.items() if holds), *notes)


def worst_clip(worst: WorstFrame, *, frames: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """The window of frames and pixels around the largest difference, reflected where the footage is smaller.

    Args:
        worst: where plan and reference differ most.
        frames: T.
        size: (H, W) in pixels.

    Returns:
        (T, 3, H, W) float32.
    """
    offset = worst.figures.index - worst.footage.start
    window: deque[Frame] = deque(maxlen=frames)
    for index, frame in enumerate(worst.footage.blurry()):
        window.append(frame)
        if index >= max(offset + frames // 2, frames - 1):
            break
    height, width = worst.plan.shape[1:]
    difference = np.abs(worst.plan - worst.reference).sum(0)
    row, column = np.unravel_index(int(np.nan_to_num(difference, nan=np.inf).argmax()), difference.shape)
    top, left = (
        max(0, min(int(centre) - side // 2, full - side))
        for centre, side, full in ((row, size[0], height), (column, size[1], width))
    )
    clip = np.stack([frame[:, top : top + size[0], left : left + size[1]] for frame in window])
    grow = [(0, frames - len(clip)), (0, 0), (0, size[0] - clip.shape[2]), (0, size[1] - clip.shape[3])]
    return np.pad(clip, grow, mode="symmetric")


def _sub_sequence(clip: ClipFolder, part: SubSequence) -> Footage:
    blurry, sharp = clip.blurry[part.start : part.stop], clip.sharp[part.start : part.stop]
    return Footage(
        clip=clip.name,
        start=part.start,
        count=len(blurry),
        blurry=lambda: (read_image(path).astype(np.float32) / np.float32(255) for path in blurry),
        sharp=lambda: (read_image(path) for path in sharp),
        keep=part.keep,
    )


def _frames(path: Path) -> Iterator[Frame]:
    with open_reader(path) as reader:
        for frame in reader:
            yield frame.rgb
