"""Checkpoint -> plan: trace every stage, check it against the reference, write one file."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import onnx

from bsst.errors import UsageError
from bsst.export.lint import lint
from bsst.export.parity import measure_parity
from bsst.export.share import share_weights
from bsst.export.stage import Geometry, Stage
from bsst.export.stage_spec import stage_spec
from bsst.export.stages import pipeline_stages
from bsst.export.trace import trace_stage
from bsst.plan.archive import write_plan
from bsst.plan.manifest import Compiler, Manifest, Shape, StageSpec, Tail
from bsst.plugins.operator_schema import DOMAIN
from bsst.plugins.registry import attach_functions
from bsst.plugins.winograd.graph_pass import mark_large_convolutions
from bsst.reference.checkpoint import Networks
from bsst.runtime.one_clip import moving_texture
from bsst.runtime.sessions.ort import OrtSession

__all__ = ["export_plan"]


def export_plan(
    output: Path,
    networks: Networks,
    geometry: Geometry,
    *,
    tile_overlap: int = 32,
    window_overlap: int = 4,
    shapes: Sequence[Geometry] = (),
    check: bool = True,
    progress: Callable[[str], None] = lambda step: None,
) -> Manifest:
    """Export networks as one plan file.

    Args:
        output: plan to write, replaced atomically.
        networks: reference networks with weights.
        geometry: static sizes.
        tile_overlap: pixels shared by neighbouring tiles, a multiple of 4.
        window_overlap: frames shared by neighbouring windows.
        shapes: other tiles, with flow areas of their own, whose graphs share the weights.
        check: compare every stage and one clip with the reference; refuses the export where they disagree.
        progress: told about every step.

    Returns:
        The manifest as written.

    Raises:
        UsageError: sizes that the network cannot run.
        ExportError: a graph breaks a rule or disagrees with the reference.
        OutputError: the plan cannot be written.
    """
    stages = pipeline_stages(networks.network, networks.raft, geometry)
    _check_overlaps(geometry, tile_overlap, window_overlap)
    others = [pipeline_stages(networks.network, networks.raft, other) for other in shapes]
    for other_geometry in shapes:
        _check_overlaps(other_geometry, tile_overlap, window_overlap)
    models = _traced(stages, progress)
    members = {f"{name}.onnx": model.SerializeToString(deterministic=True) for name, model in models.items()}
    manifest = Manifest(
        bsst_version=version("bsst"),
        label=networks.label,
        target="cpu",
        config=networks.network.config.to_json(),
        weights_sha256=networks.sha256,
        frames=geometry.frames,
        tile=geometry.tile,
        flow_size=geometry.flow_size,
        tile_overlap=tile_overlap,
        window_overlap=window_overlap,
        precision="fp32",
        compiler=Compiler(name="onnxruntime", version=version("onnxruntime")),
        compute_capabilities=(),
        plugins=(),
        stages=tuple(_spec(name, model) for name, model in models.items()),
        parity={},
        licence=networks.licence,
    )
    if check:
        progress("comparing with the reference")
        sessions = {name: OrtSession(name, members[f"{name}.onnx"], threads=0) for name in models}
        size = [max(pair) for pair in zip(geometry.tile, geometry.flow_size, strict=True)]
        clip = moving_texture(geometry.frames, *size)
        manifest = dataclasses.replace(manifest, parity=measure_parity(manifest, stages, sessions, clip))
    same = {stage.name: (stage, models[stage.name]) for stage in stages}
    traced = [_traced(other, progress, same) for other in others]
    if shapes:
        manifest, members = _with_shapes(manifest, models, shapes, traced)
    for shape, other in zip(manifest.shapes if check else (), others, strict=check):
        name = "x".join(map(str, shape.tile))
        progress(f"comparing tiles of {name} with the reference")
        parity = manifest.parity | {f"clip_{name}": _parity_of_shape(manifest, shape, other, members)}
        manifest = dataclasses.replace(manifest, parity=parity)
    progress(f"writing {output.name}")
    return write_plan(output, manifest, members)


def _traced(
    stages: Sequence[Stage],
    progress: Callable[[str], None],
    same: Mapping[str, tuple[Stage, onnx.ModelProto]] | None = None,
) -> dict[str, onnx.ModelProto]:
    """Graphs of stages; what `same` has for equal inputs, such as flow on areas of one size, is not traced again."""
    models = {}
    for index, stage in enumerate(stages, start=1):
        if same is not None and same[stage.name][0].inputs == stage.inputs:
            models[stage.name] = same[stage.name][1]
            continue
        progress(f"tracing {stage.name} ({index} of {len(stages)})")
        traced = trace_stage(stage)
        if stage.name.startswith("propagate_"):  # half of the work; other stages may become int8 instead
            traced = mark_large_convolutions(traced)
        models[stage.name] = attach_functions(traced, bodies="cpu")
        lint(models[stage.name], stage.name)
    return models


def _with_shapes(
    manifest: Manifest,
    models: Mapping[str, onnx.ModelProto],
    geometries: Sequence[Geometry],
    traced: Sequence[Mapping[str, onnx.ModelProto]],
) -> tuple[Manifest, dict[str, bytes]]:
    """The same stages in several shapes: every stage's weights end the member of its first shape."""
    members: dict[str, bytes] = {}
    specs: list[list[StageSpec]] = [[] for _ in geometries]
    tails: list[Tail] = []
    for name, model in models.items():
        (first, *heads), tail = share_weights([model, *(other[name] for other in traced)])
        members[f"{name}.onnx"] = first + tail
        tails.append(Tail(size=len(tail), sha256=hashlib.sha256(tail).hexdigest()))
        for geometry, head, other, own in zip(geometries, heads, traced, specs, strict=True):
            member = f"{name}_{geometry.tile[0]}x{geometry.tile[1]}.onnx"
            members[member] = head
            own.append(dataclasses.replace(_spec(name, other[name]), member=member))
    shapes = tuple(
        Shape(tile=geometry.tile, flow_size=geometry.flow_size, stages=tuple(own), tails=tuple(tails))
        for geometry, own in zip(geometries, specs, strict=True)
    )
    return dataclasses.replace(manifest, shapes=shapes), members


