"""The TensorRT builder against a strict fake of the library; the library itself is not run here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bsst.engines.builder import BuildOptions, StageGraph
from bsst.engines.cuda_driver import Gpu, find_gpus
from bsst.engines.tensorrt_trt import TensorRTBuilder, check_tensorrt_version
from bsst.errors import BuildError, MissingDependencyError, ModelError, UsageError

STAGE = StageGraph(name="flow", model=b"onnx")


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with TensorRT 10.13 and one GPU of compute capability 8.7."""
    fakes, root = Path(__file__).parent / "fakes", Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{fakes}:{root}")
    monkeypatch.setenv("BSST_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("importlib.metadata.version", lambda name: "10.13.3.9")
    gpu = Gpu(name="Orin", compute_capability="8.7", memory_bytes=1 << 33)
    monkeypatch.setattr("bsst.engines.tensorrt_trt.find_gpus", lambda: (gpu,))


def build(**options: Any) -> dict[str, Any]:
    return dict(json.loads(TensorRTBuilder().build(STAGE, BuildOptions(**options)).data))


@pytest.mark.usefixtures("tensorrt")
class TestBuild:
    def test_networks_are_strongly_typed_and_detailed(self) -> None:
        assert build(optimization_level=4) == {
            "flags": 1 << 1,
            "level": 4,
            "hardware": "NONE",
            "verbosity": "DETAILED",
            "cache": None,
        }

    def test_plugins_are_imported_and_compiled_ahead_of_time(self) -> None:
        assert build(plugin_modules=("json",))["flags"] == (1 << 1) | (1 << 3)

    @pytest.mark.parametrize(
        ("level", "name"), [("ampere+", "AMPERE_PLUS"), ("same-capability", "SAME_COMPUTE_CAPABILITY")]
    )
    def test_hardware_compatibility_is_passed_on(self, level: Any, name: str) -> None:
        assert build(hardware_compatibility=level)["hardware"] == name

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
    monkeypatch.setattr("bsst.engines.tensorrt_trt.find_gpus", lambda: ())
    with pytest.raises(UsageError, match="use --target tensorrt-rtx, which builds without one"):
        TensorRTBuilder().build(STAGE, BuildOptions())


@pytest.mark.parametrize("version", ["10.3.0", "10.9.0.34", "10.13.3", "10.15.1", "11.4.1"])
def test_versions_that_work_pass(version: str) -> None:
    check_tensorrt_version(version, plugins=False)


@pytest.mark.parametrize(
    ("version", "plugins"), [("8.6.1", False), ("10.2.0", False), ("10.14.1.48", False), ("10.8.0", True)]
)
def test_versions_that_fail_are_refused(version: str, plugins: bool) -> None:
    with pytest.raises(ModelError, match=rf"except 10\.14, got {version}"):
        check_tensorrt_version(version, plugins=plugins)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    with pytest.raises(MissingDependencyError, match=r"pip install 'bsst\[tensorrt\]'"):
        TensorRTBuilder().compiler()


def test_a_machine_without_a_driver_has_no_gpus() -> None:
    assert find_gpus("libno-such-driver.so.1") == ()
