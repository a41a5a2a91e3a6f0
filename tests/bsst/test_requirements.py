"""A release of a package breaks no fresh install unseen: the build machine installs the newest one, or it is barred."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

PROJECT: dict[str, Any] = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
INSTALLED = ("dev", "docs", "vapoursynth")
"""Extras that `.ci/run` installs anew."""


def required(extra: str) -> list[Requirement]:
    found = []
    for line in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(line)
        found += [r for e in requirement.extras for r in required(e)] if requirement.name == "bsst" else [requirement]
    return found


def bounded(requirement: Requirement) -> bool:
    return any(specifier.operator in ("<", "<=", "==", "~=") for specifier in requirement.specifier)


@pytest.mark.parametrize("extra", sorted(set(PROJECT["optional-dependencies"]) - set(INSTALLED)))
def test_what_the_build_machine_does_not_install_has_an_upper_bound(extra: str) -> None:
    installed = {requirement.name for name in INSTALLED for requirement in required(name)}
    assert [str(r) for r in required(extra) if r.name not in installed and not bounded(r)] == []


def test_what_everybody_installs_has_an_upper_bound() -> None:
    assert [line for line in PROJECT["dependencies"] if not bounded(Requirement(line))] == []


def test_pythons_that_are_promised_are_those_that_the_readme_names() -> None:
    promised = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert f"Python {', '.join(promised[:-1])} or {promised[-1]}" in readme
    assert PROJECT["requires-python"] == f">={promised[0]}"
