"""Plans whose stages come in several shapes over one set of weights."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest

from bsst.errors import PlanError
from bsst.plan.archive import open_plan, write_plan
from bsst.plan.manifest import Shape, StageSpec, Tail, TensorSpec
from bsst.plan.manifest_json import manifest_to_json
from bsst.runtime.estimate import plan_workload
from bsst.runtime.frames.fit import fitting_plan
from bsst.runtime.network.network import DEFAULT_PLAN
from tests.bsst.plan.manifests import MEMBERS, manifest, stage

HEADS: dict[str, Path | bytes] = {"encode_33x200.onnx": b"head of encode ", "flow_33x200.onnx": b"head of flow "}
TAILS = {"flow": b"second", "encode": b"first engine"}


def sized(name: str, size: tuple[int, int]) -> StageSpec:
    frame = TensorSpec(name="frame", dtype="float32", shape=(1, 3, *size))
    return stage(name, member=f"{name}_{size[0]}x{size[1]}.onnx", inputs=(frame,))


def wide(**changes: Any) -> Shape:
    shape = Shape(
        tile=(33, 200),
        flow_size=(33, 64),
        stages=tuple(sized(name, (33, 200)) for name in TAILS),
        tails=tuple(Tail(size=len(data), sha256=hashlib.sha256(data).hexdigest()) for data in TAILS.values()),
    )
    return dataclasses.replace(shape, **changes)


def test_a_stage_in_another_shape_is_its_head_and_the_end_of_the_first_member(tmp_path: Path) -> None:
    write_plan(tmp_path / "a.plan", manifest(shapes=(wide(),)), MEMBERS | HEADS)
    plan = open_plan(tmp_path / "a.plan")
    (shape,) = plan.manifest.shapes
    other = plan.shaped(shape)
    assert plan.member("encode") == MEMBERS["encode.onnx"]
    assert other.member("encode") == b"head of encode first engine"
    assert other.member("flow") == b"head of flow second"
    assert (other.manifest.tile, other.manifest.shapes) == ((33, 200), ())


def test_a_tail_that_is_not_the_end_of_the_member_is_refused_when_it_is_read(tmp_path: Path) -> None:
    tails = tuple(Tail(size=4, sha256="0" * 64) for _ in TAILS)
    write_plan(tmp_path / "a.plan", manifest(shapes=(wide(tails=tails),)), MEMBERS | HEADS)
    plan = open_plan(tmp_path / "a.plan")
    with pytest.raises(PlanError, match="encode_33x200.onnx"):
        plan.shaped(plan.manifest.shapes[0]).member("encode")


@pytest.mark.parametrize(
    "changes",
    [
        {"tile": (65, 127)},
        {"tile": (16, 127)},
        {"stages": (sized("flow", (33, 200)),)},
        {"tails": ()},
        {"tails": (Tail(size=10**6, sha256="0" * 64),) * 2},
    ],
    ids=["the tile of the plan", "no more than the overlap", "a stage too few", "no tails", "a tail beyond its member"],
)
def test_a_shape_that_does_not_fit_the_plan_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    broken = wide(**changes)
    members = MEMBERS | {spec.member: HEADS[spec.member] for spec in broken.stages}
    with pytest.raises(PlanError, match="manifest shapes: expected none, or for ONNX Runtime tiles"):
        write_plan(tmp_path / "a.plan", manifest(shapes=(broken,)), members)


def test_a_shape_whose_stages_have_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"manifest tile: expected the size of stage encode's frames, \(33, 200\)"):
        write_plan(tmp_path / "a.plan", manifest(shapes=(wide(tile=(33, 204)),)), MEMBERS | HEADS)


def test_a_plan_of_one_shape_is_written_as_ever(tmp_path: Path) -> None:
    written = write_plan(tmp_path / "a.plan", manifest(), MEMBERS)
    assert b"shapes" not in manifest_to_json(written)


@pytest.mark.parametrize(
    ("size", "tile", "frames", "most"),
    [
        ((192, 320), (192, 320), 28, 1.3),
        ((256, 256), (256, 256), 10_000, 1.21),
        ((720, 1280), (384, 448), 10_000, 1.35),
        ((1080, 1920), (256, 256), 10_000, 1.71),
        ((64, 64), (192, 320), 12, 15.0),
    ],
    ids=str,
)
def test_a_video_gets_the_tiles_that_compute_the_fewest_pixels_or_nearly_so_and_are_half_as_large(
    tmp_path: Path, size: tuple[int, int], tile: tuple[int, int], frames: int, most: float
) -> None:
    shapes = tuple(
        wide(
            tile=(h, w),
            flow_size=(h, w),
            stages=tuple(sized(name, (h, w)) for name in TAILS),
        )
        for h, w in ((192, 320), (384, 448))
    )
    base = tuple(dataclasses.replace(sized(name, (256, 256)), member=f"{name}.onnx") for name in TAILS)
    several = manifest(
        frames=12, window_overlap=2, tile=(256, 256), flow_size=(256, 256), tile_overlap=32, stages=base, shapes=shapes
    )
    heads: dict[str, Path | bytes] = {spec.member: b"head" for shape in shapes for spec in shape.stages}
    write_plan(tmp_path / "a.plan", several, MEMBERS | heads)
    fitting = fitting_plan(open_plan(tmp_path / "a.plan"), *size).manifest
    assert fitting.tile == tile
    computed = plan_workload(fitting, frames=frames, height=size[0], width=size[1]).computed
    assert computed is not None
    assert 0.9 * most <= computed <= most


@pytest.mark.parametrize(
    ("size", "frames", "most"),
    [((720, 1280), 10_000, 1.5), ((1080, 1920), 10_000, 1.71), ((192, 320), 28, 1.3), ((256, 256), 10_000, 1.21)],
    ids=["720p", "1080p", "demo", "square"],
)
def test_the_packaged_plan_restores_few_pixels_of_a_video_twice(
    size: tuple[int, int], frames: int, most: float
) -> None:
    fitting = fitting_plan(open_plan(DEFAULT_PLAN), *size).manifest
    computed = plan_workload(fitting, frames=frames, height=size[0], width=size[1]).computed
    assert computed is not None
    assert 1 < computed <= most


def test_the_packaged_plan_stays_small_in_all_its_shapes() -> None:
    assert len(open_plan(DEFAULT_PLAN).manifest.shapes) == 2
    assert DEFAULT_PLAN.stat().st_size < 8e6
