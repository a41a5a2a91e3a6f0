"""Deblur a real clip with the packaged plan and measure the gain of the file; what `make demo` runs.

The clip shows a box that is turned in front of a camera (footage of the Debian package opencv-doc, Apache-2.0, which
training never saw), blurred by averaging consecutive frames, which is how the GoPro data set is made, so the sharp
frames are known. A fast pan over one of its frames follows: too fast to be mended,
it has to come out unharmed. Needs the run-time packages only.
"""

from __future__ import annotations

import base64
import sys
import time
from fractions import Fraction
from pathlib import Path
from string import Template

import av
import numpy as np

import bsst
from bsst.runtime.metrics import psnr, to_uint8
from bsst.runtime.video.reader import VideoReader

ROOT = Path(__file__).parents[1]
BLURRY = ROOT / "tests" / "data" / "box_blurry.mp4"
SHARP = ROOT / "tests" / "data" / "box_sharp.mp4"
ZOOM = 3
PAN_SPEED, PAN_FRAMES = 90, 12
"""Pixels per frame of the fast pan; it is exposed for half of a frame's time."""
PAGE = Template("""<!doctype html><meta charset="utf-8"><title>bsst: before and after</title>
<style>
body { margin: 2rem; font-family: sans-serif; background: #222; color: #eee }
figure { position: relative; margin: 0; width: min(100%, 1280px) }
img { width: 100%; display: block; image-rendering: pixelated }
img + img { position: absolute; inset: 0; clip-path: inset(0 0 0 var(--at, 50%)) }
input { width: min(100%, 1280px) }
</style>
<figure id="pair"><img src="data:image/png;base64,$before" alt="before"><img src="data:image/png;base64,$after" alt="after"></figure>
<input type="range" aria-label="left of it before, right of it after" oninput="pair.style.setProperty('--at', this.value + '%')">
<p>Left of the handle: before. Right of it: after ($gain dB closer to the sharp recording).</p>
""")  # noqa: E501 - markup


def main() -> None:
    """Deblur, measure, draw."""
    out = ROOT / "out" / "demo"
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    result = bsst.deblur(
        BLURRY,
        out / "box_deblurred.mp4",
        overwrite=True,
        observer=bsst.Observer(progress=_show, warning=lambda w: print(f"warning: {w}")),
    )
    print(f"{result.frames} frames in {time.monotonic() - started:.0f} s, {result.fps:.2f} frames per second")
    before, after, truth = (_frames(path) for path in (BLURRY, result.output, SHARP))
    gains = _gains(before, after, truth)
    print(f"gain: {np.mean(gains):+.2f} dB on average, {min(gains):+.2f} to {max(gains):+.2f} dB per frame")
    best = int(np.argmax(gains))
    picture, page = out / "before_after.png", out / "before_after.html"
    picture.write_bytes(_png(_compare(before[best], after[best], truth[best])))
    left, right = (base64.b64encode(_png(x)).decode() for x in (before[best], after[best]))
    page.write_text(PAGE.substitute(before=left, after=right, gain=f"{gains[best]:+.2f}"))

    pan, still = _fast_pan(truth[0])
    with bsst.load_network(size=still[0].shape[1:]) as network:
        panned = [to_uint8(frame) for frame in bsst.deblur_frames(pan, network)]
    gains = _gains([to_uint8(frame) for frame in pan], panned, still)
    print(f"a pan by {PAN_SPEED} pixels a frame: {np.mean(gains):+.2f} dB on average, worst frame {min(gains):+.2f} dB")
    print(f"result:  {result.output}")
    print(f"picture: {picture} (frame {best}: before and after; zoomed: before, after, sharp)")
    print(f"slider:  {page} (the same frame, in a browser)")


def _gains(before: list[np.ndarray], after: list[np.ndarray], truth: list[np.ndarray]) -> list[float]:
    """Print the PSNR of two clips (frames (3, H, W) uint8) against the sharp one; return what each frame gained."""
    b, a = ([psnr(x, t) for x, t in zip(clip, truth, strict=True)] for clip in (before, after))
    print(f"PSNR against the sharp frames: {np.mean(b):.2f} dB before, {np.mean(a):.2f} dB after")
    return [y - x for x, y in zip(b, a, strict=True)]


def _fast_pan(picture: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Slide sideways over an endless band of mirrored copies of a picture (3, H, W) uint8.

    Returns:
        The frames as exposed, averaged in linear light, float32 in [0, 1]; and sharp, uint8; both (3, H, W).
    """
    width = picture.shape[2]
    band = np.concatenate([picture, picture[:, :, ::-1]], 2)
    reach = PAN_SPEED // 4
    exposed = []
    for t in range(PAN_FRAMES):
        moments = [np.roll(band, -(PAN_SPEED * t + k), 2)[:, :, :width] / 255 for k in range(-reach, reach + 1)]
        exposed.append((np.mean(np.power(moments, 2.2), 0) ** (1 / 2.2)).astype(np.float32))
    return exposed, [np.roll(band, -PAN_SPEED * t, 2)[:, :, :width] for t in range(PAN_FRAMES)]


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


def _png(image: np.ndarray) -> bytes:
    """(3, H, W) uint8 as a PNG file."""
    encoder = av.CodecContext.create("png", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.height, encoder.width = image.shape[1:]
    encoder.pix_fmt, encoder.time_base = "rgb24", Fraction(1)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image.transpose(1, 2, 0)), format="rgb24")
    return b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None)))


if __name__ == "__main__":
    main()
