"""Rules of a manifest that types cannot say: a plan that breaks one is damaged, forged, or was never exported."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import get_args

from bsst.errors import PlanError
from bsst.plan.manifest import GRID, Manifest, Shape, StageSpec, Target, member_suffix
from bsst.text import shortened

__all__ = ["LONGEST_LABEL", "check_agreement", "check_values"]

MOST_FRAMES = 1024
MOST_TENSORS = 100
LARGEST_SIDE = 2**14
LARGEST_TENSOR = 2**36
LONGEST_LABEL = 500
"""Far above what any export makes; a manifest beyond them is damaged or forged, and planning it would never end."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_MEMBER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}\.(onnx|engine)")
_CAPABILITY = re.compile(r"\d{1,2}\.\d\+?")


def check_values(manifest: Manifest) -> None:
    """What types cannot say: ranges, unique names, digests.

    Raises:
        PlanError: with the field, what was expected and what it holds.
    """
    height, width = manifest.tile
    names = [stage.name for stage in manifest.stages]
    members = [stage.member for stage in manifest.members]
    extension = member_suffix(manifest.target)
    rules: dict[str, tuple[object, str]] = {
        "target": (manifest.target in get_args(Target), f"one of {', '.join(get_args(Target))}"),
        "weights_sha256": (_SHA256.fullmatch(manifest.weights_sha256), "64 hexadecimal digits"),
        "content_key": (_SHA256.fullmatch(manifest.content_key), "64 hexadecimal digits"),
        "frames": (1 <= manifest.frames <= MOST_FRAMES, f"1 to {MOST_FRAMES}"),
        "tile": (0 < min(height, width) <= max(height, width) <= LARGEST_SIDE, f"sides of 1 to {LARGEST_SIDE}"),
        "flow_size": (
            0 < min(manifest.flow_size) <= max(manifest.flow_size) <= LARGEST_SIDE,
            f"sides of 1 to {LARGEST_SIDE}",
        ),
        "label": (manifest.label.isprintable() and len(manifest.label) <= LONGEST_LABEL, "a short printable line"),
        "licence": (
            manifest.licence.isprintable() and len(manifest.licence) <= LONGEST_LABEL,
            "a short printable line",
        ),
        "tile_overlap": (
            0 <= manifest.tile_overlap < min(height, width) and manifest.tile_overlap % GRID == 0,
            f"from 0 to below the tile size, a multiple of {GRID}",
        ),
        "window_overlap": (0 <= manifest.window_overlap < manifest.frames, "from 0 to below frames"),
        "compute_capabilities": (all(map(_CAPABILITY.fullmatch, manifest.compute_capabilities)), 'like "8.9", "8.0+"'),
        "stages": (bool(names) and len(set(names)) == len(names), "one or more stages of different names"),
        "stages.member": (len(set(members)) == len(members), "a member of its own for each stage"),
        "float32": (
            not manifest.float32 or [*map(_interface, manifest.float32)] == [*map(_interface, manifest.stages)],
            "none, or the same stages, tensors and shapes as in stages",
        ),
        "shapes": (
            len({manifest.tile, *(shape.tile for shape in manifest.shapes)}) == 1 + len(manifest.shapes)
            and all(_fits(shape, manifest) for shape in manifest.shapes),
            f"none, or for ONNX Runtime tiles up to {LARGEST_SIDE} that differ, larger than the overlap, each with the "
            "stages of the plan and a part of each stage's member as its tail",
        ),
    }
    for stage in manifest.stages:
        rules |= _stage_rules(stage, f"stages.{stage.name}", extension)
    for stage in manifest.float32:
        rules |= _stage_rules(stage, f"float32.{stage.name}", ".onnx")
    for shape in manifest.shapes:
        for stage in shape.stages:
            rules |= _stage_rules(stage, f"shapes.{stage.name}", ".onnx")
    _hold(manifest, rules)


def check_agreement(manifest: Manifest) -> None:
    """What is planned with must be what the graphs were traced with; of the stages that a plan has.

    Raises:
        PlanError: with the field, what was expected and what it holds.
    """
    stages = {stage.name: stage for stage in manifest.stages}
    rules: dict[str, tuple[object, str]] = {}

    def sized(field: str, stage: str, size: tuple[int, ...]) -> None:
        if stage in stages and (tensors := stages[stage].inputs):
            frame = next((t for t in tensors if t.name == "frame"), tensors[0])
            rules[field] = (frame.shape[-2:] == size, f"the size of stage {stage}'s frames, {frame.shape[-2:]}")

    sized("tile", "encode", manifest.tile)
    sized("flow_size", "flow_features", manifest.flow_size)
    if "refine" in stages and (tensors := stages["refine"].inputs):
        rules["frames"] = (
            tensors[0].shape[:1] == (manifest.frames - 1,),
            f"one more than the flows of stage refine, {tensors[0].shape[:1]}",
        )
    branches = {name.removeprefix("propagate_") for name in stages if name.startswith("propagate_")}
    if branches:
        named = manifest.config.get("branches") if isinstance(manifest.config, dict) else None
        rules["config"] = (
            isinstance(named, list | tuple) and all(type(b) is str for b in named) and set(named) == branches,
            f"branches {', '.join(sorted(branches))}, as the stages are",
        )
    _hold(manifest, rules)
    _hold_host_tensors(manifest, stages)


