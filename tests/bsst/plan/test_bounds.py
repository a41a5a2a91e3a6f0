"""Manifests that agree with their own hashes and yet are impossible: refused before anything is planned."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from bsst.errors import PlanError
from bsst.plan.manifest import Manifest, TensorSpec
from bsst.plan.manifest_json import content_key, manifest_from_json
from bsst.plan.strict_json import canonical_json
from tests.bsst.plan.manifests import manifest, stage
from tests.runtime.fake_stages import fake_manifest


def forged(changed: Manifest) -> bytes:
    stages = tuple(dataclasses.replace(stage, sha256="0" * 64, size=1) for stage in changed.stages)
    changed = dataclasses.replace(changed, stages=stages)
    values = dataclasses.asdict(changed) | {"content_key": content_key(changed)}
    return canonical_json({name: value for name, value in values.items() if name != "float32" or value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 2**31}, "frames: expected 1 to 1024"),
        ({"tile": (4, 4), "tile_overlap": 0}, "tile: expected the size of stage encode's frames"),
        ({"flow_size": (2**20, 64)}, "flow_size: expected sides"),
        ({"label": "\x1b[2J"}, "label: expected printable text"),
        ({"label": "x" * 501}, "label: expected a short printable line"),
        ({"window_overlap": 10**400}, "expected an integer|not readable|integer string"),
    ],
)
def test_a_forged_manifest_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message) as error:
        manifest_from_json(forged(manifest(**changes)), "manifest")
    assert str(error.value).isprintable()


def test_what_is_fed_to_a_stage_has_the_shape_that_it_takes() -> None:
    """Of every tensor that the host or another flow stage fills or reads; the wiring checks the others."""
    fitting = dataclasses.replace(fake_manifest(4, ("backward_1", "forward_1")), flow_size=(12, 8))
    manifest_from_json(forged(fitting), "manifest")
    checked = set()
    for place, spec in enumerate(fitting.stages):
        for kind in ("inputs", "outputs"):
            for index, tensor in enumerate(tensors := getattr(spec, kind)):
                if spec.name not in ("refine", "flow", "flow_features") and tensor.name not in ("frame", "sharp"):
                    continue
                if spec.name == "refine" and kind == "outputs":
                    continue
                wider = dataclasses.replace(tensor, shape=(*tensor.shape[:-1], 128))
                changed = dataclasses.replace(spec, **{kind: (*tensors[:index], wider, *tensors[index + 1 :])})
                stages = (*fitting.stages[:place], changed, *fitting.stages[place + 1 :])
                with pytest.raises(PlanError, match="expected .*128") as error:
                    manifest_from_json(forged(dataclasses.replace(fitting, stages=stages)), "manifest")
                assert error.value.exit_code == 5
                assert str(error.value).isprintable()
                checked.add((spec.name, tensor.name))
    assert {("refine", "backward"), ("refine", "forward"), ("flow", "hidden_b"), ("restore", "sharp")} <= checked


LONG = "x" * 5000


def long_tensor(values: Manifest) -> Manifest:
    changed = stage("flow", inputs=(TensorSpec(name=LONG, dtype="float32", shape=(1,) * 3000),))
    return dataclasses.replace(values, stages=(changed, *values.stages[1:]))


@pytest.mark.parametrize(
    "change",
    [
        long_tensor,
        lambda values: dataclasses.replace(values, stages=(stage(LONG),)),
        lambda values: dataclasses.replace(values, stages=tuple(stage(f"propagate_{i}") for i in range(2000))),
        lambda values: dataclasses.replace(values, config={"branches": [LONG]}, label=LONG),
        lambda values: dataclasses.replace(values, target=LONG),
        lambda values: dataclasses.replace(values, compute_capabilities=(LONG,)),
        lambda values: dataclasses.replace(values, stages=(stage("encode", precision={LONG: LONG}),)),
    ],
)
def test_an_error_quotes_the_beginning_of_what_is_long(change: Callable[[Manifest], Manifest]) -> None:
    with pytest.raises(PlanError) as error:
        manifest_from_json(forged(change(manifest())), "manifest")
    assert len(str(error.value)) < 900
