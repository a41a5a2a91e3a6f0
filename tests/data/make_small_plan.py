"""Make the plan that most tests use, small_edge.plan.xz beside this file: two minutes, and torch.

    python -m tests.data.make_small_plan

`tests/export/test_export_plan.py` exports it again, and says so where the exporter makes another one by now.
"""

from __future__ import annotations

import dataclasses
import lzma
import tempfile
from importlib.metadata import version
from pathlib import Path

from bsst.export.export_plan import export_plan
from bsst.plan.manifest import Manifest
from tests.networks import SMALL, UPRIGHT, small_edge

PLAN = Path(__file__).with_name("small_edge.plan.xz")


def export_small(path: Path) -> Manifest:
    """Export `small_edge` in two shapes; the label names what traced it, as other versions trace other graphs."""
    tracers = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxscript"))
    networks = dataclasses.replace(small_edge(), label=f"random weights, traced by {tracers}")
    return export_plan(path, networks, SMALL, tile_overlap=16, window_overlap=1, shapes=[UPRIGHT])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small_edge.plan"
        export_small(path)
        PLAN.write_bytes(lzma.compress(path.read_bytes(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{PLAN}: {PLAN.stat().st_size / 1e3:.0f} kB")
