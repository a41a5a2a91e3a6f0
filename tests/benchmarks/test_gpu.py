"""The script that measures a GPU: what of it a machine without one can do."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.runtime.simulated_gpu import simulated_gpu

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location("gpu", ROOT / "benchmarks" / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_driver_part_passes_on_the_simulated_gpu(script: ModuleType) -> None:
    with simulated_gpu():
        lines = list(script.device(True))
    assert lines
    assert all(line.startswith("ok: ") and "Simulated GPU, ordered copies True, graph True" in line for line in lines)


def test_the_readme_gets_the_section_of_the_card_that_is_there(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{script.BEGIN}\nold\n{script.END}\n\nAfter.\n")
    files = ["--output", str(tmp_path / "gpu.md"), "--readme", str(readme)]
    with simulated_gpu():
        assert script.main(["--small", "--parts", "device", *files]) == 0
    text = readme.read_text()
    assert text.startswith(f"# Title\n\n{script.BEGIN}\nMeasured on Simulated GPU, SM ")
    assert text.endswith(f"\n{script.END}\n\nAfter.\n")
    assert (tmp_path / "gpu.md").read_text().strip() in text
    assert "\nold\n" not in text


def test_a_part_that_breaks_is_told_and_does_not_stop_the_others(script: ModuleType) -> None:
    def broken(small: bool) -> Iterator[str]:
        yield "41 of 42 right"
        raise ValueError("no\nkernel image")

    text, failed = script.section({"kernels": broken, "device": lambda small: ["ok"]}, "a card", small=True)
    assert failed
    assert text.splitlines() == [
        "Measured on a card.", "", "**kernels**", "", "41 of 42 right", "FAILED: ValueError: no kernel image", "",
        "**device**", "", "ok",
    ]  # fmt: skip
    _, failed = script.section({"kernels": lambda small: ["FAILED: case 3; 41 of 42 right"]}, "a card", small=True)
    assert failed


def test_the_section_of_a_document_is_replaced_and_nothing_else(script: ModuleType) -> None:
    first = script.replaced("# Title\n\nText.\n", "one")
    assert first == f"# Title\n\nText.\n\n{script.BEGIN}\none\n{script.END}\n"
    assert script.replaced(first + "After.\n", "two\n") == first.replace("one", "two") + "After.\n"


@pytest.mark.slow
def test_the_parts_that_need_no_gpu_run_from_the_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/gpu.py", "--small", "--parts", "kernels", "reference"]
    result = subprocess.run(
        [*command, "--output", str(tmp_path / "gpu.md")],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    text = (tmp_path / "gpu.md").read_text()
    assert "4 of 4 right by Triton's interpreter" in text
    assert "| edge 64x64 | 4 | float32 |" in text
