"""What each precision costs: plans against the PyTorch reference on real clips whose sharp frames are known.

    python benchmarks/parity_table.py --data DIR runtime/data/edge.plan edge16.plan
    python benchmarks/parity_table.py --data DIR --seeded --clips 3 release.plan release16.plan

Clips: the held-out clips of DIR, as filled by `make train-edge`, and 12 frames of the demo clip (tests/data): footage
that no weights were trained on, blurred by averaging as GoPro is. DIR may be left out. `--seeded`: the plans were
exported from weights drawn by tensor name, as the published ones are not available; PSNR against ground truth then says
nothing about quality, only how much of it a precision would move. Rows already in --json are not measured again.

Exit status 9 if a plan is over its budget (`bsst parity --help` lists the budgets).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bsst.calibration.parity.budget import default_budgets
from bsst.calibration.parity.compare import Footage, compare
from bsst.calibration.parity.footage import video_footage
from bsst.calibration.parity.reference import torch_reference
from bsst.config import config_from_json
from bsst.errors import EXIT_OVER_BUDGET
from bsst.plan.archive import open_plan
from bsst.plan.manifest import Manifest
from bsst.reference.checkpoint import Networks, load_networks
from bsst.runtime.network.network import load_network
from bsst.training.real import HELD_CLIPS, fixed_clip

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
FRAMES = 12


def main() -> None:
    """Measure what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plans", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, help="folder of the held-out clips")
    parser.add_argument("--seeded", action="store_true", help="the plans hold the reproducible random weights")
    parser.add_argument("--clips", type=int, help="take only the first clips")
    parser.add_argument("--json", type=Path, default=ROOT / "out" / "parity_table.json")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: dict[str, dict[str, Any]] = json.loads(options.json.read_text()) if options.json.exists() else {}
    wanted = []
    for path in options.plans:
        manifest = open_plan(path).manifest
        for footage in _clips(options.data, options.clips):
            key = f"{manifest.content_key[:16]} {footage.clip}"
            wanted.append(key)
            if key not in rows:
                rows[key] = _row(path, manifest, footage, _networks(manifest, options.seeded), options.threads)
                options.json.parent.mkdir(parents=True, exist_ok=True)
                options.json.write_text(json.dumps(rows, indent=1))
                print(f"{path.name}, {footage.clip}: {rows[key]['psnr']:.1f} dB", file=sys.stderr)
    chosen = [rows[key] for key in wanted]
    _print(chosen)
    if not all(row["within"] for row in chosen):
        sys.exit(EXIT_OVER_BUDGET)


def _clips(data: Path | None, limit: int | None) -> list[Footage]:
    """The held-out clips, then the demo clip."""
    clips = [] if data is None else [_held(data, name) for name in HELD_CLIPS]
    city = ROOT / "tests" / "data" / "city_blurry.mp4"
    clips.append(video_footage(city, city.with_name("city_sharp.mp4"), limit=FRAMES))
    return clips[:limit]


def _held(data: Path, name: str) -> Footage:
    def side(index: int) -> Iterator[np.ndarray]:
        yield from fixed_clip(data, HELD_CLIPS[name])[index].transpose(0, 3, 1, 2)

    return Footage(
        clip=name,
        start=0,
        count=FRAMES,
        blurry=lambda: (frame.astype(np.float32) / np.float32(255) for frame in side(0)),
        sharp=lambda: side(1),
        keep=slice(0, FRAMES),
    )


def _networks(manifest: Manifest, is_seeded: bool) -> Networks:
    if not is_seeded:
        return load_networks()
    from tests.networks import seeded

    return seeded(config_from_json(manifest.config).name)


def _row(path: Path, manifest: Manifest, footage: Footage, networks: Networks, threads: int) -> dict[str, Any]:
    reference = torch_reference(networks, manifest)
    with load_network(path, threads=threads) as network:
        result = compare([footage], network, reference.restorer)
    scores = {kind: result.scores(kind, mean="frames") for kind in ("input", "reference", "plan")}
    budgets = default_budgets(manifest.precision, ground_truth=True)
    loss = scores["reference"].psnr - scores["plan"].psnr
    return {
        "config": f"{config_from_json(manifest.config).name}: {manifest.label}",
        "precision": manifest.precision,
        "target": manifest.target,
        "bytes": path.stat().st_size,
        "clip": footage.clip,
        "psnr": result.psnr,
        "worst_frame": result.worst.figures.psnr,
        "drift": result.drift,
        "not_finite": result.not_finite["plan"],
        "truth": {kind: [score.psnr, score.ssim, score.ssim_skimage] for kind, score in scores.items()},
        "loss": loss,
        "within": result.psnr >= budgets.psnr and loss <= budgets.loss and not result.not_finite["plan"],
    }


def _print(rows: list[dict[str, Any]]) -> None:
    """One line per clip, and one per plan over its clips, as Markdown."""
    print("| weights | precision | target graph | clip | PSNR to PyTorch, worst frame | drift, dB per frame "
          "| input, PSNR | plan, PSNR and SSIM | lost to PyTorch, dB | NaN | bytes |")  # fmt: skip
    print("|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        print(_line(row, row["clip"], [row]))
    for key in dict.fromkeys((row["config"], row["precision"], row["target"], row["bytes"]) for row in rows):
        group = [row for row in rows if (row["config"], row["precision"], row["target"], row["bytes"]) == key]
        print(_line(group[0], f"all {len(group)}: worst difference, mean scores, worst loss", group))


def _line(first: dict[str, Any], clip: str, rows: list[dict[str, Any]]) -> str:
    def mean(kind: str, index: int) -> float:
        return float(np.mean([row["truth"][kind][index] for row in rows]))

    return (
        f"| {first['config']} | {first['precision']} | {first['target']} | {clip} "
        f"| {min(row['psnr'] for row in rows):.1f}, {min(row['worst_frame'] for row in rows):.1f} "
        f"| {min(row['drift'] for row in rows):+.2f} | {mean('input', 0):.3f} "
        f"| {mean('plan', 0):.3f}, {mean('plan', 1):.4f} | {max(row['loss'] for row in rows):+.4f} "
        f"| {sum(row['not_finite'] for row in rows)} | {first['bytes']} |"
    )


if __name__ == "__main__":
    main()
