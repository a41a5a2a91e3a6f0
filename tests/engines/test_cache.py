from __future__ import annotations

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bsst.engines.builder import BuildOptions, BuiltEngine, StageGraph, build_key, build_stage
from bsst.engines.cache import EngineCache
from bsst.files import cache_directory
from bsst.plan.manifest import Compiler

KEY = "ab" * 32


class FakeBuilder:
    """Counts its builds; the engine is the model reversed."""

    def __init__(self, *, target: Any = "tensorrt-rtx", version: str = "1.7.1") -> None:
        self.target = target
        self.version = version
        self.builds = 0

    def compiler(self) -> Compiler:
        return Compiler(name="fake", version=self.version)

    def build(self, stage: StageGraph, options: BuildOptions) -> BuiltEngine:
        self.builds += 1
        return BuiltEngine(data=stage.model[::-1], facts={"seconds": 2.5})


STAGE = StageGraph(name="encode", model=b"model bytes")
OPTIONS = BuildOptions(compute_capabilities=("8.6", "8.9"))


def test_the_second_build_comes_from_the_cache(tmp_path: Path) -> None:
    builder, cache = FakeBuilder(), EngineCache(directory=tmp_path / "new" / "cache")
    first = build_stage(builder, STAGE, OPTIONS, cache=cache)
    second = build_stage(builder, STAGE, OPTIONS, cache=cache)
    assert (first[1], second[1], builder.builds) == (False, True, 1)
    assert first[0] == second[0] == BuiltEngine(data=b"setyb ledom", facts={"seconds": 2.5})


def test_without_a_cache_every_build_builds(tmp_path: Path) -> None:
    builder = FakeBuilder()
    for _ in range(2):
        assert build_stage(builder, STAGE, OPTIONS, cache=None)[1] is False
    assert builder.builds == 2


KEYED: list[dict[str, Any]] = [
    {"compute_capabilities": ("8.6",)},
    {"compute_capabilities": ()},
    {"device": "Orin"},
    {"optimization_level": 5},
    {"hardware_compatibility": "ampere+"},
    {"plugin_ptx": {"bsst::X": b"ptx"}},
    {"plugin_ptx": {"bsst::X": b"ptx2"}},
    {"plugin_ptx": {"bsst::Y": b"ptx"}},
    {"plugin_capability": 87},
]
NOT_KEYED: list[dict[str, Any]] = [
    {"time_limit_seconds": 1.0},
    {"memory_limit_bytes": 1},
    {"work_directory": Path("/elsewhere")},
    {"timing_cache": Path("/elsewhere")},
    {"progress": print},
    {"plugins": False},  # the graph and its kernels are in the key
    {"compute_capabilities": ("8.9", "8.6")},
]


def test_everything_that_changes_the_engine_changes_the_key() -> None:
    builder = FakeBuilder()
    keys = [build_key(builder, STAGE, dataclasses.replace(OPTIONS, **change)) for change in [{}, *KEYED]]
    keys.append(build_key(builder, dataclasses.replace(STAGE, model=b"model bytez"), OPTIONS))
    keys.append(build_key(FakeBuilder(version="1.7.1.1"), STAGE, OPTIONS))
    keys.append(build_key(FakeBuilder(target="tensorrt"), STAGE, OPTIONS))
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("change", NOT_KEYED, ids=lambda change: next(iter(change)))
def test_what_does_not_change_the_engine_does_not_change_the_key(change: dict[str, Any]) -> None:
    builder = FakeBuilder()
    assert build_key(builder, STAGE, dataclasses.replace(OPTIONS, **change)) == build_key(builder, STAGE, OPTIONS)


def test_every_option_is_known_to_be_keyed_or_not() -> None:
    tested = {name for change in KEYED + NOT_KEYED for name in change}
    assert tested == {field.name for field in dataclasses.fields(BuildOptions)}


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "no engine", "no record", "record noise", "other key"])
def test_a_damaged_entry_is_built_again(tmp_path: Path, damage: str) -> None:
    builder, cache = FakeBuilder(), EngineCache(directory=tmp_path)
    expected, _ = build_stage(builder, STAGE, OPTIONS, cache=cache)
    engine, record = next(tmp_path.glob("*.engine")), next(tmp_path.glob("*.json"))
    if damage == "truncate":
        engine.write_bytes(engine.read_bytes()[:-1])
    elif damage == "flip":
        engine.write_bytes(b"S" + engine.read_bytes()[1:])
    elif damage == "empty":
        engine.write_bytes(b"")
    elif damage == "no engine":
        engine.unlink()
    elif damage == "no record":
        record.unlink()
    elif damage == "record noise":
        record.write_bytes(b'{"key": 3')
    else:
        record.write_text(record.read_text().replace(engine.stem, KEY))
    assert build_stage(builder, STAGE, OPTIONS, cache=cache) == (expected, False)
    assert build_stage(builder, STAGE, OPTIONS, cache=cache) == (expected, True)
    assert builder.builds == 2


def test_a_cache_that_cannot_be_written_still_gives_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with caplog.at_level(logging.WARNING, "bsst.engines"):
        built, _ = build_stage(FakeBuilder(), STAGE, OPTIONS, cache=EngineCache(directory=tmp_path))
    assert built.data == b"setyb ledom"
    assert "not cached" in caplog.text
    assert not list(tmp_path.glob("*.engine")) + list(tmp_path.glob(".*.partial"))


def test_the_directory_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BSST_CACHE_DIR", str(tmp_path))
    assert cache_directory() == tmp_path
    monkeypatch.delenv("BSST_CACHE_DIR")
    assert cache_directory().name == "bsst"


BUILDING_PROCESS = """
import sys, time
from pathlib import Path
from bsst.engines.builder import BuildOptions, BuiltEngine, StageGraph, build_stage
from bsst.engines.cache import EngineCache
from bsst.plan.manifest import Compiler

class Slow:
    target = "tensorrt-rtx"
    def compiler(self):
        return Compiler(name="fake", version="1")
    def build(self, stage, options):
        print("building", flush=True)
        time.sleep(float(sys.argv[2]))
        return BuiltEngine(data=bytes(3_000_000), facts={})

cache = EngineCache(directory=Path(sys.argv[1]))
built, cached = build_stage(Slow(), StageGraph(name="s", model=b"m"), BuildOptions(), cache=cache)
print("cached" if cached else "built", len(built.data), flush=True)
"""


def start(directory: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILDING_PROCESS, str(directory), str(seconds)], stdout=subprocess.PIPE, text=True
    )


def test_two_processes_do_the_work_once(tmp_path: Path) -> None:
    with start(tmp_path, 1.0) as first, start(tmp_path, 1.0) as second:
        outputs = sorted(process.communicate(timeout=60)[0] for process in (first, second))
    assert outputs == ["building\nbuilt 3000000\n", "cached 3000000\n"]


def test_a_killed_builder_leaves_neither_a_lock_nor_half_an_engine(tmp_path: Path) -> None:
    with start(tmp_path, 600.0) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "building\n"
        with start(tmp_path, 0.0) as waiting:
            time.sleep(0.5)
            assert waiting.poll() is None
            os.kill(victim.pid, signal.SIGKILL)
            assert waiting.communicate(timeout=60)[0] == "building\nbuilt 3000000\n"
