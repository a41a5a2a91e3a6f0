"""Put the stand-in for TensorRT in front of this process and of the processes it starts."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

__all__ = ["installed_tensorrt", "play"]

FAKES = Path(__file__).parent


@contextmanager
def installed_tensorrt(*, version: str = "11.4.0.106") -> Iterator[ModuleType]:
    """`import tensorrt` gives the stand-in, with nothing registered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FAKES)
        patch.setenv("PYTHONPATH", f"{FAKES}:{FAKES.parents[1]}")
        patch.setenv("FAKE_TENSORRT_VERSION", version)
        _forget()
        try:
            yield importlib.import_module("tensorrt")
        finally:
            _forget()


def play(plugin_id: str, inputs: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """Ask one registered plugin what TensorRT's builder asks."""
    result: dict[str, Any] = importlib.import_module("tensorrt.graph").play(plugin_id, inputs, fields)
    return result


def _forget() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorrt"]:
        del sys.modules[name]
