"""Build every stage with the real TensorRT-RTX compiler, with no GPU, and say what the engines cost.

    python benchmarks/build_plans.py                                   # edge: every GPU generation, fp16 and fp32
    python benchmarks/build_plans.py --config release --frames 48      # seeded weights
    python benchmarks/build_plans.py --tile 768x1280 --precision fp16 --sm 89
    python benchmarks/build_plans.py --table                          # everything measured so far, one line per plan

One plan per GPU generation, stage after stage. Engines are kept in OUT/cache under their content key, so a run that was
stopped goes on where it was, and prints the figures of engines built before. `release` has seeded weights, because the
published checkpoint is not part of this package; sizes and times do not depend on the values.
Device memory is computed from the manifest as `bsst inspect` does: weights of all engines, the scratch area of the
largest, and every tensor of one clip. Figures are written to OUT/build_plans.json, one entry per plan.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import onnx

from bsst.calibration.precision.to_half import precision_shares
from bsst.cli.common import parse_bytes
from bsst.engines.builder import BuildOptions, StageGraph, build_stage
from bsst.engines.cache import EngineCache
from bsst.engines.prepare import prepare_stage
from bsst.engines.tensorrt_rtx import TensorRTRTXBuilder
from bsst.errors import BuildError
from bsst.export.stage_spec import stage_spec
from bsst.plan.archive import Plan, open_plan
from bsst.plan.manifest import Manifest, Precision, StageSpec
from bsst.runtime.network.device_memory import device_memory

sys.path.insert(0, str(Path(__file__).parents[1]))
HEADER = "| stage | built in | plan | activations | weights | compiler's memory |\n|---|---:|---:|---:|---:|---:|"


def cpu_plan(config: str, frames: int, tile: tuple[int, int], folder: Path) -> Plan:
    """Plan of target `cpu` to build from, exported once."""
    path = folder / f"{config}-{frames}-{tile[0]}x{tile[1]}.plan"
    if not path.exists():
        from bsst.export.export_plan import export_plan
        from bsst.export.stage import Geometry
        from bsst.reference.checkpoint import load_networks
        from tests.networks import seeded

        networks = seeded("release") if config == "release" else load_networks()
        geometry = Geometry(frames=frames, tile=tile, flow_size=tile)
        export_plan(path, networks, geometry, window_overlap=min(4, frames // 2), check=False)
    return open_plan(path)


def build(plan: Plan, precision: Precision, sm: str, options: BuildOptions, cache: EngineCache) -> dict[str, Any]:
    """Build one plan for one GPU generation; prints a table as it goes."""
    capability = f"{sm[:-1]}.{sm[-1]}"
    options = dataclasses.replace(options, compute_capabilities=(capability,))
    builder = TensorRTRTXBuilder()
    manifest = plan.manifest
    name = f"{manifest.config['name']}, T = {manifest.frames}, {manifest.tile[1]}x{manifest.tile[0]}, {precision}"
    print(f"\n{name}, SM {capability}, TensorRT-RTX {builder.compiler().version}\n\n{HEADER}", flush=True)
    stages: list[StageSpec] = []
    failed: dict[str, str] = {}
    for stage in manifest.stages:
        model = onnx.load_from_string(plan.member(stage.name))
        graph = prepare_stage(model, "tensorrt-rtx", precision, compute_capabilities=(capability,))
        started = time.monotonic()
        try:
            data = graph.SerializeToString(deterministic=True)
            engine, _ = build_stage(builder, StageGraph(name=stage.name, model=data), options, cache=cache)
        except BuildError as error:
            failed[stage.name] = str(error)
            print(f"| {stage.name} | failed after {time.monotonic() - started:.1f} s: {error} | | | | |", flush=True)
            continue
        spec = stage_spec(stage.name, graph, "tensorrt-rtx", precision=precision_shares(graph), facts=engine.facts)
        stages.append(dataclasses.replace(spec, size=len(engine.data)))
        print(row(stage.name, stages[-1].build, len(engine.data)), flush=True)
    return summary(dataclasses.replace(manifest, stages=tuple(stages), precision=precision), capability, failed)


def row(name: str, build: dict[str, float], size: float) -> str:
    """One line of the table."""
    cells = (build["activation_bytes"], build["weight_bytes"], build["peak_host_bytes"])
    return (
        f"| {name} | {build['seconds']:.1f} s | {size / 1e6:.1f} MB | "
        + " | ".join(f"{cell / 1e6:.1f} MB" for cell in cells)
        + " |"
    )


def summary(manifest: Manifest, capability: str, failed: dict[str, str]) -> dict[str, Any]:
    """Figures of one plan; its memory only when every stage was built."""
    stages = {stage.name: {"plan_bytes": stage.size, **stage.build} for stage in manifest.stages}
    result: dict[str, Any] = {
        "config": manifest.config["name"],
        "frames": manifest.frames,
        "tile": list(manifest.tile),
        "precision": manifest.precision,
        "compute_capability": capability,
        "seconds": round(sum(stage["seconds"] for stage in stages.values()), 1),
        "plan_bytes": sum(stage["plan_bytes"] for stage in stages.values()),
        "stages": stages,
        "failed": failed,
    }
    if not failed:
        memory = device_memory(manifest)
        result["memory"] = dataclasses.asdict(memory) | {"total_bytes": memory.total_bytes}
        parts = (memory.total_bytes, memory.weight_bytes, memory.scratch_bytes, memory.clip_bytes, memory.live_bytes)
        total, weights, scratch, tensors, live = (part / 1e9 for part in parts if part is not None)
        print(
            f"\nwhole plan: built in {result['seconds']:.0f} s, {result['plan_bytes'] / 1e6:.0f} MB; device memory "
            f"{total:.2f} GB = weights {weights:.2f} + scratch {scratch:.2f} + tensors {tensors:.2f} "
            f"({live:.2f} live at once)",
            flush=True,
        )
    return result


def record(path: Path, result: dict[str, Any]) -> None:
    """Replace the entry of the same plan, keep the others."""
    keys = ("config", "frames", "tile", "precision", "compute_capability")
    entries = json.loads(path.read_text()) if path.exists() else []
    entries = [entry for entry in entries if any(entry[key] != result[key] for key in keys)]
    path.write_text(json.dumps([*entries, result], indent=1) + "\n")


def table(entries: list[dict[str, Any]]) -> str:
    """One line per plan: what it costs to build and to hold, and which stage decides."""
    lines = [
        "| plan | SM | built in | slowest stage | engines | device memory | weights | scratch, of | tensors |",
        "|---|---:|---:|---|---:|---:|---:|---|---:|",
    ]
    for entry in entries:
        stages, (height, width) = entry["stages"], entry["tile"]
        slowest = max(stages, key=lambda name: stages[name]["seconds"])
        largest = max(stages, key=lambda name: stages[name]["activation_bytes"])
        name = f"`{entry['config']}`, T = {entry['frames']}, {width}x{height}, {entry['precision']}"
        built = f"{entry['seconds']:.0f} s | `{slowest}`, {stages[slowest]['seconds']:.0f} s"
        if entry["failed"]:
            memory = f"failed: {', '.join(entry['failed'])} | - | - | -"
        else:
            found = {key: f"{value / 1e9:.2f} GB" for key, value in entry["memory"].items()}
            scratch = f"{found['scratch_bytes']}, `{largest}`"
            memory = f"{found['total_bytes']} | {found['weight_bytes']} | {scratch} | {found['clip_bytes']}"
        size = f"{entry['plan_bytes'] / 1e6:.0f} MB"
        lines.append(f"| {name} | {entry['compute_capability']} | {built} | {size} | {memory} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=("edge", "release"), default="edge")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--tile", default="256x256", metavar="HxW")
    parser.add_argument("--precision", choices=("fp16", "fp32"), action="append", help="default: both")
    parser.add_argument("--sm", default="75,80,86,89,120", metavar="LIST")
    parser.add_argument(
        "--max-memory", type=parse_bytes, default=16 << 30, metavar="SIZE", help="of the compiler, per stage"
    )
    parser.add_argument("--out", type=Path, default=Path("out/build_plans"))
    parser.add_argument("--table", action="store_true", help="print what OUT/build_plans.json holds and build nothing")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads((options.out / "build_plans.json").read_text())))
        return 0
    height, width = map(int, options.tile.split("x"))
    options.out.mkdir(parents=True, exist_ok=True)
    plan = cpu_plan(options.config, options.frames, (height, width), options.out)
    cache = EngineCache(directory=options.out / "cache")
    limits = BuildOptions(memory_limit_bytes=options.max_memory, work_directory=options.out / "failed")
    failures = 0
    for precision in options.precision or ("fp16", "fp32"):
        for sm in options.sm.split(","):
            if sm == "75" and precision == "fp32":
                print("\nSM 7.5 has no fp32 matrix products in TensorRT-RTX: not built")
                continue
            result = build(plan, precision, sm, limits, cache)
            record(options.out / "build_plans.json", result)
            failures += len(result["failed"])
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
