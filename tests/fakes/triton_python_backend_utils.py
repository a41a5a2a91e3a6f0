"""What a Python backend lends its models, as strict as its documentation, with the stub of server 2.51 under NumPy 2.

Written from the README of triton-inference-server/python_backend. That stub garbles what goes through NumPy, which was
seen on a live server; here that fails.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

__all__ = [
    "InferenceRequest",
    "InferenceResponse",
    "Logger",
    "Tensor",
    "TritonError",
    "TritonModelException",
    "get_input_tensor_by_name",
]


class TritonModelException(Exception):  # noqa: N818 - its name there
    pass


class TritonError:
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        assert isinstance(message, str)
        assert message
        assert code in range(8)
        self.message, self.code = message, code


class Tensor:
    def __init__(self, name: str, array: np.ndarray) -> None:
        raise AssertionError(f"tensor {name} would arrive empty under NumPy {np.__version__}; use from_dlpack")

    @classmethod
    def from_dlpack(cls, name: str, exporter: Any) -> Tensor:
        """Shares memory with the exporter, which must be contiguous."""
        assert exporter.__dlpack_device__() == (1, 0)
        tensor = cls.__new__(cls)
        tensor.held, tensor._name = np.from_dlpack(exporter), name
        assert tensor.held.flags.c_contiguous, "DLPack tensor is not contiguous"
        return tensor

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        raise AssertionError(f"tensor {self._name} would be garbled under NumPy {np.__version__}; use DLPack")

    def __dlpack__(self, **options: Any) -> Any:
        return self.held.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.held.__dlpack_device__()


class InferenceRequest:
    def __init__(self, tensors: list[Tensor], *, cancelled_after: int | None = None) -> None:
        self._tensors, self._looks, self._cancelled_after = tensors, 0, cancelled_after

    def inputs(self) -> list[Tensor]:
        return self._tensors

    def is_cancelled(self) -> bool:
        self._looks += 1
        return self._cancelled_after is not None and self._looks > self._cancelled_after


class InferenceResponse:
    def __init__(self, output_tensors: list[Tensor] | None = None, error: TritonError | None = None) -> None:
        output_tensors = output_tensors or []
        assert all(isinstance(tensor, Tensor) for tensor in output_tensors)
        assert error is None or isinstance(error, TritonError)
        assert bool(output_tensors) != (error is not None)
        self._tensors, self._error = output_tensors, error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error


class Logger:
    lines: ClassVar[list[str]] = []

    @classmethod
    def log_info(cls, message: str) -> None:
        assert isinstance(message, str)
        cls.lines.append(message)


def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor | None:
    return next((tensor for tensor in request.inputs() if tensor.name() == name), None)
