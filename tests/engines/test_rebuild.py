from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bsst.engines.builder import BuildOptions, BuiltEngine, StageGraph
from bsst.engines.cache import EngineCache
from bsst.engines.rebuild import rebuild_plan
from bsst.engines.targets import TARGETS
from bsst.errors import BuildError, ExportError, PlanError, UsageError
from bsst.plan.archive import open_plan, require, write_plan
from bsst.plan.manifest import Compiler, Manifest, Precision, StageSpec, TensorSpec
from tests.bsst.plan.manifests import manifest as example_manifest

from .graphs import warp_and_attend

pytestmark = pytest.mark.usefixtures("prepared")

RTX = BuildOptions(compute_capabilities=("8.9", "12.0", "8.6"))
TWO = BuildOptions(compute_capabilities=("12.0", "8.9"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> EngineCache:
    return EngineCache(directory=tmp_path_factory.mktemp("cache"))


@pytest.mark.needs_rtx
@pytest.mark.slow
def test_every_stage_of_edge_builds_in_half_precision_with_no_gpu(
    cpu_plan: Path, tmp_path: Path, cache: EngineCache
) -> None:
    output = tmp_path / "rtx.plan"
    steps: list[str] = []
    manifest = rebuild_plan(
        cpu_plan, output, target="tensorrt-rtx", precision="fp16", options=TWO, cache=cache, progress=steps.append
    )
    source, plan = open_plan(cpu_plan), open_plan(output)
    assert plan.manifest == manifest
    assert [stage.name for stage in manifest.stages] == [stage.name for stage in source.manifest.stages]
    for stage in manifest.stages:
        assert plan.member(stage.name).startswith(b"vtrt")
        assert stage.precision == {"float16": 1.0}
        assert stage.build["activation_bytes"] > 0
        assert stage.build["weight_bytes"] > 0
    assert manifest.compute_capabilities == ("8.9", "12.0")
    assert manifest.compiler.name == "tensorrt-rtx"
    assert manifest.parity["fp16"]["clip"] >= 50
    assert manifest.weights_sha256 == source.manifest.weights_sha256
    assert sum(step.startswith("building") for step in steps) == len(manifest.stages)
    require(manifest, targets=["tensorrt-rtx"], compiler_version=manifest.compiler.version, compute_capability="8.9")
    with pytest.raises(PlanError, match="9.0"):
        require(manifest, compute_capability="9.0")


@pytest.mark.needs_rtx
@pytest.mark.nightly
def test_every_stage_of_edge_builds_in_single_precision(cpu_plan: Path, tmp_path: Path, cache: EngineCache) -> None:
    manifest = rebuild_plan(cpu_plan, tmp_path / "a.plan", target="tensorrt-rtx", options=TWO, cache=cache)
    assert {tuple(stage.precision) for stage in manifest.stages} == {("float32",)}
    assert "fp16" not in manifest.parity


WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "triton"):
            raise ImportError(name + " is not installed")

sys.meta_path.insert(0, NoTorch())
from bsst.cli import export
export.main(sys.argv[1:], standalone_mode=False)
assert not {"torch", "triton"} & set(sys.modules)
print("rebuilt")
"""
JETPACK = """
import importlib.metadata
from bsst.runtime.devices import cuda_driver
packages = importlib.metadata.version
importlib.metadata.version = lambda name: "10.3.0.30" if name == "tensorrt" else packages(name)
cuda_driver.find_gpus = lambda: (cuda_driver.Gpu(name="Orin", compute_capability="8.7", memory_bytes=1 << 33),)
"""


def rebuild_without_torch(setup: str, *arguments: object) -> None:
    """`bsst export ARGUMENTS` in a process that cannot import torch."""
    command = [sys.executable, "-c", setup + WITHOUT_TORCH, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("rebuilt\n")


@pytest.mark.slow
def test_a_device_without_torch_rebuilds_a_plan_in_half_precision(three_stages: Path, tmp_path: Path) -> None:
    output = tmp_path / "half.plan"
    rebuild_without_torch(
        "", "--from", three_stages, "--fp16", "--keep-float32", "--no-check", "--no-cache", "-o", output
    )
    plan, source = open_plan(output), open_plan(three_stages)
    assert plan.manifest.precision == "fp16"
    assert plan.fallback is not None
    for stage in source.manifest.stages:
        assert plan.fallback.member(stage.name) == source.member(stage.name) != plan.member(stage.name)


@pytest.mark.slow
def test_a_device_with_jetpack_6_builds_its_engines_without_torch(
    three_stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, root = tmp_path / "engine.plan", Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{root / 'tests' / 'fakes'}:{root}")
    rebuild_without_torch(
        JETPACK, "--from", three_stages, "--target", "tensorrt", "--fp16", "--no-check", "--no-cache", "-o", output
    )
    manifest = open_plan(output).manifest
    assert (manifest.target, manifest.compiler.version, manifest.plugins) == ("tensorrt", "10.3.0.30", ())
    assert manifest.compute_capabilities == ("8.7",)


@pytest.fixture(scope="module")
def tiny_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stages that no network wires together, to build but not to run."""
    stages = [
        StageSpec(name=name, member=f"{name}.onnx", inputs=(), outputs=(SPEC,), precision={}, build={})
        for name in ("warp", "again")
    ]
    path = tmp_path_factory.mktemp("plans") / "tiny.plan"
    members: dict[str, Path | bytes] = {s.member: warp_and_attend(seed) for seed, s in enumerate(stages)}
    write_plan(path, example_manifest(stages=tuple(stages), precision="fp32"), members)
    return path


SPEC = TensorSpec(name="y", dtype="float32", shape=(1, 8, 15, 21))


@dataclasses.dataclass
class FakeBuilder:
    target: Any = "tensorrt-rtx"
    fail_at: str = ""
    built: list[str] = dataclasses.field(default_factory=list)

    def compiler(self) -> Compiler:
        return Compiler(name="fake", version="1.0")

    def fitted(self, options: BuildOptions, precision: Precision) -> BuildOptions:
        return options

    def build(self, stage: StageGraph, options: BuildOptions) -> BuiltEngine:
        if stage.name == self.fail_at:
            raise BuildError(f"stage {stage.name}: no")
        self.built.append(stage.name)
        return BuiltEngine(data=b"engine of " + stage.name.encode(), facts={"seconds": 1.0})


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeBuilder:
    builder = FakeBuilder()
    monkeypatch.setattr("bsst.engines.targets.builder_for", lambda target: builder)
    return builder


def test_a_failed_stage_leaves_no_plan_and_keeps_what_was_built(
    tiny_plan: Path, tmp_path: Path, fake: FakeBuilder
) -> None:
    cache, output = EngineCache(directory=tmp_path / "cache"), tmp_path / "out" / "a.plan"
    output.parent.mkdir()
    fake.fail_at = "again"
    with pytest.raises(BuildError, match="stage again"):
        rebuild_plan(tiny_plan, output, target="tensorrt-rtx", options=RTX, cache=cache)
    assert list(output.parent.iterdir()) == []
    fake.fail_at = ""
    rebuild_plan(tiny_plan, output, target="tensorrt-rtx", options=RTX, cache=cache)
    assert len(fake.built) == len(set(fake.built)) == len(open_plan(output).manifest.stages)


def test_a_plan_without_onnx_or_in_half_precision_is_no_source(
    tiny_plan: Path, tmp_path: Path, fake: FakeBuilder
) -> None:
    engines, half = tmp_path / "engines.plan", tmp_path / "half.plan"
    rebuild_plan(tiny_plan, engines, target="tensorrt-rtx", options=RTX)
    with pytest.raises(PlanError, match="expected a plan for cpu, got target tensorrt-rtx"):
        rebuild_plan(engines, tmp_path / "a.plan", target="tensorrt-rtx", options=RTX)
    relabel(tiny_plan, half, precision="fp16")
    with pytest.raises(UsageError, match="source plan in fp32, got fp16"):
        rebuild_plan(half, tmp_path / "a.plan", target="tensorrt-rtx", options=RTX)


def relabel(source: Path, output: Path, **changes: Any) -> Manifest:
    plan = open_plan(source)
    members: dict[str, Path | bytes] = {s.member: plan.member(s.name) for s in plan.manifest.stages}
    return write_plan(output, dataclasses.replace(plan.manifest, **changes), members)


@pytest.mark.slow
def test_half_precision_that_costs_too_much_is_refused(
    cpu_plan: Path, tmp_path: Path, fake: FakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bsst.engines.rebuild.MINIMUM_FP16_PSNR", 1000.0)
    with pytest.raises(ExportError, match=r"within 1000\.0 dB of float32 on a clip, got \d+\.\d dB"):
        rebuild_plan(cpu_plan, tmp_path / "a.plan", target="tensorrt-rtx", precision="fp16", options=RTX)
    assert fake.built == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "cpu", "options": RTX}, "expected --sm with --target tensorrt or tensorrt-rtx only"),
        (
            {"target": "ort-cuda", "options": BuildOptions(optimization_level=5)},
            "--optimization-level with --target tensorrt or tensorrt-rtx only, got --target ort-cuda",
        ),
        (
            {"target": "tensorrt-rtx", "options": BuildOptions(hardware_compatibility="ampere+")},
            "--hardware-compatibility with --target tensorrt only, got --target tensorrt-rtx",
        ),
        (
            {"target": "tensorrt-rtx", "options": BuildOptions(timing_cache=Path("timings"))},
            "--timing-cache with --target tensorrt only",
        ),
        ({"target": "cpu", "options": BuildOptions(plugins=False)}, "--no-plugins with --target tensorrt only"),
        (
            {"target": "tensorrt-rtx", "options": BuildOptions(compute_capabilities=("7.5",))},
            "expected --fp16 with --sm 75",
        ),
        ({"target": "tensorrt-rtx", "precision": "int8"}, "expected fp32, fp16 or bf16 for what is not int8, got int8"),
        ({"target": "cpu", "precision": "bf16"}, "--bf16 with --target tensorrt or tensorrt-rtx, got cpu"),
        ({"target": "ort-cuda", "precision": "bf16"}, "ONNX Runtime has no convolution in bfloat16"),
        (
            {"target": "tensorrt-rtx", "precision": "bf16", "options": BuildOptions(compute_capabilities=("7.5",))},
            "--bf16 with --sm 80 or later, got 7.5",
        ),
        (
            {"target": "tpu"},
            f"expected --target {', '.join(TARGETS)}, got tpu",
        ),
    ],
)
def test_requests_that_do_not_fit_are_refused_first(tmp_path: Path, arguments: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rebuild_plan(tmp_path / "missing.plan", tmp_path / "a.plan", **arguments)
