"""Curves of a training log as a picture, drawn with Pillow: end-point error of the flow, then gains, over time.

python -m bsst.training.plot_log RUN/log.jsonl --picture curves.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

__all__ = ["draw_curves"]

WIDTH, HEIGHT, MARGIN = 900, 460, 60
CURVES = {
    "end_point_error": ("flow: end-point error on training clips, pixels at 1/4 scale", (31, 119, 180)),
    "gain": ("network: gain on training clips, dB", (214, 39, 40)),
    "gain_free": ("network: the same before the change is restrained, dB", (240, 160, 160)),
}
STEP = 0.25


def draw_curves(entries: list[dict[str, Any]]) -> Image.Image:
    """All curves against minutes, on one axis that starts at 0."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(picture)
    end = max(entry["seconds"] for entry in entries) / 60
    high = max(1.0, *(entry[name] for entry in entries for name in CURVES if name in entry))

    def place(minute: float, value: float) -> tuple[float, float]:
        x = MARGIN + (WIDTH - 2 * MARGIN) * minute / end
        return x, HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * value / high

    for number in range(int(high / STEP) + 1):
        y = place(0, number * STEP)[1]
        pen.line([(MARGIN, y), (WIDTH - MARGIN, y)], fill=(215, 215, 215))
        pen.text((12, y - 6), f"{number * STEP:.2f}", fill="black")
    for minute in range(int(end) + 1):
        pen.text((place(minute, 0)[0] - 3, HEIGHT - MARGIN + 8), f"{minute}", fill="black")
    pen.text((WIDTH // 2 - 20, HEIGHT - 25), "minutes", fill="black")
    for row, (name, (label, colour)) in enumerate(CURVES.items()):
        pen.line([place(e["seconds"] / 60, e[name]) for e in entries if name in e], fill=colour, width=2)
        pen.text((MARGIN + 10, 8 + 14 * row), label, fill=colour)
    return picture


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("--picture", type=Path, required=True)
    arguments = parser.parse_args()
    draw_curves([json.loads(line) for line in arguments.log.read_text().splitlines()]).save(arguments.picture)
