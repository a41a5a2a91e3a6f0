"""Imports go one way, those inside functions included; CONTRIBUTING draws the order."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
RANKS = {"core": 0, "runtime": 1, "plugins": 1, "reference": 2, "export": 3, "calibration": 4, "engines": 5}
RANKS |= {"training": 6, "web": 6, "triton_server": 6, "cli": 7, "vapoursynth": 7, "": 8}
"""`plugins` and `runtime` do not know each other; "" is the package's face, which knows all."""


def room(module: str) -> str:
    part = [*module.split("."), ""][1]
    return part if part in RANKS else "core"


def imported(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def back_edges(module: str, source: str) -> list[str]:
    own = room(module)
    others = [name for name in imported(source) if name.startswith("bsst.") and room(name) != own]
    return [f"{module} -> {name}" for name in others if RANKS[room(name)] >= RANKS[own]]


def test_imports_go_one_way() -> None:
    found = []
    for path in sorted((ROOT / "bsst").glob("*")):
        files = [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))
        for file in files:
            parts = file.relative_to(ROOT).with_suffix("").parts
            face = parts in (("bsst", "__init__"), ("bsst", "__main__"))
            found += back_edges("bsst" if face else ".".join(parts), file.read_text())
    assert found == []


def test_an_import_backwards_is_found_in_a_function_too() -> None:
    source = "import bsst.plan.archive\ndef f():\n    from bsst.engines.builder import Builder\n"
    assert back_edges("bsst.runtime.job", source) == ["bsst.runtime.job -> bsst.engines.builder.Builder"]
    assert back_edges("bsst.engines.rebuild", source) == []
    assert back_edges("bsst.plugins.registry", "from bsst.runtime import job") != []
