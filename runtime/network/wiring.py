"""How the stages of a plan work together on one clip: which stage reads and writes what, in which order.

The wiring is data. The same list of calls runs on ONNX Runtime, on PyTorch modules (its parity test) and on any other
kind of session; buffers, streams and memory plans are derived from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bsst.errors import PlanError
from bsst.plan.manifest import Manifest, StageSpec, TensorSpec
from bsst.text import shortened

__all__ = ["FLOW_STAGES", "Call", "View", "calls_of", "clip_calls", "clip_tensors"]

FLOW_STAGES = ("flow_features", "flow")
"""Stages that run outside clips: once per frame, and once per pair of frames."""


@dataclass(frozen=True)
class View:
    """A tensor of the clip, or the slice of one frame."""

    tensor: str
    """Name of the tensor."""
    frame: int | None = None
    """Frame t means `tensor[t : t + 1]`; None means the whole tensor."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One run of one stage."""

    stage: str
    """Stage name."""
    inputs: Mapping[str, View]
    """Stage input -> what it reads."""
    outputs: Mapping[str, View]
    """Stage output -> what it writes."""


def clip_calls(manifest: Manifest) -> tuple[Call, ...]:
    """Every call that turns the tensors `frames`, `backward` and `forward` of a clip into `sharp`, in order."""
    still = manifest.config.get("still_motion")
    return calls_of(tuple(manifest.config["branches"]), manifest.frames, moving=still is not None)


def calls_of(branches: tuple[str, ...], frames: int, *, moving: bool = False) -> tuple[Call, ...]:
    """`clip_calls` of a network.

    Args:
        branches: propagation branches in run order, `NetworkConfig.branches`.
        frames: T.
        moving: `restore` reads where frames move, see `NetworkConfig.still_motion`.
    """
    return tuple(_calls(branches, frames, ("moving",) if moving else ()))


def clip_tensors(manifest: Manifest) -> dict[str, TensorSpec]:
    """Shape and dtype of every tensor that the calls of a clip name, `zero_state` (all zeros) included.

    Raises:
        PlanError: two stages disagree on a tensor, or a stage is missing.
    """
    stages = {stage.name: stage for stage in manifest.stages}
    tensors: dict[str, TensorSpec] = {}
    for call in clip_calls(manifest):
        if call.stage not in stages:
            raise PlanError(f"expected a stage {call.stage} in the plan, got {shortened(sorted(stages))}; "
                            "export the plan again")  # fmt: skip
        for views, specs in ((call.inputs, stages[call.stage].inputs), (call.outputs, stages[call.stage].outputs)):
            _check_names(stages[call.stage], views, specs)
            for spec in specs:
                view = views[spec.name]
                shape = spec.shape if view.frame is None else (manifest.frames, *spec.shape[1:])
                tensor = TensorSpec(name=view.tensor, dtype=spec.dtype, shape=shape)
                if tensors.setdefault(view.tensor, tensor) != tensor:
                    raise PlanError(
                        f"stage {call.stage}: expected {spec.name} like {shortened(tensors[view.tensor])}, "
                        f"got {shortened(tensor)}; export the plan again"
                    )
    return tensors


def _check_names(stage: StageSpec, views: Mapping[str, View], specs: tuple[TensorSpec, ...]) -> None:
    names = {spec.name for spec in specs}
    if names != set(views):
        raise PlanError(
            f"stage {stage.name}: expected tensors {sorted(views)}, got {shortened(sorted(names))}; "
            "the plan was made by another version of bsst: export it again"
        )


def _calls(branches: tuple[str, ...], frames: int, moving: tuple[str, ...]) -> Iterator[Call]:
    def same(*names: str) -> dict[str, View]:
        return {name: View(name) for name in names}

    for t in range(frames):
        yield Call(
            stage="encode",
            inputs={"frame": View("frames", t)},
            outputs={name: View(name, t) for name in ("full", "half", "quarter")},
        )
    yield Call(
        stage="refine",
        inputs=same("backward", "forward"),
        outputs=same("motion_backward", "motion_forward", "query_frames", "key_frames", "active", *moving),
    )
    known = ["quarter"]
    for branch in branches:
        direction = branch.split("_")[0]
        order = list(range(frames)) if direction == "forward" else list(range(frames))[::-1]
        zero = View("zero_state")
        for step, t in enumerate(order):
            yield Call(
                stage=f"propagate_{branch}",
                inputs={
                    "state1": View(branch, order[step - 1]) if step > 0 else zero,
                    "state2": View(branch, order[step - 2]) if step > 1 else zero,
                    "motion": View(f"motion_{direction}", t),
                    **{f"feature_{index}": View(name, t) for index, name in enumerate(known)},
                },
                outputs={"state": View(branch, t)},
            )
        known.append(branch)
    yield Call(
        stage="fuse",
        inputs={f"feature_{index}": View(name) for index, name in enumerate(known)},
        outputs=same("reconstruction"),
    )
    yield Call(
        stage="attend",
        inputs=same("reconstruction", "query_frames", "key_frames", "active"),
        outputs=same("attended"),
    )
    yield Call(stage="decode", inputs=same("reconstruction", "attended", "half"), outputs=same("decoded"))
    for t in range(frames):
        yield Call(
            stage="restore",
            inputs={
                "decoded": View("decoded", t),
                "full": View("full", t),
                "frame": View("frames", t),
                **{name: View(name, t) for name in moving},
            },
            outputs={"sharp": View("sharp", t)},
        )