def _parity_of_shape(
    manifest: Manifest, shape: Shape, stages: tuple[Stage, ...], members: Mapping[str, bytes]
) -> float:
    """Decibels of a clip in this shape, from the bytes as the runtime puts them together."""
    sessions = {}
    for base, own, tail in zip(manifest.stages, shape.stages, shape.tails, strict=True):
        whole = members[base.member]
        model = members[own.member] + whole[len(whole) - tail.size :]
        sessions[base.name] = OrtSession(base.name, model, threads=0)
    size = [max(pair) for pair in zip(shape.tile, shape.flow_size, strict=True)]
    clip = moving_texture(manifest.frames, *size)
    return float(measure_parity(manifest.shaped(shape), stages, sessions, clip)["clip"])


def _check_overlaps(geometry: Geometry, tile_overlap: int, window_overlap: int) -> None:
    if tile_overlap % 4 or not 0 <= tile_overlap <= min(geometry.tile) // 2:
        raise UsageError(
            f"expected --tile-overlap as a multiple of 4 up to half of the tile, got {tile_overlap} for a tile of "
            f"{geometry.tile[0]}x{geometry.tile[1]}; use 32"
        )
    if not 0 <= window_overlap <= geometry.frames // 2:
        raise UsageError(
            f"expected --window-overlap from 0 to {geometry.frames // 2}, half of the window, got {window_overlap}"
        )


def _spec(name: str, model: onnx.ModelProto) -> StageSpec:
    """Spec of a stage as it was traced: every product is float32."""
    products = any(
        n.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") or n.domain == DOMAIN for n in model.graph.node
    )
    return stage_spec(name, model, "cpu", precision={"float32": 1.0} if products else {}, facts={})
