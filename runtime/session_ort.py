"""Sessions of ONNX Runtime, bound to caller-owned arrays: nothing is copied and nothing allocated per call."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import onnxruntime as ort

from bsst.errors import ModelError, OutOfMemoryError
from bsst.runtime.session import Array

__all__ = ["OrtSession"]


class OrtSession:
    """One stage on the CPU.

    Args:
        name: stage name, for messages.
        model: serialized ONNX graph.
        threads: threads that one call may use.

    Raises:
        ModelError: ONNX Runtime refuses the graph.
    """

    def __init__(self, name: str, model: bytes, *, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Stages run one after another: a pool that spins after its own call slows down the next stage's.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        _share_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
        self._name = name
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises bare subclasses of Exception
            raise ModelError(
                f"stage {name}: expected a graph for ONNX Runtime {ort.__version__}, got {_first_line(error)}; "
                "export the plan again with this version"
            ) from error

    def run(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Run the stage once; see `Session.run`."""
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # see above
            reason = _first_line(error)
            if "alloc" in reason.lower():
                raise OutOfMemoryError(
                    f"stage {self._name}: expected enough memory, got {reason}; use a smaller tile"
                ) from error
            raise ModelError(f"stage {self._name}: expected a result, got {reason}") from error


@cache
def _share_arena() -> None:
    """One memory arena for all sessions of the process: only one stage runs at a time, so each reuses the others'."""
    info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(info, ort.OrtArenaCfg(0, -1, -1, -1))  # library defaults


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
