"""What `bsst doctor --selftest` found, as one Markdown page to post."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import bsst
from bsst.engines.doctor.checks import Finding
from bsst.engines.doctor.measure import Measurement
from bsst.engines.doctor.selftest import TestRun, run_gpu_tests, selftest
from bsst.files import atomic_file
from bsst.runtime.network.network import DEFAULT_PLAN
from bsst.system import processor_name

__all__ = ["selftest_report", "targets_table", "write_selftest"]

TESTS = Path(bsst.__file__).resolve().parents[1] / "tests"


def write_selftest(
    report: Path,
    findings: Iterable[Finding],
    *,
    source: Path = DEFAULT_PLAN,
    tests: Path = TESTS,
    progress: Callable[[str], None] = lambda step: None,
) -> bool:
    """Test this machine and write the report; whether nothing failed.

    Args:
        report: Markdown file to write, replaced atomically.
        findings: of `diagnose`.
        source: plan of target `cpu`.
        tests: folder of the tests.
        progress: told what comes next.

    Raises:
        OutputError: the report cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="bsst-selftest-") as folder:
        results = selftest(Path(folder), source=source, progress=progress)
    progress("running the tests that need a GPU")
    run = run_gpu_tests(tests)
    with atomic_file(report) as file:
        file.write(selftest_report(findings, results, run).encode())
    return not any(result.failed for result in results) and (bool(run.skipped) or run.passed)


def selftest_report(findings: Iterable[Finding], results: Iterable[Measurement], tests: TestRun) -> str:
    """Markdown with everything that was found, run, failed and skipped.

    Args:
        findings: of `diagnose`.
        results: of `selftest`.
        tests: of `run_gpu_tests`.
    """
    results = tuple(results)
    parts = [
        "# bsst self-test",
        f"{platform.platform()}, {processor_name()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "## Machine",
        _table(("what", "status", "found"), [(f.subject, f.status, f.found) for f in findings]),
        *_clocks(),
        "## Targets",
        targets_table(results),
    ]
    parts += ["## Tests that need a GPU", _tests(tests)]
    return "\n\n".join(parts) + "\n"


def targets_table(results: Iterable[Measurement]) -> str:
    """Markdown of what each target did: a summary, then the stages of each."""
    results = tuple(results)
    parts = [
        _table(_SUMMARY, [_summary(result) for result in results]),
        "Parity is the restored clip against ONNX Runtime on the CPU. Overlap is the time per clip with each clip "
        "waited for, over the time with two under way. Predicted is what the plan says, without what the libraries "
        "take for themselves.",
    ]
    return "\n\n".join([*parts, *(_details(result) for result in results if result.stage_ms)])


_SUMMARY = (
    "target",
    "result",
    "parity, dB",
    "s per clip",
    "overlap",
    "device memory",
    "predicted",
    "build, s",
    "load, s",
)


def _summary(result: Measurement) -> tuple[str, ...]:
    name = f"{result.target} {result.precision}"
    if result.skipped:
        return (name, f"skipped: {result.skipped}", *[""] * 7)
    if not result.stage_ms:
        return (name, f"FAILED: {result.failed}", *[""] * 7)
    return (
        name,
        f"FAILED: {result.failed}" if result.failed else "ok",
        f"{result.psnr:.1f}",
        f"{result.overlapped:.4f}",
        f"{result.one_by_one / result.overlapped:.2f}",
        f"{result.device_bytes / 2**20:.0f} MiB" if result.device_bytes else "",
        f"{result.predicted_bytes / 2**20:.0f} MiB" if result.predicted_bytes and result.device_bytes else "",
        f"{result.build_seconds:.1f}",
        f"{result.load_seconds:.2f}",
    )


def _details(result: Measurement) -> str:
    rows = []
    for stage, milliseconds in result.stage_ms.items():
        row = [stage, str(result.calls[stage]), f"{milliseconds:.3f}"]
        if result.plain_ms:
            plain = result.plain_ms[stage]
            row += [f"{plain:.3f}", f"{plain / milliseconds:.2f}", result.graphs.get(stage, "")]
        rows.append(tuple(row))
    header = ["stage", "runs per clip", "median ms"] + (
        ["median ms without graphs", "gain", "graphs"] if result.plain_ms else []
    )
    return f"### {result.target} {result.precision}\n\n{result.line}\n\n{_table(tuple(header), rows)}"


def _clocks() -> list[str]:
    """What nvidia-smi says of clocks, power and temperature after the measurements; [] where there is none."""
    fields = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu"
    try:
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    lines = [tuple(line.split(", ")) for line in result.stdout.splitlines()]
    return [_table(lines[0], lines[1:])] if lines else []


def _tests(tests: TestRun) -> str:
    if tests.skipped:
        return f"Skipped: {tests.skipped}."
    return f"{'Passed' if tests.passed else 'FAILED'}.\n\n```\n{tests.output}\n```"


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(
        "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in line) + " |" for line in lines
    )
