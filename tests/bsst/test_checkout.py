"""A checkout without symbolic links, as git makes on Windows and Python's zipfile anywhere, says so at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def without_links(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "bsst", tmp_path / "bsst", symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    links = [path for path in (tmp_path / "bsst").iterdir() if path.is_symlink()]
    assert len(links) >= 7
    for link in links:
        target = os.readlink(link)
        link.unlink()
        link.write_text(target)
    return tmp_path


@pytest.mark.parametrize("command", [["-c", "import bsst"], ["setup.py", "--name"]])
def test_a_checkout_without_links_is_refused_in_one_sentence(without_links: Path, command: list[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(without_links)}
    done = subprocess.run(
        [sys.executable, *command], cwd=without_links, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "expected links to folders in" in last
    assert "runtime" in last
    assert "git clone -c core.symlinks=true" in last
