"""Put the stand-in for TensorRT in front of this process and of the processes it starts."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

__all__ = ["PLUGIN_PACKAGES", "installed_tensorrt", "play"]

FAKES = Path(__file__).parent
PLUGIN_PACKAGES = [
    pytest.param(
        "nvidia",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("tensorrt_bindings") is None,
            reason="NVIDIA's tensorrt.plugin package is not here: pip install tensorrt-cu13-bindings",
        ),
    ),
    "strict",
]
"""NVIDIA's own `tensorrt.plugin`, and a stand-in that is as strict; both on a stand-in for the library."""


@contextmanager
def installed_tensorrt(package: str | None = None, *, version: str = "11.4.0.106") -> Iterator[ModuleType]:
    """`import tensorrt` gives the stand-in, with nothing registered; `package` None: NVIDIA's where it is installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FAKES)
        patch.setenv("PYTHONPATH", f"{FAKES}:{FAKES.parents[1]}")
        patch.setenv("FAKE_TENSORRT_VERSION", version)
        if package is not None:
            patch.setenv("FAKE_TENSORRT_PLUGIN", package)
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
    for name in [
        name for name in sys.modules if name.split(".")[0] == "tensorrt" or name == "tests.fakes.strict_plugin"
    ]:
        del sys.modules[name]
