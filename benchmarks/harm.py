"""Does the packaged plan ever make a clip worse? Some 250 clips that it was not made for, with known sharp frames.

    python benchmarks/harm.py                   # every clip; minutes
    python benchmarks/harm.py --only zoom,pan   # some kinds
    python benchmarks/harm.py --part 1/2        # every second clip, for several processes side by side

Made from the two demo clips and from pictures of scikit-image that training did not use: enlargements (fast, smooth
motion), pans of 2 to 120 pixels per frame over pictures enlarged up to eight times (smooth though not blurred),
rotations, cuts, a flash, noise, still frames, the sharp clip itself, 48 frames in windows. Runs the product's way:
windows, tiles, guard. Prints input PSNR, gain of the mean and of the worst frame, and how many frames the guard
touched, then a summary by kind; exits with 1 where the mean of a clip of at most 45 dB falls by more than 0.05 dB.
Nearer to sharp than that, no loss can be seen.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from skimage import data

import bsst
from bsst.runtime.frames.windows import RestoredWindow, SourceFrame
from bsst.runtime.metrics import psnr, to_uint8
from bsst.runtime.restore import restored_windows
from bsst.runtime.video.reader import VideoReader

DATA = Path(__file__).parents[1] / "tests" / "data"
PICTURES = ("coffee", "coins", "clock", "hubble_deep_field", "page", "text", "moon", "immunohistochemistry")
SIZE, FRAMES = 256, 12
TOLERATED, VISIBLE = -0.05, 45.0

Frames = tuple[np.ndarray, np.ndarray]
"""Blurry and sharp frames (T, 3, H, W) float32 in [0, 1]."""


def main() -> None:
    """Restore every clip and judge it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="kinds, separated by commas")
    parser.add_argument("--part", default="1/1", help="K/N: the K-th of every N clips")
    parser.add_argument("--plan", type=Path)
    arguments = parser.parse_args()
    part, parts = map(int, arguments.part.split("/"))
    rows: dict[str, list[tuple[float, bool, bool]]] = {}
    with bsst.load_network(arguments.plan) as network:
        for name, made in islice(clips(), part - 1, None, parts):
            if arguments.only and name.split()[0] not in arguments.only.split(","):
                continue
            blurry, sharp = made()
            restored: list[np.ndarray] = []
            touched = 0
            for window in restored_windows(map(SourceFrame, blurry), network):
                if isinstance(window, RestoredWindow):
                    restored += window.frames
                    touched += len(window.guarded)
            before, after = (
                np.array([psnr(to_uint8(x), to_uint8(y)) for x, y in zip(clip, sharp, strict=True)])
                for clip in (blurry, restored)
            )
            before, after = np.minimum(before, 100), np.minimum(after, 100)
            gain = float((after - before).mean())
            visible = bool(before.mean() <= VISIBLE)
            bad = visible and gain < TOLERATED
            rows.setdefault(name.split()[0], []).append((gain, visible, bad))
            print(f"{name:24} {before.mean():6.2f} dB {gain:+.3f}, worst frame {(after - before).min():+.3f}, "
                  f"guard in {touched} of {len(blurry)}{'  HARMED' if bad else ''}", flush=True)  # fmt: skip
    print(f"\n{'kind':10} {'clips':>5} {'visible blur':>12} {'mean gain':>9} {'worst':>7} {'harmed':>6}")
    rows["all"] = [row for kind in rows.values() for row in kind]
    for kind, found in rows.items():
        gains = [gain for gain, visible, _ in found if visible] or [0.0]
        print(f"{kind:10} {len(found):5} {len(gains):12} {np.mean(gains):+9.3f} {min(gains):+7.3f} "
              f"{sum(bad for *_, bad in found):6}")  # fmt: skip
    sys.exit(1 if any(bad for *_, bad in rows["all"]) else 0)


def clips() -> Iterator[tuple[str, Callable[[], Frames]]]:
    """Everything that is tried, in a fixed order: names, and what makes the clips."""
    blurry, sharp = (_frames(DATA / f"city_{kind}.mp4") for kind in ("blurry", "sharp"))
    first = blurry[:FRAMES], sharp[:FRAMES]
    for factor in (1, 2, 3, 4, 5, 6):
        yield f"zoom {factor}", partial(_both, partial(_enlarged, factor=factor), *first)
    pictures = {"city": sharp[0], **{name: _picture(name) for name in PICTURES}}
    for index, (name, picture) in enumerate(pictures.items()):
        for factor in (1, 3, 8):
            for speed, direction in ((2, 0.3), (10, 1.2), (40, 0.0), (120, 0.7)):
                for duty in (0.3, 0.8):
                    made = partial(_panned, picture, factor, speed, duty, direction + index)
                    yield f"pan {name} x{factor} {speed} {duty}", made
        for degrees in (1, 6):
            yield f"rotation {name} {degrees}", partial(_rotated, picture, 2, degrees)
    yield "cut in a window", partial(_both, _cut, blurry, sharp)
    flash = np.ones((FRAMES, 1, 1, 1), np.float32)
    flash[5] = 1.6
    yield "flash", partial(_both, lambda clip: np.clip(clip * flash, 0, 1), *first)
    for sigma in (0.01, 0.03, 0.1):
        yield f"noise {sigma}", partial(_noisy, *first, sigma)
    yield "still", lambda: (np.repeat(blurry[3:4], FRAMES, 0),) * 2
    yield "sharp already", lambda: (first[1],) * 2
    for share in (0.1, 0.25, 0.5):  # near-sharp: part of the blur
        yield f"mild {share}", partial(_mixed, *first, share)
    there_and_back = np.r_[0:28, 26:6:-1]
    yield "long 48 frames", partial(_both, lambda clip: _enlarged(clip, 4)[there_and_back], blurry, sharp)


