"""Curves of a training log as a picture, drawn with Pillow: gain with and without motion over time.

    python -m bsst.training.plot_log FIRST/deblur.jsonl NEXT/deblur.jsonl --picture curves.png --log all.jsonl

Gains are those of the validation clips that the training logs hold. Several logs are runs that continue each other.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

__all__ = ["draw_curves", "join"]

WIDTH, HEIGHT, MARGIN = 900, 520, 70
CURVES = {
    "sim": ("simulated, flow as found", (31, 119, 180)),
    "sim_zero_flow": ("simulated, zero flow", (31, 119, 180, 110)),
    "sim_alone": ("simulated, frame alone", (140, 190, 225)),
    "real": ("real, flow as found", (214, 39, 40)),
    "real_zero_flow": ("real, zero flow", (214, 39, 40, 110)),
    "real_alone": ("real, frame alone", (240, 160, 160)),
}


def join(logs: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Entries of runs that continue each other, their minutes counted on, each with its `run`, from 1."""
    joined: list[dict[str, Any]] = []
    for run, log in enumerate(logs, start=1):
        before = joined[-1]["minutes"] if joined else 0.0
        joined += [{**entry, "run": run, "minutes": round(before + entry["minutes"], 2)} for entry in log]
    return joined


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
    parser.add_argument("logs", type=Path, nargs="+")
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--log", type=Path, help="write the joined log")
    arguments = parser.parse_args()
    entries = join([[json.loads(line) for line in log.read_text().splitlines()] for log in arguments.logs])
    if arguments.log:
        arguments.log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    draw_curves(entries).save(arguments.picture)
