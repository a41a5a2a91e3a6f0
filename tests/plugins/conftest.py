"""TensorRT for tests of plugins."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.fakes.install import installed_tensorrt


@pytest.fixture
def tensorrt() -> Iterator[ModuleType]:
    """A stand-in for TensorRT's library under NVIDIA's own `tensorrt.plugin`."""
    if importlib.util.find_spec("tensorrt_bindings") is None:
        pytest.skip("NVIDIA's tensorrt.plugin package is not here: pip install tensorrt-cu13-bindings")
    with installed_tensorrt() as library:
        yield library
