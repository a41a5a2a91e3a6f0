"""Frames as callers have them, checked once: what they mean is told by the first, and the others must be like it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np

from bsst.errors import InputError

__all__ = ["CallersFrames", "FrameLayout", "frame_layout"]

WANTED = "(3, H, W) float32 RGB in [0, 1], or uint8 RGB as (H, W, 3) or (3, H, W)"
BEYOND = 4.0
"""Largest value of a float frame: codes outside the RGB cube reach 1.2, HDR in linear light a little more, 0..255 far
more."""


class CallersFrames:
    """A caller's frames as (3, H, W) float32 copies, and the way back; iterate once, in any thread.

    `start`: number of the first, for messages.
    """

    def __init__(self, frames: Iterable[Any], *, start: int = 0) -> None:
        self._frames, self._start = frames, start
        self._layout: FrameLayout | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        try:
            frames = iter(self._frames)
        except TypeError as error:
            raise InputError(
                f"expected frames one after another, got a {type(self._frames).__name__}; give a list or a generator"
            ) from error
        for first in frames:
            self._layout = frame_layout(first)
            yield from self._layout.read(chain([first], frames), start=self._start)

    def returned(self, frame: np.ndarray) -> np.ndarray:
        """(3, H, W) float32 -> as the caller's frames are."""
        return frame if self._layout is None else self._layout.write(frame)


@dataclass(frozen=True)
class FrameLayout:
    """How a stream of frames stores its pixels."""

    shape: tuple[int, ...]
    kind: Literal["float", "uint8 HWC", "uint8 CHW"]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return (self.shape[0], self.shape[1]) if self.kind == "uint8 HWC" else (self.shape[1], self.shape[2])

    def read(self, frames: Iterable[Any], *, start: int = 0) -> Iterator[np.ndarray]:
        """Frames of the caller, numbered from `start`, -> (3, H, W) float32 RGB of its own memory.

        Raises:
            InputError: one is unlike the first, or its values are out of range.
        """
        for index, frame in enumerate(frames, start):
            if not isinstance(frame, np.ndarray) or frame.shape != self.shape or _kind(frame) != self.kind:
                if isinstance(frame, np.ndarray) and frame.ndim == 3 and _kind(frame) == self.kind:
                    height, width = FrameLayout(frame.shape, self.kind).size
                    raise InputError(
                        f"expected all frames to be {self.size[0]}x{self.size[1]} like the first, got {height}x{width} "
                        f"(height x width) at frame {index}; split or scale the video first"
                    )
                raise InputError(
                    f"expected every frame like the first, {self}, got {_described(frame)} at {index}; convert it first"
                )
            if self.kind == "float":
                own = np.array(frame, np.float32)
                low, high = float(own.min(initial=0)), float(own.max(initial=0))
                if not np.isfinite([low, high]).all():  # passes: the source's frame stands in for what comes out
                    known = own[np.isfinite(own)]
                    low, high = float(known.min(initial=0)), float(known.max(initial=0))
                if low < -BEYOND or high > BEYOND:
                    raise InputError(
                        f"expected {WANTED}, got values from {low:g} to {high:g} in frame {index}; divide by 255"
                    )
                yield own
            else:
                planes = frame.transpose(2, 0, 1) if self.kind == "uint8 HWC" else frame
                yield np.ascontiguousarray(planes, np.float32) / np.float32(255)

    def write(self, frame: np.ndarray) -> np.ndarray:
        """(3, H, W) float32 -> as the caller's frames are."""
        if self.kind == "float":
            return frame
        codes = np.rint(np.nan_to_num(frame) * 255).clip(0, 255).astype(np.uint8)
        return np.ascontiguousarray(codes.transpose(1, 2, 0)) if self.kind == "uint8 HWC" else codes

    def __str__(self) -> str:
        return f"{self.kind.split()[0]} of shape {self.shape}"


def frame_layout(first: Any) -> FrameLayout:
    """The layout of a stream by its first frame.

    Raises:
        InputError: it is no frame; the message says what would be.
    """
    kind = _kind(first) if isinstance(first, np.ndarray) else None
    if kind is None or 0 in first.shape:
        hint = "convert it with numpy.asarray and transpose(2, 0, 1) / 255"
        if isinstance(first, np.ndarray) and first.ndim == 4:
            hint = "give the frames one by one"
        elif hasattr(first, "to_ndarray"):
            hint = "give frame.to_ndarray(format='rgb24')"
        raise InputError(f"expected {WANTED}, got {_described(first)}; {hint}")
    return FrameLayout(first.shape, kind)


def _kind(frame: np.ndarray) -> Literal["float", "uint8 HWC", "uint8 CHW"] | None:
    if frame.ndim != 3:
        return None
    if frame.dtype == np.uint8:
        return "uint8 HWC" if frame.shape[2] == 3 else "uint8 CHW" if frame.shape[0] == 3 else None
    return "float" if np.issubdtype(frame.dtype, np.floating) and frame.shape[0] == 3 else None


def _described(frame: Any) -> str:
    if isinstance(frame, np.ndarray):
        return f"{frame.dtype} of shape {frame.shape}"
    return f"a {type(frame).__name__}"
