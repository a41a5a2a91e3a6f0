"""Builds with the real TensorRT-RTX compiler, on the CPU."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest

from bsst.engines.builder import BuildOptions, StageGraph
from bsst.engines.tensorrt_rtx import TensorRTRTXBuilder
from bsst.errors import BuildError, MissingDependencyError, UsageError

from .graphs import warp_and_attend, with_unknown_node


def build(model: bytes, tmp_path: Path, *capabilities: str, **options: float) -> tuple[bytes, dict[str, float]]:
    built = TensorRTRTXBuilder().build(
        StageGraph(name="warp", model=model),
        BuildOptions(compute_capabilities=capabilities, work_directory=tmp_path, **options),  # type: ignore[arg-type]
    )
    return built.data, dict(built.facts)


@pytest.mark.needs_rtx
@pytest.mark.parametrize("capabilities", [("8.6",), ("8.0", "8.9", "12.0")], ids=str)
def test_an_engine_is_built_with_no_gpu_and_its_memory_is_known(tmp_path: Path, capabilities: tuple[str, ...]) -> None:
    data, facts = build(warp_and_attend(), tmp_path, *capabilities)
    assert data.startswith(b"vtrt")
    weights = 4 * (8 * 8 * 9 + 8 + 56 + 56 * 56)
    assert weights <= facts["weight_bytes"] < 2 * weights
    assert facts["activation_bytes"] >= 4 * 45 * 56
    assert facts["seconds"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.needs_rtx
def test_progress_rises_to_the_end(tmp_path: Path) -> None:
    seen: list[float] = []
    options = BuildOptions(compute_capabilities=("8.9",), progress=lambda phase, fraction: seen.append(fraction))
    TensorRTRTXBuilder().build(StageGraph(name="warp", model=warp_and_attend()), options)
    assert len(seen) > 10
    assert seen == sorted(seen)
    assert 0 <= seen[0] < 0.1
    assert 0.8 < seen[-1] <= 1


@pytest.mark.needs_rtx
@pytest.mark.parametrize(
    ("model", "words"),
    [(with_unknown_node(), "Mystery"), (b"not a model", "[Pp]arse"), (b"", "at least one output")],
    ids=["unknown node", "noise", "empty"],
)
def test_a_refusal_names_the_stage_and_keeps_the_graph(tmp_path: Path, model: bytes, words: str) -> None:
    with pytest.raises(BuildError, match=r"stage warp: expected TensorRT-RTX .*, got ") as refusal:
        build(model, tmp_path, "8.9")
    assert str(tmp_path / "warp") in str(refusal.value)
    assert (tmp_path / "warp" / "model.onnx").read_bytes() == model
    assert re.search(words, (tmp_path / "warp" / "build.log").read_text())


@pytest.mark.needs_rtx
def test_the_time_limit_holds(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"time limit of 0\.01 s"):
        build(warp_and_attend(), tmp_path, "8.9", time_limit_seconds=0.01)


@pytest.mark.needs_rtx
def test_the_memory_limit_holds(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="memory limit"):
        build(warp_and_attend(), tmp_path, "8.9", memory_limit_bytes=1 << 20)


@pytest.mark.needs_rtx
@pytest.mark.parametrize("capabilities", [(), ("9.0",), ("sm_89",), ("7.5", "8.6")], ids=str)
def test_compute_capabilities_it_cannot_build_for_are_refused(tmp_path: Path, capabilities: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="--sm"):
        build(warp_and_attend(), tmp_path, *capabilities)


@pytest.mark.needs_rtx
def test_the_wheel_for_one_version_of_cuda_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """`pip install tensorrt-rtx-cu13` brings the package without the distribution `tensorrt-rtx`."""
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "tensorrt-rtx":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr("importlib.metadata.version", version)
    assert TensorRTRTXBuilder().compiler().version == real("tensorrt-rtx-cu13")


def test_a_missing_wheel_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    with pytest.raises(MissingDependencyError, match=r"pip install 'bsst\[tensorrt-rtx\]'"):
        TensorRTRTXBuilder().compiler()
