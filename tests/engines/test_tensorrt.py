"""The TensorRT builder against a strict fake of the library; the library itself is not run here."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import onnx
import pytest

from bsst.engines.builder import BuildOptions, BuiltEngine, StageGraph
from bsst.engines.cache import EngineCache
from bsst.engines.child import ChildResult, run_limited
from bsst.engines.rebuild import rebuild_plan
from bsst.engines.tensorrt import TensorRTBuilder
from bsst.errors import BuildError, MissingDependencyError, ModelError, UsageError
from bsst.plan.archive import Plan, open_plan
from bsst.plugins.registry import plugin_ptx
from bsst.runtime.devices.cuda_driver import Gpu, find_gpus

from .graphs import mostly_half, warp_and_attend, with_unknown_node

STAGE = StageGraph(name="flow", model=warp_and_attend())
ORIN = Gpu(name="Orin", compute_capability="8.7", memory_bytes=1 << 33)


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with TensorRT 10.13 and one GPU of compute capability 8.7."""
    fakes, root = Path(__file__).parents[1] / "fakes", Path(__file__).parents[2]
    others = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{fakes}:{root}:{others}")
    monkeypatch.setenv("BSST_CACHE_DIR", str(tmp_path / "cache"))
    use_version(monkeypatch, "10.13.3.9")
    monkeypatch.setattr("bsst.engines.tensorrt.find_gpus", lambda: (ORIN,))


def use_version(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    monkeypatch.setenv("FAKE_TENSORRT_VERSION", version)


def build(**options: Any) -> dict[str, Any]:
    record = dict(json.loads(TensorRTBuilder().build(STAGE, BuildOptions(**options)).data))
    del record["layers"]
    return record


@pytest.mark.usefixtures("tensorrt")
class TestBuild:
    def test_networks_are_strongly_typed_and_detailed(self) -> None:
        assert build(optimization_level=4) == {
            "flags": 1 << 1,
            "level": 4,
            "hardware": "NONE",
            "verbosity": "DETAILED",
            "cache": None,
            "kernels": [],
        }

    def test_plugins_are_registered_and_compiled_ahead_of_time(self) -> None:
        assert build(plugin_capability=87)["flags"] == (1 << 1) | (1 << 3)

    def test_a_node_that_nobody_knows_is_refused_in_the_words_of_the_parser(self) -> None:
        with pytest.raises(BuildError, match="parser error: No importer registered for op: Mystery"):
            TensorRTBuilder().build(StageGraph(name="odd", model=with_unknown_node()), BuildOptions())

    @pytest.mark.parametrize(
        ("level", "name"), [("ampere+", "AMPERE_PLUS"), ("same-capability", "SAME_COMPUTE_CAPABILITY")]
    )
    def test_hardware_compatibility_is_passed_on(self, level: Any, name: str) -> None:
        assert build(hardware_compatibility=level)["hardware"] == name

    def test_a_level_that_an_old_version_lacks_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        use_version(monkeypatch, "10.3.0.30")
        with pytest.raises(UsageError, match=r"expected TensorRT 10\.9 or later .* got 10\.3\.0\.30; take ampere\+"):
            build(hardware_compatibility="same-capability")
        assert build(hardware_compatibility="ampere+")["hardware"] == "AMPERE_PLUS"

    def test_timings_are_kept_between_builds(self, tmp_path: Path) -> None:
        cache = tmp_path / "timings"
        assert build(timing_cache=cache)["cache"] == ""
        assert build(timing_cache=cache)["cache"] == "+timed"
        assert cache.read_bytes() == b"+timed+timed"

    def test_timings_of_another_gpu_are_dropped(self, tmp_path: Path) -> None:
        cache = tmp_path / "timings"
        cache.write_bytes(b"other gpu")
        assert build(timing_cache=cache)["cache"] == ""

    def test_memory_is_read_from_the_log(self) -> None:
        facts = TensorRTBuilder().build(STAGE, BuildOptions()).facts
        assert (facts["activation_bytes"], facts["weight_bytes"]) == (1048, 77)

    @pytest.mark.parametrize(
        ("version", "spelling"), [("10.13.3.9", ""), ("10.13.3.9", "words"), ("11.4.0.106", ""), ("10.3.0.30", "")]
    )
    def test_the_share_of_half_layers_is_read_from_the_engine(
        self, monkeypatch: pytest.MonkeyPatch, version: str, spelling: str
    ) -> None:
        use_version(monkeypatch, version)
        monkeypatch.setenv("FAKE_TENSORRT_INSPECTOR", spelling)
        facts = TensorRTBuilder().build(StageGraph(name="mixed", model=mostly_half()), BuildOptions()).facts
        assert facts["half_layers"] == 0.6
        assert TensorRTBuilder().build(STAGE, BuildOptions()).facts["half_layers"] == 0

    @pytest.mark.parametrize(
        ("inspector", "reason"),
        [
            ("names", "expected layers with data types"),
            ("garbage", "JSONDecodeError"),
            ("unloadable", "the engine was not loaded"),
        ],
    )
    def test_an_engine_that_cannot_be_inspected_is_built_and_the_log_says_why(
        self, monkeypatch: pytest.MonkeyPatch, inspector: str, reason: str
    ) -> None:
        logs: list[tuple[str, ...]] = []

        def run(*arguments: Any, **options: Any) -> ChildResult:
            result = run_limited(*arguments, **options)
            logs.append(result.lines)
            return result

        monkeypatch.setattr("bsst.engines.compile_stage.run_limited", run)
        monkeypatch.setenv("FAKE_TENSORRT_INSPECTOR", inspector)
        built = TensorRTBuilder().build(STAGE, BuildOptions())
        assert json.loads(built.data)["verbosity"] == "DETAILED"
        assert "half_layers" not in built.facts
        assert built.facts["weight_bytes"] == 77
        (line,) = [line for line in logs[0] if line.startswith("half-precision layers were not counted")]
        assert reason in line

    def test_a_refusal_carries_the_words_of_the_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FAKE_TENSORRT", "refuse")
        with pytest.raises(BuildError, match=r"stage flow: .*10\.13\.3\.9.*Error Code 10: no tactic for node_7"):
            build()

    def test_a_capability_of_another_machine_is_refused(self) -> None:
        assert build(compute_capabilities=("8.7",))
        with pytest.raises(UsageError, match=r"--sm 8\.7.*got 8\.9; use --target tensorrt-rtx"):
            build(compute_capabilities=("8.9",))

    def test_the_manifest_learns_which_gpus_fit(self) -> None:
        builder = TensorRTBuilder()
        assert builder.compute_capabilities(BuildOptions()) == ("8.7",)
        assert builder.compute_capabilities(BuildOptions(hardware_compatibility="ampere+")) == ("8.0+",)


def test_no_gpu_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "10.13.3.9")
    monkeypatch.setattr("bsst.engines.tensorrt.find_gpus", lambda: ())
    with pytest.raises(UsageError, match="use --target tensorrt-rtx, which builds without one"):
        TensorRTBuilder().build(STAGE, BuildOptions())


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(directory=tmp_path / "engines")


