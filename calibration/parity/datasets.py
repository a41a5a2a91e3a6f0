"""GoPro and DVD test sets in the folder layout of the released evaluation, cut into its sub-sequences.

    ROOT/test/blur/<clip>/<frame>      ROOT/test/GT/<clip>/<frame>

Clips and frames are paired by their order in both listings. The order is that of text with numbers by value, which for
the zero-padded names of the published sets is the released code's; what is no image is left out, and noted. Clips are
restored in sub-sequences of 48 frames that share 4, each on its own; every frame of a clip but the first and last two
is scored exactly once.

    100 frames   start 0 keeps 2..45   start 44 keeps 46..89   start 52 keeps 90..97

Source: data loaders and option files of the released BSSTNet code (reference/SPECIFICATION.md, section 15).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bsst.errors import InputError, MissingDependencyError

__all__ = ["DVD", "GOPRO", "LENGTH", "ClipFolder", "SubSequence", "read_image", "read_layout", "sub_sequences"]

LENGTH, OVERLAP, EDGE = 48, 4, 2
"""Frames of a sub-sequence, frames it shares with the next one, and frames at its ends that are not scored."""

IMAGES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})

GOPRO = {
    "GOPR0384_11_00": 100,
    "GOPR0384_11_05": 100,
    "GOPR0385_11_01": 100,
    "GOPR0396_11_00": 100,
    "GOPR0410_11_00": 134,
    "GOPR0854_11_00": 100,
    "GOPR0862_11_00": 77,
    "GOPR0868_11_00": 100,
    "GOPR0869_11_00": 100,
    "GOPR0871_11_00": 100,
    "GOPR0881_11_01": 100,
}
"""Clips of the published GoPro test set and their frames."""

DVD = dict.fromkeys(
    ("720p_240fps_2", *(f"IMG_00{number:02}" for number in (3, 21, 30, 31, 32, 33, 37, 39, 49))),
    100,
)
"""Clips of the published DVD test set and their frames."""


@dataclass(frozen=True, kw_only=True)
class ClipFolder:
    """One clip on disk."""

    name: str
    """Folder under `test/blur`."""
    blurry: tuple[Path, ...]
    """Frames in order."""
    sharp: tuple[Path, ...]
    """Ground truth of each frame."""
    notes: tuple[str, ...] = ()
    """What in the folders may make the scores those of something else."""


@dataclass(frozen=True, kw_only=True)
class SubSequence:
    """Frames `start` to `stop - 1` of a clip, restored on their own."""

    start: int
    stop: int
    keep: slice
    """Frames to score, counted from `start`."""


def read_layout(root: Path) -> tuple[ClipFolder, ...]:
    """Clips of a data set folder, sorted by name.

    Raises:
        InputError: another layout, no clips, or blurry and sharp frames that do not pair up.
    """
    blur, sharp = root / "test" / "blur", root / "test" / "GT"
    for folder in (blur, sharp):
        if not folder.is_dir():
            raise InputError(
                f"expected clips in {blur} and {sharp}, found no folder {folder}; arrange the data set as "
                "ROOT/test/blur/CLIP/FRAME and ROOT/test/GT/CLIP/FRAME"
            )
    (blurry_clips, left), (sharp_clips, left_too) = (_listing(folder, images=False) for folder in (blur, sharp))
    notes = _left_out(left + left_too)
    if not blurry_clips or len(blurry_clips) != len(sharp_clips):
        raise InputError(
            f"expected as many clips in {blur} as in {sharp}, at least one, got {len(blurry_clips)} and "
            f"{len(sharp_clips)}{_only_in(blurry_clips, sharp_clips)}; complete the data set"
        )
    notes += _unlike(blurry_clips, sharp_clips, lambda path: path.name)
    first, *others = zip(blurry_clips, sharp_clips, strict=True)
    return (_clip(*first, notes=notes), *(_clip(*pair) for pair in others))


def sub_sequences(frames: int) -> tuple[SubSequence, ...]:
    """Sub-sequences of a clip.

    Clips of at most `LENGTH` frames, which the released code does not handle, are one sub-sequence; without their
    first and last two frames where that leaves any.

    Args:
        frames: frames of the clip, at least 1.
    """
    if frames <= LENGTH:
        keep = slice(EDGE, frames - EDGE) if frames > 2 * EDGE else slice(0, frames)
        return (SubSequence(start=0, stop=frames, keep=keep),)
    starts = [*range(0, frames - LENGTH, LENGTH - OVERLAP), frames - LENGTH]
    scored = EDGE  # first frame of the clip that no earlier sub-sequence scores
    result = []
    for start in starts:
        result.append(
            SubSequence(start=start, stop=start + LENGTH, keep=slice(max(EDGE, scored - start), LENGTH - EDGE))
        )
        scored = start + LENGTH - EDGE
    return tuple(result)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Image file -> (3, H, W) uint8 RGB; JPEG is decoded by libjpeg, like OpenCV in the released evaluation.

    Raises:
        InputError: not an image.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingDependencyError("pillow", "parity", "reading images") from error
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{path}: expected an image, got {error}; copy the data set again") from error
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _clip(blurry: Path, sharp: Path, *, notes: tuple[str, ...] = ()) -> ClipFolder:
    (frames, left), (truth, left_too) = (_listing(folder, images=True) for folder in (blurry, sharp))
    if not frames or len(frames) != len(truth):
        raise InputError(
            f"expected as many frames in {blurry} as in {sharp}, at least one, got {len(frames)} and {len(truth)}"
            f"{_only_in(frames, truth)}; complete the data set"
        )
    notes += _left_out(left + left_too) + _unlike(frames, truth, _last_number)
    return ClipFolder(name=blurry.name, blurry=tuple(frames), sharp=tuple(truth), notes=notes)


def _listing(folder: Path, *, images: bool) -> tuple[list[Path], list[Path]]:
    """Frames or clips of a folder in order, and what else is there; without hidden files."""
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"expected a folder, got {error}; complete the data set") from error

    def belongs(entry: Path) -> bool:
        if images:
            return entry.suffix.lower() in IMAGES and not entry.is_dir()
        return entry.is_dir() and entry.name != "__MACOSX"

    return sorted(filter(belongs, entries), key=_natural), [entry for entry in entries if not belongs(entry)]


def _natural(path: Path) -> tuple[list[int | str], str]:
    """`2.png` before `10.png`: every second part of the split is a number."""
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path.name


def _left_out(paths: Sequence[Path]) -> tuple[str, ...]:
    if not paths:
        return ()
    names = ", ".join(f"{path.parent.parent.name}/{path.parent.name}/{path.name}" for path in sorted(paths)[:4])
    return (f"left out, being no part of the set: {names}{', ...' if len(paths) > 4 else ''}",)


def _unlike(blurry: Sequence[Path], sharp: Sequence[Path], key: Callable[[Path], object]) -> tuple[str, ...]:
    for index, (a, b) in enumerate(zip(blurry, sharp, strict=True)):
        if key(a) != key(b):
            return (f"names do not match from number {index} on: {a.parent.name}/{a.name} is compared with "
                    f"{b.parent.name}/{b.name}",)  # fmt: skip
    return ()


def _only_in(blurry: Sequence[Path], sharp: Sequence[Path]) -> str:
    """The first name that one side lacks, for a message."""
    sides = [{path.stem for path in side} for side in (blurry, sharp)]
    lonely = sorted(sides[0] ^ sides[1])
    return f" (only one has {lonely[0]})" if lonely else ""


def _last_number(path: Path) -> int | str:
    """The number of a frame, whatever stands around it."""
    numbers = re.findall(r"\d+", path.stem)
    return int(numbers[-1]) if numbers else path.stem
