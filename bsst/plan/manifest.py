"""What a plan says about itself, one frozen dataclass per level, and whether a machine can run it.

`bsst.plan.manifest_json` reads and writes it, `bsst.plan.rules` checks it field by field. It is the only thing that the
runtime reads before it decides whether this machine can run the plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from bsst.errors import PlanError
from bsst.text import shortened

__all__ = [
    "COMPILED_TARGETS",
    "NVIDIA_TARGETS",
    "FORMAT_VERSION",
    "GRID",
    "Compiler",
    "DType",
    "Manifest",
    "Precision",
    "Shape",
    "StageSpec",
    "Tail",
    "Target",
    "TensorSpec",
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
NVIDIA_TARGETS: frozenset[Target] = COMPILED_TARGETS | {"ort-cuda", "ort-tensorrt"}
"""Targets whose tensors lie in a GPU's memory, on streams of CUDA; those of the others lie in the host's."""
Precision = Literal["fp32", "fp16", "bf16", "int8"]
GRID = 4
"""Flow is at 1/4 scale: everything a tile is cut at must be a multiple of this."""


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
            f"expected a stage {name!r} in the plan, got {shortened(', '.join(s.name for s in self.stages))}; "
            "the plan is for another network: export it again"
        )


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
    again = "on a fitting machine, or make a fitting plan: bsst export --from CPU_PLAN"
    if targets is not None and manifest.target not in (accepted := sorted(targets)):
        raise PlanError(
            f"expected a plan for {' or '.join(accepted)}, got target {manifest.target}; "
            f"run it {again} --target {accepted[0] if accepted else 'cpu'}"
        )
    version = manifest.compiler.version
    if compiler_version is not None and manifest.compiled and version != compiler_version:
        raise PlanError(
            f"expected an engine built by {shortened(manifest.compiler.name)} {compiler_version} (installed here), got "
            f"{shortened(version)}; install that version, or make a fitting plan: bsst export --from CPU_PLAN "
            f"--target {manifest.target}"
        )
    supported = manifest.compute_capabilities
    if compute_capability is not None and supported and not any(_covers(s, compute_capability) for s in supported):
        raise PlanError(
            f"expected an engine for compute capability {compute_capability} (this GPU), got "
            f"{shortened(', '.join(supported))}; "
            f"run it {again} --target {manifest.target} --sm {compute_capability.replace('.', '')}"
        )


def member_suffix(target: Target) -> str:
    """Suffix of the file of a stage in a plan of this target."""
    return ".engine" if target in COMPILED_TARGETS else ".onnx"


def _covers(supported: str, capability: str) -> bool:
    if not supported.endswith("+"):
        return supported == capability
    return _version(supported[:-1]) <= _version(capability)


def _version(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))