@pytest.mark.slow
@pytest.mark.usefixtures("tensorrt", "prepared")
class TestPlan:
    """A plan of target `tensorrt`, from a `cpu` plan."""

    OPERATORS = ("bsst::BsstModulatedDeformConvChannelsLast", "bsst::BsstSparseWindowAttentionFused")

    def plan(self, source: Path, cache: EngineCache, **options: Any) -> tuple[Plan, list[str]]:
        steps: list[str] = []
        output = cache.directory.parent / "engine.plan"
        rebuild_plan(
            source,
            output,
            target="tensorrt",
            precision="fp16",
            options=BuildOptions(**options),
            cache=cache,
            check=False,
            progress=steps.append,
        )
        return open_plan(output), steps

    def test_its_engines_carry_our_kernels(self, three_stages: Path, cache: EngineCache) -> None:
        plan, steps = self.plan(three_stages, cache)
        assert plan.manifest.plugins == self.OPERATORS
        assert plan.manifest.compute_capabilities == ("8.7",)
        assert "custom operators as kernels for SM 87" in steps
        carried: dict[str, list[dict[str, Any]]] = {
            stage.name: json.loads(plan.member(stage.name))["kernels"] for stage in plan.manifest.stages
        }
        assert {name for name, kernels in carried.items() if kernels} == {"propagate_forward_1", "attend"}
        for kernel in (kernel for kernels in carried.values() for kernel in kernels):
            assert ".target sm_87\n" in kernel["ptx"]
            assert kernel["types"][0] == kernel["types"][-1] == "FP16"
        (convolution,) = carried["propagate_forward_1"]
        assert convolution["types"] == ["FP16", "FP32", "FP32", "FP16", "FP16", "FP16"]
        assert convolution["output_shape"] == [1, 16, 32, plan.manifest.config["channels"]]
        for stage in plan.manifest.stages:
            assert stage.precision == {"float16": 1.0}
            types = [kind for _, kind in json.loads(plan.member(stage.name))["layers"]]
            half = types.count(onnx.TensorProto.FLOAT16) / len(types)
            assert stage.build["half_layers"] == round(half, 4) > 0

    def test_the_cache_knows_kernels_and_gpu(
        self, three_stages: Path, cache: EngineCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        built = BuiltEngine(data=b"engine", facts={"half_layers": 0.0})
        monkeypatch.setattr(TensorRTBuilder, "build", lambda self, stage, options: built)
        self.plan(three_stages, cache)
        before = set(cache.directory.glob("*.engine"))
        self.plan(three_stages, cache)
        assert set(cache.directory.glob("*.engine")) == before

        def altered(model: onnx.ModelProto, *, capability: int) -> dict[str, bytes]:
            return {name: ptx + b"// changed" for name, ptx in plugin_ptx(model, capability=capability).items()}

        with monkeypatch.context() as patch:
            patch.setattr("bsst.engines.rebuild.plugin_ptx", altered)
            self.plan(three_stages, cache)
        assert len(set(cache.directory.glob("*.engine")) - before) == 2
        other = dataclasses.replace(ORIN, name="AGX Orin")
        monkeypatch.setattr("bsst.engines.tensorrt.find_gpus", lambda: (other,))
        self.plan(three_stages, cache)
        assert len(set(cache.directory.glob("*.engine")) - before) == 2 + 3

    @pytest.mark.parametrize(
        ("version", "gpu", "options"),
        [
            ("10.3.0.30", "8.7", {}),
            ("11.4.0.106", "7.5", {}),
            ("11.4.0.106", "8.7", {"plugins": False}),
            ("11.4.0.106", "8.7", {"hardware_compatibility": "ampere+"}),
        ],
        ids=["JetPack 6", "GPU without kernels", "--no-plugins", "several GPUs"],
    )
    def test_it_is_plugin_free_where_plugins_cannot_be(
        self,
        three_stages: Path,
        cache: EngineCache,
        monkeypatch: pytest.MonkeyPatch,
        version: str,
        gpu: str,
        options: dict[str, Any],
    ) -> None:
        use_version(monkeypatch, version)
        here = dataclasses.replace(ORIN, compute_capability=gpu)
        monkeypatch.setattr("bsst.engines.tensorrt.find_gpus", lambda: (here,))
        plan, steps = self.plan(three_stages, cache, **options)
        assert plan.manifest.plugins == ()
        assert "custom operators as standard operators" in steps
        for stage in plan.manifest.stages:
            assert json.loads(plan.member(stage.name))["kernels"] == []

    def test_the_broken_version_is_refused_with_the_reason(
        self, three_stages: Path, cache: EngineCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use_version(monkeypatch, "10.14.1.48")
        with pytest.raises(ModelError, match=r"except 10\.14, got 10\.14\.1\.48: Python plugins are broken in 10\.14"):
            self.plan(three_stages, cache)


@pytest.mark.usefixtures("tensorrt")
def test_kernels_without_their_compiler_are_refused_with_both_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"without --no-plugins needs triton.*bsst\[tensorrt\]"):
        TensorRTBuilder().kernel_capability(BuildOptions())
    assert TensorRTBuilder().kernel_capability(BuildOptions(plugins=False)) is None


def test_the_wheel_for_one_version_of_cuda_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """`pip install tensorrt-cu12` brings the package without the distribution `tensorrt`."""
    import importlib.metadata

    def version(name: str) -> str:
        if name != "tensorrt-cu12":
            raise importlib.metadata.PackageNotFoundError(name)
        return "10.16.1.11"

    monkeypatch.setattr("importlib.metadata.version", version)
    assert TensorRTBuilder().compiler().version == "10.16.1.11"


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    with pytest.raises(MissingDependencyError, match=r"pip install 'bsst\[tensorrt\]'"):
        TensorRTBuilder().compiler()


def test_a_machine_without_a_driver_has_no_gpus() -> None:
    assert find_gpus("libno-such-driver.so.1") == ()
