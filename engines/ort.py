"""Builder of the ONNX Runtime targets: the engine is the graph itself, proved to load.

Graphs are stored as they are and optimised when a session is made. Measured with 1.32 on the ten stages of `edge`:
all sessions together load in 0.31 s from the plain graphs and in 0.18 s from graphs that were optimised offline
(extended level), and run equally fast; but offline optimisation puts in operators of domain `com.microsoft`, which no
other target can be built from, and the last level even depends on the CPU that ran it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from bsst.engines.builder import BuildOptions, BuiltEngine, StageGraph, installed_compiler
from bsst.engines.compile_stage import compile_stage
from bsst.plan.manifest import Compiler, Precision, Target
from bsst.plan.strict_json import parse_json

__all__ = ["OrtBuilder"]

_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-webgpu")


@dataclass(frozen=True, kw_only=True)
class OrtBuilder:
    """ONNX Runtime, on any of its devices; graphs are proved on the CPU."""

    target: Target = "cpu"
    """Target of the plans it builds for."""

    def compiler(self) -> Compiler:
        """Version of the installed package.

        Raises:
            MissingDependencyError: it is not installed.
        """
        return installed_compiler("onnxruntime", _DISTRIBUTIONS, extra="gpu", feature=f"target {self.target}")

    def fitted(self, options: BuildOptions, precision: Precision) -> BuildOptions:
        """The same options: graphs are for any device; see `Builder.fitted`."""
        self.compiler()
        return options

    def build(self, stage: StageGraph, options: BuildOptions) -> BuiltEngine:
        """Load the graph in a child process.

        Raises:
            BuildError: ONNX Runtime refused it, crashed, or hit a limit.
        """
        compiler = f"ONNX Runtime {self.compiler().version}"
        return compile_stage(stage, options, module="bsst.engines.ort", request={}, compiler=compiler)


def _load(request: dict[str, str]) -> None:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    model = Path(request["model"]).read_bytes()
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    Path(request["engine"]).write_bytes(model)


if __name__ == "__main__":
    _load(parse_json(Path(sys.argv[1]).read_bytes(), sys.argv[1]))
