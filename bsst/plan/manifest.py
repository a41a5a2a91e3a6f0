"""What a plan says about itself: `manifest.json`, one frozen dataclass per level.

Written by `bsst.plan.archive.write_plan`, checked field by field when a plan is opened, and the only thing the
runtime reads before it decides whether this machine can run the plan.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from bsst.errors import PlanError
from bsst.plan.strict_json import canonical_json, from_json, parse_json

__all__ = [
    "COMPILED_TARGETS",
    "FORMAT_VERSION",
    "Compiler",
    "DType",
    "Manifest",
    "Precision",
    "Shape",
    "StageSpec",
    "Tail",
    "Target",
    "TensorSpec",
    "content_key",
    "manifest_from_json",
    "manifest_to_json",
    "member_suffix",
    "require",
]

FORMAT_VERSION = 1
"""1. `Manifest.float32`, `shapes` and `licence` are optional: plans without them are written without the fields, and
older readers, which refuse unknown fields by name, read them."""
DType = Literal["float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool"]
Target = Literal["cpu", "ort-cuda", "ort-tensorrt", "ort-webgpu", "tensorrt", "tensorrt-rtx"]
COMPILED_TARGETS: frozenset[Target] = frozenset({"tensorrt", "tensorrt-rtx"})
"""Targets whose stages are engines of one library version and some GPUs, not ONNX."""
Precision = Literal["fp32", "fp16", "bf16", "int8"]

MOST_FRAMES = 1024
GRID = 4
"""Flow is at 1/4 scale: everything a tile is cut at must be a multiple of this."""
LARGEST_SIDE = 2**14
LARGEST_TENSOR = 2**36
LONGEST_LABEL = 500
"""Far above what any export makes; a manifest beyond them is damaged or forged, and planning it would never end."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_MEMBER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}\.(onnx|engine)")
_CAPABILITY = re.compile(r"\d{1,2}\.\d\+?")


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of a stage; shapes are static."""

    name: str
    """Name of the tensor in the engine."""
    dtype: DType
    """Element type as numpy spells it (`bfloat16` has no numpy type)."""
    shape: tuple[int, ...]
    """Sizes in order; () is a scalar."""


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """One engine of the plan."""

    name: str
    """Stage name; `export/stages` lists them."""
    member: str
    """File inside the plan: `<name>.onnx` for ONNX Runtime targets, `<name>.engine` for TensorRT targets,
    `<name>_float32.onnx` in `Manifest.float32`."""
    inputs: tuple[TensorSpec, ...]
    """In the order the runtime binds them."""
    outputs: tuple[TensorSpec, ...]
    """In the order the runtime binds them."""
    precision: dict[str, float]
    """Share of the convolutions and matrix products at each type, read back from the graph: `{"float16": 1.0}`;
    empty for a stage that has none."""
    build: dict[str, float]
    """What the compiler reported: `seconds`, `activation_bytes`, `weight_bytes`, `half_layers` (share of the engine's
    layers in 16 bits, target `tensorrt`); empty where it reports nothing."""
    sha256: str = ""
    """Digest of the member; `write_plan` fills it."""
    size: int = 0
    """Bytes of the member; `write_plan` fills it."""


@dataclass(frozen=True, kw_only=True)
class Tail:
    """Last bytes of a stage's member, its weights, that follow the member of the same stage in another shape."""

    size: int
    """Bytes."""
    sha256: str
    """Digest of them."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The stages for tiles of another shape, over the weights of `Manifest.stages`."""

    tile: tuple[int, int]
    """See `Manifest.tile`."""
    flow_size: tuple[int, int]
    """See `Manifest.flow_size`."""
    stages: tuple[StageSpec, ...]
    """Of the same names, in the same order; members `<name>_<height>x<width>.onnx` are graphs without weights."""
    tails: tuple[Tail, ...]
    """What follows each of them."""


