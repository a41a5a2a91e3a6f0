"""Manifests and members of small plans for tests."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from bsst.config import EDGE
from bsst.plan.archive import Compiler, Manifest, StageSpec, TensorSpec

MEMBERS: dict[str, Path | bytes] = {"encode.onnx": b"first engine" * 7, "flow.onnx": b"\0\xff second"}


def stage(name: str, **changes: Any) -> StageSpec:
    spec = StageSpec(
        name=name,
        member=f"{name}.onnx",
        inputs=(TensorSpec(name="frame", dtype="float32", shape=(1, 3, 65, 127)),),
        outputs=(
            TensorSpec(name="features", dtype="float16", shape=(1, 36, 17, 32)),
            TensorSpec(name="count", dtype="int64", shape=()),
        ),
        precision={"float16": 0.75, "float32": 0.25},
        build={"seconds": 1.5},
    )
    return dataclasses.replace(spec, **changes)


def manifest(**changes: Any) -> Manifest:
    spec = Manifest(
        bsst_version="0.1.0",
        label="edge weights, trained for a test",
        target="cpu",
        config=json.loads(json.dumps(EDGE.to_json())),
        weights_sha256="0123456789abcdef" * 4,
        frames=2,
        tile=(65, 127),
        flow_size=(33, 64),
        tile_overlap=16,
        window_overlap=1,
        precision="fp16",
        compiler=Compiler(name="onnxruntime", version="1.32.0"),
        compute_capabilities=(),
        plugins=(),
        stages=(stage("flow"), stage("encode")),
        parity={"encode": {"psnr_db": 91.25}},
    )
    return dataclasses.replace(spec, **changes)
