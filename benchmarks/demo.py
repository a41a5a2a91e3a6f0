"""Deblur a real clip with the packaged plan and measure the gain of the file; what `make demo` runs.

The clip is footage of a city (tests/data, public domain) blurred by averaging consecutive frames, which is how the
GoPro data set is made, so the sharp frames are known. Needs the run-time packages only.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import av
import numpy as np

import bsst
from bsst.runtime.metrics import psnr, to_uint8
from bsst.runtime.video.reader import VideoReader

ROOT = Path(__file__).parents[1]
BLURRY = ROOT / "tests" / "data" / "city_blurry.mp4"
SHARP = ROOT / "tests" / "data" / "city_sharp.mp4"
ZOOM = 3


def main() -> None:
    """Deblur, measure, draw."""
    out = ROOT / "out" / "demo"
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    result = bsst.deblur(
        BLURRY,
        out / "city_deblurred.mp4",
        overwrite=True,
        observer=bsst.Observer(progress=_show, warning=lambda w: print(f"warning: {w}")),
    )
    print(f"{result.frames} frames in {time.monotonic() - started:.0f} s, {result.fps:.2f} frames per second")
    before, after, truth = (_frames(path) for path in (BLURRY, result.output, SHARP))
    gains = [psnr(a, t) - psnr(b, t) for b, a, t in zip(before, after, truth, strict=True)]
    blurred, deblurred = (np.mean([psnr(x, t) for x, t in zip(clip, truth, strict=True)]) for clip in (before, after))
    print(f"PSNR against the sharp frames: {blurred:.2f} dB before, {deblurred:.2f} dB after")
    print(f"gain: {np.mean(gains):+.2f} dB on average, {min(gains):+.2f} to {max(gains):+.2f} dB per frame")
    best = int(np.argmax(gains))
    picture = out / "before_after.png"
    _write_png(picture, _compare(before[best], after[best], truth[best]))
    print(f"result:  {result.output}")
    print(f"picture: {picture} (frame {best}: before and after; zoomed: before, after, sharp)")


def _show(state: bsst.Progress) -> None:
    if sys.stderr.isatty():
        print(f"\r{state.work:.0f} of {state.total} frames", end="", flush=True, file=sys.stderr)


def _frames(path: Path) -> list[np.ndarray]:
    with VideoReader(path) as reader:
        return [to_uint8(frame.rgb) for frame in reader]


def _compare(before: np.ndarray, after: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Two frames (3, H, W) side by side; under them the part that changed most, enlarged, with the sharp one."""
    height, width = before.shape[1:]
    gap = 4
    zoom_w = (2 * width + gap - 2 * gap) // 3
    crop_h, crop_w = height // ZOOM, zoom_w // ZOOM
    change = np.abs(after.astype(int) - before).sum(0)
    sums = np.pad(change.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    area = sums[crop_h:, crop_w:] - sums[:-crop_h, crop_w:] - sums[crop_h:, :-crop_w] + sums[:-crop_h, :-crop_w]
    y, x = np.unravel_index(area.argmax(), area.shape)
    canvas = np.full((3, 2 * height + gap, 2 * width + gap), 255, np.uint8)
    canvas[:, :height, :width], canvas[:, :height, width + gap :] = before, after
    for index, image in enumerate((before, after, truth)):
        zoomed = image[:, y : y + crop_h, x : x + crop_w].repeat(ZOOM, 1).repeat(ZOOM, 2)
        left = index * (zoom_w + gap)
        canvas[:, height + gap : height + gap + zoomed.shape[1], left : left + zoomed.shape[2]] = zoomed
    return canvas


def _write_png(path: Path, image: np.ndarray) -> None:
    """Write (3, H, W) uint8 with FFmpeg's PNG encoder."""
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream("png", rate=1)
        stream.height, stream.width = image.shape[1:]
        stream.pix_fmt = "rgb24"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image.transpose(1, 2, 0)), format="rgb24")
        for packet in (*stream.encode(frame), *stream.encode()):
            container.mux(packet)


if __name__ == "__main__":
    main()
