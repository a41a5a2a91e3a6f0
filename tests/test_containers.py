"""Dockerfiles, without Docker: linted, and what they copy, install and start exists."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest

from bsst.cli.main import main

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HADOLINT = shutil.which("hadolint", path=sysconfig.get_path("scripts"))


@pytest.fixture(params=["Dockerfile", "Dockerfile.nvidia"])
def dockerfile(request: pytest.FixtureRequest) -> Path:
    return ROOT / str(request.param)


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed here")
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    assert HADOLINT is not None
    result = subprocess.run([HADOLINT, str(dockerfile)], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, "")


def test_an_image_installs_extras_that_exist_and_starts_a_command_that_exists(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    (extras,) = re.findall(r"pip install --no-cache-dir \"?/src(?:\[(.*?)\])?", text)
    assert set(filter(None, extras.split(","))) <= set(PROJECT["optional-dependencies"])
    (program,) = json.loads(re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)[0])
    assert program in PROJECT["scripts"]
    (argument,) = json.loads(re.findall(r"^CMD (.*)$", text, re.MULTILINE)[0])
    assert argument in ("--help", *main.commands)
    (version,) = re.findall(r"^FROM python:(\S+)-slim$", text, re.MULTILINE)
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
    assert re.search(r"^USER \d+$", text, re.MULTILINE), "videos are not written as root"


def test_what_the_package_is_built_from_reaches_the_image() -> None:
    ignored = set((ROOT / ".dockerignore").read_text().split())
    needed = {"bsst", "pyproject.toml", "setup.py", PROJECT["readme"], *PROJECT["license-files"]}
    needed |= {link.resolve().name for link in (ROOT / "bsst").iterdir() if link.is_symlink()}
    assert all((ROOT / name).exists() for name in needed)
    assert not needed & ignored


@pytest.mark.filterwarnings("ignore:'click.utils:DeprecationWarning")
@pytest.mark.skipif(importlib.util.find_spec("click_man") is None, reason="click-man is not installed here")
def test_every_command_has_a_manual_page(tmp_path: Path) -> None:
    from click_man.core import write_man_pages

    write_man_pages("bsst", main, version=PROJECT["version"], target_dir=str(tmp_path))
    assert {path.stem for path in tmp_path.glob("*.1")} == {"bsst", *(f"bsst-{name}" for name in main.commands)}
    assert all(".SH OPTIONS" in (tmp_path / f"bsst-{name}.1").read_text() for name in main.commands)
