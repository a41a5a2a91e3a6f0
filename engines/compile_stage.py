"""Compile one stage in a child process and turn whatever happens there into an engine or one clear error.

The child is `python -m MODULE REQUEST`, where REQUEST is a JSON file with the paths `model` and `engine` and the
options. It writes the engine, prints its log, and prints progress as lines `@progress <fraction> <phase>`
and figures as lines `@fact <name> <number>`.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bsst.engines.builder import BuildOptions, BuiltEngine, StageGraph
from bsst.engines.child import ChildResult, run_limited
from bsst.errors import BuildError
from bsst.files import atomic_file, cache_directory
from bsst.plan.strict_json import canonical_json

__all__ = ["FACT", "PROGRESS", "compile_stage"]

FACT = "@fact"
PROGRESS = "@progress"

_MEMORY = {
    "activation_bytes": re.compile(r"Total Activation Memory: (\d+)"),
    "weight_bytes": re.compile(r"Total Weights Memory: (\d+)"),
}
_ERROR = re.compile(r"error|terminate called|what\(\):|exception", re.IGNORECASE)


def compile_stage(
    stage: StageGraph, options: BuildOptions, *, module: str, request: Mapping[str, Any], compiler: str
) -> BuiltEngine:
    """Run the child and collect its engine.

    Args:
        stage: graph to compile.
        options: limits, progress and where failures are kept.
        module: module whose `__main__` compiles.
        request: what the child needs besides the two paths; plain JSON.
        compiler: name and version for messages.

    Raises:
        BuildError: naming the stage, the compiler's own words, and where the graph and the log were kept.
    """
    with tempfile.TemporaryDirectory(prefix="bsst-build-") as temporary:
        model, engine, order = (Path(temporary) / name for name in ("model.onnx", "engine", "request.json"))
        model.write_bytes(stage.model)
        order.write_bytes(canonical_json({**request, "model": str(model), "engine": str(engine)}))
        result = run_limited(
            [sys.executable, "-m", module, str(order)],
            time_limit_seconds=options.time_limit_seconds,
            memory_limit_bytes=options.memory_limit_bytes,
            on_line=lambda line: _report(line, options),
        )
        if result.failure is not None or not engine.exists() or engine.stat().st_size == 0:
            raise _error(stage, options, result, compiler)
        data = engine.read_bytes()
    return BuiltEngine(data=data, facts=_facts(result))


def _report(line: str, options: BuildOptions) -> None:
    if options.progress is not None and line.startswith(PROGRESS):
        _, fraction, phase = line.split(" ", 2)
        options.progress(phase, float(fraction))


def _facts(result: ChildResult) -> dict[str, float]:
    log = "\n".join(result.lines)
    facts = {"seconds": round(result.seconds, 3), "peak_host_bytes": float(result.peak_bytes)}
    for name, pattern in _MEMORY.items():
        # A network split into several parts states one figure each; they are alive together.
        if found := pattern.findall(log):
            facts[name] = float(sum(map(int, found)))
    for line in result.lines:
        if line.startswith(FACT):
            _, name, value = line.split()
            facts[name] = float(value)
    return facts


def _error(stage: StageGraph, options: BuildOptions, result: ChildResult, compiler: str) -> BuildError:
    keep = (options.work_directory or cache_directory() / "failed") / stage.name
    keep.mkdir(parents=True, exist_ok=True)
    log = [line for line in result.lines if not line.startswith(PROGRESS)]
    with atomic_file(keep / "model.onnx") as file:
        file.write(stage.model)
    with atomic_file(keep / "build.log") as file:
        file.write("\n".join(log).encode())
    words = ([line for line in log if _ERROR.search(line)] or log[-1:] or ["nothing was printed"])[-1].strip()
    return BuildError(
        f"stage {stage.name}: expected {compiler} to build it, got {result.failure or 'no engine'}: {words}; "
        f"the graph and the whole log are kept in {keep}"
    )
