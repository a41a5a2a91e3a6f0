"""Curves of a training log as a picture, drawn with Pillow: gain with and without motion over time.

    python -m bsst.reference.training.plot_log RUN/deblur.jsonl curves.png

Gains are those of the validation clips that the training log holds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

__all__ = ["draw_curves"]

WIDTH, HEIGHT, MARGIN = 900, 520, 70
CURVES = {
    "sim": ("simulated, flow as found", (31, 119, 180)),
    "sim_zero_flow": ("simulated, zero flow", (31, 119, 180, 110)),
    "sim_alone": ("simulated, frame alone", (140, 190, 225)),
    "real": ("real, flow as found", (214, 39, 40)),
    "real_zero_flow": ("real, zero flow", (214, 39, 40, 110)),
    "real_alone": ("real, frame alone", (240, 160, 160)),
}


def draw_curves(entries: list[dict[str, Any]]) -> Image.Image:
    """Validation gains in dB against minutes."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(picture, "RGBA")
    entries = [entry for entry in entries if entry.keys() >= CURVES.keys()]  # the first phase trains the alignment only
    minutes = [entry["minutes"] for entry in entries]
    values = [entry[name] for entry in entries for name in CURVES]
    low, high, end = min(-0.1, *values), max(0.2, *values), max(minutes)

    def place(minute: float, value: float) -> tuple[float, float]:
        x = MARGIN + (WIDTH - 2 * MARGIN) * minute / end
        return x, HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (value - low) / (high - low)

    step = 0.1 if high - low < 1.5 else 0.5
    for number in range(int(low / step), int(high / step) + 1):
        y = place(0, number * step)[1]
        pen.line([(MARGIN, y), (WIDTH - MARGIN, y)], fill=(0, 0, 0, 255 if number == 0 else 40))
        pen.text((12, y - 6), f"{number * step:+.1f} dB", fill="black")
    for minute in range(0, int(end) + 1, 10):
        pen.text((place(minute, low)[0] - 8, HEIGHT - MARGIN + 10), f"{minute}", fill="black")
    pen.text((WIDTH // 2 - 60, HEIGHT - 30), "minutes of training", fill="black")
    for row, (name, (label, colour)) in enumerate(CURVES.items()):
        points = [place(minute, entry[name]) for minute, entry in zip(minutes, entries, strict=True)]
        pen.line(points, fill=colour, width=2)
        pen.text((MARGIN + 10, 8 + 10 * row), label, fill=colour[:3])
    return picture


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    lines = arguments.log.read_text().splitlines()
    draw_curves([json.loads(line) for line in lines]).save(arguments.picture)
