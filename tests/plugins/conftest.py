"""TensorRT for tests of plugins."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.fakes.install import PLUGIN_PACKAGES, installed_tensorrt


@pytest.fixture(params=PLUGIN_PACKAGES)
def tensorrt(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """A stand-in for TensorRT's library under NVIDIA's `tensorrt.plugin`, and under one that is as strict."""
    with installed_tensorrt(request.param) as library:
        yield library