def _hold_host_tensors(manifest: Manifest, stages: Mapping[str, StageSpec]) -> None:
    """What the host fills and reads, and what it hands from one flow stage to the other; the wiring checks the rest."""
    frame, flow_frame = (1, 3, *manifest.tile), (1, 3, *manifest.flow_size)
    quarter, flow_quarter = ([side // GRID for side in size] for size in (manifest.tile, manifest.flow_size))
    flows, pair = (manifest.frames - 1, 2, *quarter), (1, 2, *flow_quarter)
    expected: dict[str, dict[str, tuple[int, ...]]] = {
        "encode": {"frame": frame},
        "restore": {"frame": frame, "sharp": frame},
        "refine": {"backward": flows, "forward": flows},
        "flow_features": {"frame": flow_frame},
        "flow": {"backward": pair, "forward": pair},
    }
    for stage in filter(None, map(stages.get, expected)):
        for tensor in stage.inputs + stage.outputs:
            if (shape := expected[stage.name].get(tensor.name, tensor.shape)) != tensor.shape:
                raise PlanError(
                    f"manifest stages.{stage.name}.{tensor.name}: expected the shape {shape}, as tile, flow_size and "
                    f"frames say, got {shortened(tensor.shape)}; export the plan again"
                )
    if "flow" in stages and "flow_features" in stages:
        features = {(f"{t.name}_{x}", t.dtype, t.shape) for t in stages["flow_features"].outputs for x in "ab"}
        taken = {(t.name, t.dtype, t.shape) for t in stages["flow"].inputs}
        given = {t.name for t in stages["flow"].outputs}
        if features != taken or given != {*expected["flow"]}:
            raise PlanError(
                f"manifest stages.flow: expected what stage flow_features gives of two frames, a and b, and outputs "
                f"{' and '.join(expected['flow'])}, got {shortened(sorted(taken ^ features) or sorted(given))}; "
                "export the plan again"
            )


def _hold(manifest: Manifest, rules: dict[str, tuple[object, str]]) -> None:
    for name, (holds, expected) in rules.items():
        if not holds:
            raise PlanError(
                f"manifest {shortened(name)}: expected {shortened(expected)}, got {_lookup(manifest, name)}; "
                "export the plan again"
            )


def _stage_rules(stage: StageSpec, where: str, extension: str) -> dict[str, tuple[object, str]]:
    """Rule -> (whether it holds, what is expected)."""
    tensors = stage.inputs + stage.outputs
    return {
        f"{where}.name": (_NAME.fullmatch(stage.name), "letters, digits, - and _"),
        f"{where}.member": (
            _MEMBER.fullmatch(stage.member) and stage.member.endswith(extension),
            f"a plain file name ending in {extension}",
        ),
        f"{where}.sha256": (_SHA256.fullmatch(stage.sha256), "64 hexadecimal digits"),
        f"{where}.size": (stage.size > 0, "more than 0 bytes"),
        f"{where}.inputs, outputs": (
            bool(stage.outputs) and len({t.name for t in tensors}) == len(tensors),
            "one or more outputs and different names of all tensors",
        ),
        f"{where}.tensors": (
            all(map(_NAME.fullmatch, (tensor.name for tensor in tensors))) and len(tensors) <= MOST_TENSORS,
            f"up to {MOST_TENSORS} tensors, each with a name of letters, digits, - and _",
        ),
        f"{where}.shape": (
            all(size > 0 for t in tensors for size in t.shape)
            and all(math.prod(t.shape) <= LARGEST_TENSOR for t in tensors),
            f"positive sizes, of at most {LARGEST_TENSOR} elements",
        ),
        f"{where}.precision": (
            all(0 <= share <= 1 for share in stage.precision.values())
            and (not stage.precision or abs(sum(stage.precision.values()) - 1) < 1e-6),
            "shares that sum to 1",
        ),
    }


def _fits(shape: Shape, manifest: Manifest) -> bool:
    return (
        not manifest.target.startswith("tensorrt")
        and max(*shape.tile, *shape.flow_size) <= LARGEST_SIDE
        and min(*shape.flow_size, min(shape.tile) - manifest.tile_overlap) > 0
        and [stage.name for stage in shape.stages] == [stage.name for stage in manifest.stages]
        and len(shape.tails) == len(manifest.stages)
        and all(0 <= t.size <= s.size for t, s in zip(shape.tails, manifest.stages, strict=True))
        and all(_SHA256.fullmatch(tail.sha256) for tail in shape.tails)
    )


def _interface(stage: StageSpec) -> tuple[object, ...]:
    """What a stage takes and gives, but for element types."""
    return (stage.name, *([(t.name, t.shape) for t in tensors] for tensors in (stage.inputs, stage.outputs)))


def _lookup(manifest: Manifest, name: str) -> str:
    field = name.split(".")[0]
    return shortened(repr(getattr(manifest, field)))
