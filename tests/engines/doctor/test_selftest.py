"""The self-test on this machine, and on a machine with the simulated GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bsst.cli import main
from bsst.engines.doctor import measure
from bsst.engines.doctor import selftest as module
from bsst.engines.doctor.checks import Finding
from bsst.engines.doctor.measure import Measurement
from bsst.engines.doctor.report import selftest_report, write_selftest
from bsst.engines.doctor.selftest import TestRun, run_gpu_tests, selftest
from bsst.plan.manifest import NVIDIA_TARGETS
from bsst.runtime.devices.cuda_driver import Gpu
from tests.runtime.simulated_gpu import gpu_plan, simulated_gpu

ADA = Gpu(name="Simulated GPU", compute_capability="8.9", memory_bytes=1 << 30)
FINDING = Finding(subject="bsst", status="ok", found="0.1.0 | Python")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_STAGE_SECONDS", 0.0)
    monkeypatch.setattr(measure, "_CLIPS", 2)


def test_a_machine_without_a_gpu_measures_the_cpu_and_says_what_it_skipped(
    cpu_plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_gpus", lambda: ())
    steps: list[str] = []
    report = tmp_path / "report.md"
    assert write_selftest(report, [FINDING], source=cpu_plan, progress=steps.append)
    text = report.read_text()
    assert "| cpu fp32 | ok | 200.0 |" in text
    assert text.count("skipped: no NVIDIA GPU") == sum(target in NVIDIA_TARGETS for target, _ in module.CANDIDATES)
    assert "| bsst | ok | 0.1.0 \\| Python |" in text
    assert "### cpu fp32" in text
    assert "| propagate_backward_1 | 4 |" in text
    assert text.endswith("Skipped: no NVIDIA GPU.\n")
    assert steps[-1] == "running the tests that need a GPU"


def test_a_gpu_is_compared_and_measured(cpu_plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_gpus", lambda: (ADA,))
    monkeypatch.setattr(module, "CANDIDATES", (("tensorrt", "fp32"), ("tensorrt-rtx", "fp16"), ("ort-cuda", "fp32")))
    monkeypatch.setattr(module, "why_not", lambda target, gpus: "not asked for" if target == "ort-cuda" else "")
    monkeypatch.setenv("BSST_CACHE_DIR", str(tmp_path / "cache"))

    def build(source: Path, folder: Path, target: Any, precision: Any, gpus: Any) -> Path:
        assert gpus == (ADA,)
        return gpu_plan(source, target, folder, user_allocation=True).path

    monkeypatch.setattr(module, "build_plan", build)
    with simulated_gpu():
        results = selftest(tmp_path, source=cpu_plan)
    assert [(r.target, r.skipped, r.failed) for r in results] == [
        ("tensorrt", "", ""),
        ("tensorrt-rtx", "", ""),
        ("ort-cuda", "not asked for", ""),
    ]
    for result in results[:2]:
        assert result.psnr == 200
        assert set(result.stage_ms) == set(result.plain_ms) == set(result.graphs) == set(result.calls)
        assert min(result.one_by_one, result.overlapped, *result.stage_ms.values()) > 0
        assert result.device_bytes > 100_000
        assert all("launched" in use for use in result.graphs.values())
    text = selftest_report([FINDING], results, TestRun(passed=True, output="1 passed"))
    assert "| stage | runs per clip | median ms | median ms without graphs | gain | graphs |" in text
    assert "Passed.\n\n```\n1 passed\n```" in text


def test_a_target_that_breaks_or_gives_other_pixels_has_failed(
    cpu_plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bsst.runtime.metrics import float_psnr

    monkeypatch.setattr(module, "find_gpus", lambda: (ADA,))
    monkeypatch.setattr(module, "CANDIDATES", (("cpu", "fp32"), ("tensorrt", "fp32")))
    monkeypatch.setattr(module, "why_not", lambda target, gpus: "")
    monkeypatch.setattr(measure, "float_psnr", lambda expected, got, peak: float_psnr(expected, got + 0.01, peak))
    with simulated_gpu():
        monkeypatch.setattr(
            module, "build_plan", lambda source, folder, target, *_: source if target == "cpu" else
            gpu_plan(source, target, folder, version="10.3.0").path
        )  # fmt: skip
        cpu, broken = selftest(tmp_path, source=cpu_plan)
    assert cpu.failed == "expected 50.0 dB against the CPU, got 40.0 dB"
    assert "10.3.0" in broken.failed
    text = selftest_report([FINDING], [cpu, broken], TestRun(output="1 failed"))
    assert "| cpu fp32 | FAILED: expected 50.0 dB" in text
    assert "| tensorrt fp32 | FAILED: stage flow_features: expected an engine for tensorrt" in text
    assert "FAILED.\n\n```\n1 failed" in text


def test_graphs_that_compute_something_else_than_plain_runs_have_failed(
    cpu_plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_gpus", lambda: (ADA,))
    monkeypatch.setattr(module, "CANDIDATES", (("tensorrt", "fp32"),))
    monkeypatch.setattr(module, "why_not", lambda target, gpus: "")
    stale = {"restore": {"stale_graphs": True}}
    monkeypatch.setattr(
        module, "build_plan", lambda source, folder, target, *_: gpu_plan(source, target, folder, stages=stale).path
    )
    with simulated_gpu():
        (result,) = selftest(tmp_path, source=cpu_plan)
    assert result.psnr == 200
    assert result.failed.startswith("expected 50.0 dB of CUDA graphs against plain runs, got ")


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    present = {"onnx"}
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: name if name in present else None)
    monkeypatch.setattr(module, "installed_apis", lambda: ())
    assert module.why_not("tensorrt", (ADA,)) == "cuda-bindings, tensorrt not installed"
    assert module.why_not("ort-cuda", (ADA,)) == "cuda-bindings not installed"
    monkeypatch.setattr(module, "installed_apis", lambda: ("pycuda",))
    assert module.why_not("ort-cuda", (ADA,)) == ""
    assert module.why_not("tensorrt", ()) == "no NVIDIA GPU"


def test_targets_that_a_card_cannot_have_are_skipped_with_the_reason(
    cpu_plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = [Gpu(name="H100", compute_capability=c, memory_bytes=1 << 30) for c in ("8.7", "10.0", "10.3", "9.0")]
    for card in cards:
        reason = f"TensorRT-RTX has no compute capability {card.compute_capability}; it has 7.5, 8.0, "
        assert module.why_not("tensorrt-rtx", (card,)).startswith(reason)
    monkeypatch.setattr(module, "find_gpus", lambda: (card,))
    monkeypatch.setattr(module, "CANDIDATES", (("tensorrt-rtx", "fp32"), ("tensorrt-rtx", "fp16")))
    results = selftest(tmp_path, source=cpu_plan)
    assert len(results) == 2
    for result in results:
        assert result.failed == ""
        assert result.skipped.startswith(reason)


def test_gpu_tests_are_run_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_gpu_tests(tmp_path).skipped == "no NVIDIA GPU"
    monkeypatch.setattr(module, "find_gpus", lambda: (ADA,))
    assert "no tests in" in run_gpu_tests(tmp_path / "tests").skipped
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # which take longer to import than it takes to run
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = needs_cuda: here\n")
    tests = tmp_path / "tests"
    tests.mkdir()
    file = tests / "test_it.py"
    for body, passed in (("assert True", True), ("assert False", False)):
        file.write_text(
            f"import pytest\n@pytest.mark.needs_cuda\ndef test_it():\n    {body}\ndef test_other():\n    1/0\n"
        )
        run = run_gpu_tests(tests)
        assert (run.skipped, run.passed) == ("", passed)
        assert "1 deselected" in run.output
    assert "stopped after 0 s" in run_gpu_tests(tests, time_limit_seconds=0).output


def test_the_command_writes_the_report_and_fails_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bsst.engines.doctor.checks.diagnose", lambda: (FINDING,))
    broken = (Measurement(target="tensorrt", precision="fp32", failed="no kernel image"),)
    for results, status in (((), 0), (broken, 1)):
        monkeypatch.setattr("bsst.engines.doctor.report.selftest", lambda folder, results=results, **_: results)
        report = tmp_path / "out.md"
        outcome = CliRunner().invoke(main, ["doctor", "--selftest", "--report", str(report)])
        assert outcome.exit_code == status, outcome.output
        assert str(report) in outcome.output
        assert report.read_text().startswith("# bsst self-test\n")


@pytest.mark.needs_cuda
@pytest.mark.slow
def test_a_real_gpu_passes(tmp_path: Path) -> None:
    results = selftest(tmp_path)
    assert [r.failed for r in results if r.failed] == []
    assert any(r.stage_ms and r.target != "cpu" for r in results), results