@dataclass(frozen=True, kw_only=True)
class Compiler:
    """What turned ONNX into engines."""

    name: str
    """`onnxruntime`, `tensorrt` or `tensorrt-rtx`."""
    version: str
    """Full version; TensorRT engines load in exactly this one."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything a runtime must know before it loads an engine."""

    bsst_version: str
    """Version of bsst that wrote the plan."""
    label: str
    """What the weights are, in words shown to users."""
    target: Target
    """What runs the engines."""
    config: dict[str, Any]
    """`NetworkConfig.to_json()`."""
    weights_sha256: str
    """Digest of the weights the graphs were traced from."""
    frames: int
    """T, frames of a window."""
    tile: tuple[int, int]
    """(height, width) in pixels of the frames the stages take."""
    flow_size: tuple[int, int]
    """(height, width) in pixels of the frames the flow network takes."""
    tile_overlap: int
    """Pixels shared by neighbouring tiles, blended."""
    window_overlap: int
    """Frames shared by neighbouring windows."""
    precision: Precision
    """Precision asked for; `StageSpec.precision` says what was reached."""
    compiler: Compiler
    """Compiler of every stage."""
    compute_capabilities: tuple[str, ...]
    """GPUs the engines run on: "8.9" is exactly that one, "8.0+" that one and newer; () for the CPU."""
    plugins: tuple[str, ...]
    """Custom operators left as plugins in the engines, `domain::name`; () when every stage is plain."""
    stages: tuple[StageSpec, ...]
    """In the order in which a clip meets them; their names are unique."""
    parity: dict[str, Any]
    """Figures measured against the reference when the plan was built, by stage."""
    float32: tuple[StageSpec, ...] = ()
    """Stages of the float32 fallback: the same as they were before 16 bits or int8, for ONNX Runtime on the CPU. They
    restore a window whose result is not finite. () for a plan without."""
    shapes: tuple[Shape, ...] = ()
    """Other shapes of tiles, for ONNX Runtime; the runtime takes the one that fits a video best."""
    licence: str = ""
    """Of the weights, as their file or whoever exported them states it; "" where nobody did."""
    format_version: int = FORMAT_VERSION
    """Raised when a reader of the previous version would misread the plan."""
    content_key: str = ""
    """SHA-256 of everything else in this manifest, the members' digests included; `write_plan` fills it.
    It shows damage and edits by accident; it is not a signature."""

    @property
    def compiled(self) -> bool:
        """Whether the stages are engines of one library version and some GPUs, not ONNX."""
        return self.target in COMPILED_TARGETS

    @property
    def members(self) -> tuple[StageSpec, ...]:
        """Every stage that has a file in the plan."""
        return self.stages + self.float32 + tuple(stage for shape in self.shapes for stage in shape.stages)

    def shaped(self, shape: Shape) -> Manifest:
        """The manifest in another of its shapes; its content key stays that of the whole plan."""
        return dataclasses.replace(
            self, tile=shape.tile, flow_size=shape.flow_size, stages=shape.stages, float32=(), shapes=()
        )

    def stage(self, name: str) -> StageSpec:
        """The stage called `name`.

        Raises:
            PlanError: there is none.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise PlanError(
            f"expected a stage {name!r} in the plan, got {', '.join(s.name for s in self.stages)}; "
            "the plan is for another network: export it again"
        )


def content_key(manifest: Manifest) -> str:
    """Hex SHA-256 over the canonical JSON of `manifest` without its `content_key`."""
    return hashlib.sha256(canonical_json(_values(manifest) | {"content_key": ""})).hexdigest()


def manifest_to_json(manifest: Manifest) -> bytes:
    """The bytes of `manifest.json`: canonical, so equal manifests give equal plans.

    Raises:
        PlanError: a value breaks a rule that `manifest_from_json` would refuse.
    """
    _check_values(manifest)
    _hold(manifest, _agreement_rules(manifest))
    return canonical_json(_values(manifest))


def manifest_from_json(text: bytes, where: str) -> Manifest:
    """Parse and check `manifest.json`.

    Raises:
        PlanError: not JSON, another format version, a missing, unknown, mistyped or impossible field, or a content
            key that does not fit the rest.
    """
    data = parse_json(text, where)
    # The version comes first: a newer format may differ in every other field.
    version = data.get("format_version") if isinstance(data, dict) else None
    if type(version) is not int or version != FORMAT_VERSION:
        raise PlanError(
            f"{where}.format_version: expected {FORMAT_VERSION}, got {repr(version)[:80]}; "
            "run the plan with the version of bsst that wrote it, or export it again"
        )
    manifest = from_json(Manifest, {"float32": [], "shapes": [], "licence": ""} | data, where)
    _check_values(manifest)
    if manifest.content_key != content_key(manifest):
        raise PlanError(
            f"{where}.content_key: expected {content_key(manifest)} for these fields, got {manifest.content_key}; "
            "the manifest was edited or damaged: copy or export the plan again"
        )
    for part in (manifest, *map(manifest.shaped, manifest.shapes)):
        _hold(part, _agreement_rules(part))
    return manifest


def require(
    manifest: Manifest,
    *,
    targets: Iterable[Target] | None = None,
    compiler_version: str | None = None,
    compute_capability: str | None = None,
) -> None:
    """Refuse a plan that this machine cannot run; call it before an engine is deserialised.

    Args:
        manifest: of an opened plan.
        targets: what this runtime can execute.
        compiler_version: full version of the installed TensorRT; ONNX plans load in any later ONNX Runtime, so it is
            ignored for them.
        compute_capability: of the GPU, as in "8.9"; ignored for plans that list none.

    Raises:
        PlanError: naming expected, got and the command that makes a fitting plan.
    """
    again = "on a fitting machine, or make a fitting plan: bsst-export --from CPU_PLAN"
    if targets is not None and manifest.target not in (accepted := sorted(targets)):
        raise PlanError(
            f"expected a plan for {' or '.join(accepted)}, got target {manifest.target}; "
            f"run it {again} --target {accepted[0] if accepted else 'cpu'}"
        )
    version = manifest.compiler.version
    if compiler_version is not None and manifest.compiled and version != compiler_version:
        raise PlanError(
            f"expected an engine built by {manifest.compiler.name} {compiler_version} (installed here), got {version}; "
            f"install that version, or make a fitting plan: bsst-export --from CPU_PLAN --target {manifest.target}"
        )
    supported = manifest.compute_capabilities
    if compute_capability is not None and supported and not any(_covers(s, compute_capability) for s in supported):
        raise PlanError(
            f"expected an engine for compute capability {compute_capability} (this GPU), got {', '.join(supported)}; "
            f"run it {again} --target {manifest.target} --sm {compute_capability.replace('.', '')}"
        )


def member_suffix(target: Target) -> str:
    """Suffix of the file of a stage in a plan of this target."""
    return ".engine" if target in COMPILED_TARGETS else ".onnx"


def _values(manifest: Manifest) -> dict[str, Any]:
    """Fields as they are written; optional ones are left out where empty, as plans did before they existed."""
    values = dataclasses.asdict(manifest)
    return {name: value for name, value in values.items() if value or name not in ("float32", "shapes", "licence")}


def _covers(supported: str, capability: str) -> bool:
    if not supported.endswith("+"):
        return supported == capability
    return _version(supported[:-1]) <= _version(capability)


def _version(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))


def _check_values(manifest: Manifest) -> None:
    """What types cannot say: ranges, unique names, digests."""
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


def _hold(manifest: Manifest, rules: dict[str, tuple[object, str]]) -> None:
    for name, (holds, expected) in rules.items():
        if not holds:
            raise PlanError(
                f"manifest {name}: expected {expected}, got {_lookup(manifest, name)}; export the plan again"
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


def _agreement_rules(manifest: Manifest) -> dict[str, tuple[object, str]]:
    """What is planned with must be what the graphs were traced with; of the stages that a plan has."""
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
    return rules


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
    return repr(getattr(manifest, field))[:200]
