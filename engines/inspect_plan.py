"""What a plan holds, for people, for programs, and as plain files for other tools."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bsst.errors import OutputError
from bsst.files import atomic_file
from bsst.plan.archive import Plan
from bsst.plan.manifest import Manifest, StageSpec, TensorSpec
from bsst.plan.manifest_json import manifest_to_json
from bsst.runtime.network.device_memory import device_memory

__all__ = ["describe_plan", "extract_plan", "memory_lines", "plan_table"]


def describe_plan(plan: Plan) -> dict[str, Any]:
    """Manifest, file size and memory as plain JSON values."""
    memory = device_memory(plan.manifest)
    return {
        "path": str(plan.path),
        "bytes": plan.path.stat().st_size,
        "memory": dataclasses.asdict(memory) | {"total_bytes": memory.total_bytes},
        "manifest": dataclasses.asdict(plan.manifest),
    }


def plan_table(plan: Plan) -> str:
    """Text of a few dozen lines: provenance, memory, parity, and a row per stage."""
    rows: list[tuple[str, ...]] = [("stage", "size", "precision", "scratch", "built in", "inputs -> outputs")]
    rows += [_stage_row(stage.name, stage) for stage in plan.manifest.stages]
    rows += [_stage_row(f"{stage.name}, float32", stage) for stage in plan.manifest.float32]
    return "\n".join([*_aligned(list(_facts(plan)), "  "), "", *_aligned(rows, "  ")])


def extract_plan(plan: Plan, directory: Path) -> tuple[Path, ...]:
    """Write every member and `manifest.json` as files, for `polygraphy`, `trtexec`, Netron and the like.

    Args:
        plan: opened plan.
        directory: created when missing; must be empty.

    Raises:
        OutputError: the directory is not empty or cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise OutputError(f"expected an empty directory, got files in {directory}; choose another one")
    except OSError as error:
        raise OutputError(f"expected to write into {directory}, got {error}; choose another directory") from error
    written = []
    for part in filter(None, (plan, plan.fallback, *map(plan.shaped, plan.manifest.shapes))):
        for stage in part.manifest.stages:
            written.append(directory / stage.member)
            with atomic_file(written[-1]) as file:
                file.write(part.member(stage.name))
    written.append(directory / "manifest.json")
    with atomic_file(written[-1]) as file:
        file.write(manifest_to_json(plan.manifest))
    return tuple(written)


def _facts(plan: Plan) -> Iterator[tuple[str, str]]:
    manifest = plan.manifest
    yield "plan", f"{plan.path} ({_size(plan.path.stat().st_size)}), format {manifest.format_version}"
    yield "network", f"{manifest.config.get('name')}: {manifest.label}"
    yield "licence", manifest.licence or "not stated by the weights; ask whoever trained them"
    yield "weights", f"SHA-256 {manifest.weights_sha256}"
    yield "content", f"SHA-256 {manifest.content_key}"
    yield "built by", f"bsst {manifest.bsst_version}, {manifest.compiler.name} {manifest.compiler.version}"
    yield (
        "runs on",
        f"{manifest.target}, "
        + (
            f"compute capability {', '.join(manifest.compute_capabilities)}"
            if manifest.compute_capabilities
            else "any device"
        ),
    )
    yield "plugins", ", ".join(manifest.plugins) or "none"
    yield "precision", manifest.precision
    yield "window", f"{manifest.frames} frames, {manifest.window_overlap} shared with the next"
    sizes = f"{_side(manifest.tile)} pixels (height x width), {manifest.tile_overlap} shared"
    yield "tile", f"{sizes}; flow {_side(manifest.flow_size)}"
    for shape in manifest.shapes:
        size = _size(sum(stage.size for stage in shape.stages))
        yield "tile or", f"{_side(shape.tile)}; flow {_side(shape.flow_size)}; {size} besides the weights"
    yield from memory_lines(manifest)
    yield from _parity(manifest.parity, "parity")


def memory_lines(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Names and values of what one clip of one tile needs on the device."""
    memory = device_memory(manifest)
    yield "tensors", f"{_size(memory.clip_bytes)} for one clip; {_size(memory.live_bytes)} are needed at once"
    if memory.total_bytes is not None:
        parts = f"weights {_size(memory.weight_bytes)}, scratch {_size(memory.scratch_bytes)}, tensors"
        yield "memory", f"{_size(memory.total_bytes)} on the device: {parts}"
    if manifest.float32:
        kept = _size(sum(stage.size for stage in manifest.float32))
        yield "float32", f"{kept} of stages kept for results that are not finite; loaded on the CPU when one is met"


def _parity(figures: dict[str, Any], name: str) -> Iterator[tuple[str, str]]:
    plain = {key: value for key, value in figures.items() if not isinstance(value, dict)}
    if plain:
        yield name, ", ".join(f"{k} {v:.1f} dB" if isinstance(v, float) else f"{k} {v}" for k, v in plain.items())
    for key, value in figures.items():
        if isinstance(value, dict):
            yield from _parity(value, f"{name} {key}")


def _stage_row(label: str, stage: StageSpec) -> tuple[str, ...]:
    shares = [f"{name} {share:.0%}" for name, share in stage.precision.items()]
    if (half := stage.build.get("half_layers")) is not None:
        shares.append(f"engine {half:.0%} half")
    seconds = stage.build.get("seconds")
    flow = " -> ".join(", ".join(map(_tensor, tensors)) for tensors in (stage.inputs, stage.outputs))
    return (
        label,
        _size(stage.size),
        ", ".join(shares) or "-",
        _size(stage.build.get("activation_bytes")),
        f"{seconds:.1f} s" if seconds is not None else "-",
        flow,
    )


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype}[{'x'.join(map(str, spec.shape))}]"


def _side(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _size(count: float | None) -> str:
    if count is None:
        return "-"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def _aligned(rows: Sequence[tuple[str, ...]], gap: str) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [gap.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