def _both(change: Callable[[np.ndarray], np.ndarray], blurry: np.ndarray, sharp: np.ndarray) -> Frames:
    return change(blurry), change(sharp)


def _cut(clip: np.ndarray) -> np.ndarray:
    return np.concatenate([clip[:5], clip[:, :, ::-1][20:27]])


def _mixed(blurry: np.ndarray, sharp: np.ndarray, share: float) -> Frames:
    return sharp + share * (blurry - sharp), sharp


def _noisy(blurry: np.ndarray, sharp: np.ndarray, sigma: float) -> Frames:
    noise = np.random.default_rng(0).normal(0, sigma, blurry.shape).astype(np.float32)
    return np.clip(blurry + noise, 0, 1), sharp


def _frames(path: Path) -> np.ndarray:
    with VideoReader(path) as reader:
        return np.stack([frame.rgb for frame in reader]).clip(0, 1)


def _enlarged(clip: np.ndarray, factor: int) -> np.ndarray:
    side = -(-SIZE // factor) + 1
    return np.stack([_stretched(frame[:, :side, :side], factor)[:, :SIZE, :SIZE] for frame in clip])


def _stretched(frame: np.ndarray, factor: int) -> np.ndarray:
    """(3, H, W) -> (3, factor H, factor W), linear."""
    for axis in (1, 2):
        count = frame.shape[axis]
        at = np.clip((np.arange(count * factor) + 0.5) / factor - 0.5, 0, count - 1)
        low = at.astype(np.intp)
        fraction = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        high = np.minimum(low + 1, count - 1)
        frame = frame.take(low, axis) * (1 - fraction) + frame.take(high, axis) * fraction
    return frame


def _picture(name: str) -> np.ndarray:
    """(3, H, W) float32 in [0, 1]."""
    picture = np.atleast_3d(getattr(data, name)())[..., :3].astype(np.float32) / 255
    return np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3)).transpose(2, 0, 1))


Plane = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _plane(picture: np.ndarray) -> Plane:
    """An endless plane of mirrored copies: rows and columns (H, W) -> nearest pixels (3, H, W) in linear light."""
    mirrored = np.concatenate([picture, picture[:, ::-1]], 1) ** 2.2
    mirrored = np.concatenate([mirrored, mirrored[:, :, ::-1]], 2)

    def pixels(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        y, x = (np.round(a).astype(np.intp) for a in (rows, columns))
        return mirrored[:, y % mirrored.shape[1], x % mirrored.shape[2]]

    return pixels


AXIS = np.arange(SIZE, dtype=np.float64) - SIZE / 2


def _panned(picture: np.ndarray, factor: int, speed: int, duty: float, direction: float) -> Frames:
    """A window that slides over a plane by whole pixels; exposures of `duty` of a frame's time, in linear light."""
    plane = _plane(_stretched(picture, factor))
    exposed = max(1, round(speed * duty)) | 1
    steps = np.round(np.linspace(-(exposed // 2), exposed // 2, min(exposed, 25)))

    def at(way: float, off: float) -> np.ndarray:
        # Rounded apart, so that an exposure lies evenly about its middle, which is the sharp frame.
        dy, dx = (np.round(way * f) + np.round(off * f) for f in (np.sin(direction), np.cos(direction)))
        return plane(*np.broadcast_arrays(AXIS[:, None] + 300 + dy, AXIS + 300 + dx))

    return _exposed([[at(speed * t, k) for k in steps] for t in range(FRAMES)])


def _rotated(picture: np.ndarray, factor: int, degrees: float) -> Frames:
    """A plane that turns around the centre of the frame, `degrees` a frame, exposed for 0.8 of it."""
    plane = _plane(_stretched(picture, factor))

    def at(angle: float) -> np.ndarray:
        c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        return plane(300 + s * AXIS + c * AXIS[:, None], 300 + c * AXIS - s * AXIS[:, None])

    return _exposed([[at(degrees * (t + k / 20)) for k in range(-8, 9)] for t in range(FRAMES)])


def _exposed(moments: list[list[np.ndarray]]) -> Frames:
    """The moments of each exposure in linear light -> display values of their mean, and of the middle one."""
    blurry = np.stack([np.mean(exposure, 0) for exposure in moments])
    return blurry ** (1 / 2.2), np.stack([exposure[len(exposure) // 2] for exposure in moments]) ** (1 / 2.2)


if __name__ == "__main__":
    main()
