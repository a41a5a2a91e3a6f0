"""One ONNX graph run by ONNX Runtime, with any of its inner tensors made visible."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime as ort

from bsst.runtime.devices.base import Array
from bsst.runtime.devices.host import HostSession

__all__ = ["GraphSession"]


class GraphSession(HostSession):
    """A stage for comparisons: copies what comes in and goes out, and casts inputs to the types the graph wants.

    Args:
        model: serialized ONNX graph.
        threads: threads of one call; 0 for all cores.
        optimize: let ONNX Runtime fuse nodes, as in a real run; off when inner tensors are compared node by node.
    """

    def __init__(self, model: bytes, *, threads: int = 0, optimize: bool = True) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._types = {value.name: _DTYPES.get(value.type) for value in self._session.get_inputs()}

    def call(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs by name -> all outputs by name."""
        feeds = {name: array.astype(self._types[name], copy=False) for name, array in inputs.items()}
        names = [value.name for value in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, feeds), strict=True))

    def run(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Run once; see `HostSession.run`."""
        for name, value in self.call(inputs).items():
            np.copyto(outputs[name], value, casting="unsafe")


_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int32)": np.int32,
           "tensor(int64)": np.int64, "tensor(bool)": np.bool_}  # fmt: skip
