"""Providers that come as packages: found by their name, asked by their two functions, used on the best device."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from bsst.runtime.sessions import plugins_ort
from bsst.runtime.sessions.plugins_ort import available_providers, open_session, register_plugins
from bsst.runtime.sessions.probe import probe_providers, spared_faults
from bsst.runtime.sessions.probe_graphs import EXPECTED, GRID_SAMPLE, grid_sample_inputs


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of packages that Python finds."""
    monkeypatch.syspath_prepend(str(tmp_path))
    register_plugins.cache_clear()
    yield tmp_path
    register_plugins.cache_clear()
    for name in [name for name in sys.modules if name.startswith("onnxruntime_ep_")]:
        del sys.modules[name]


def package(folder: Path, name: str, text: str) -> None:
    (folder / f"onnxruntime_ep_{name}.py").write_text(text)


def device(name: str, kind: Any = None, **metadata: str) -> Any:
    hardware = SimpleNamespace(type=kind or ort.OrtHardwareDeviceType.GPU, metadata=metadata)
    return SimpleNamespace(ep_name=name, device=hardware)


def told(library: Path | str, *names: str) -> str:
    return f"def get_library_path(): return {str(library)!r}\ndef get_ep_names(): return {list(names)!r}\n"


def test_a_package_that_does_not_load_is_named_with_the_reason(packages: Path) -> None:
    (packages / "no.so").write_bytes(b"not a library")
    package(packages, "first", told(packages / "no.so", "FirstExecutionProvider"))
    package(packages, "second", "raise ImportError('no driver')")
    found = {name: reason for name, reason in register_plugins().items() if "irst" in name or "second" in name}
    assert found["onnxruntime_ep_second"] == "no driver"
    assert "Failed to load library" in found["FirstExecutionProvider"]
    problems = probe_providers()
    assert problems["CPUExecutionProvider"] == "", "the others work on"
    assert "Failed to load library" in problems["FirstExecutionProvider"]


def test_a_provider_without_a_device_is_not_offered(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(packages, "empty", told("/lib/empty.so", "EmptyExecutionProvider"))
    registered = []
    monkeypatch.setattr(ort, "register_execution_provider_library", lambda *a: registered.append(a))
    assert register_plugins()["EmptyExecutionProvider"] == "finds no device that it can use"
    assert registered == [("EmptyExecutionProvider", "/lib/empty.so")]
    assert "EmptyExecutionProvider" not in available_providers()
    register_plugins()
    assert len(registered) == 1, "a library is registered once"


def test_the_gpu_with_memory_of_its_own_is_used_and_its_wrong_pixels_are_found(
    packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(packages, "good", told("/lib/good.so", "GoodExecutionProvider"))
    cpu = device("GoodExecutionProvider", ort.OrtHardwareDeviceType.CPU, Discrete="1")
    shared, discrete = device("GoodExecutionProvider"), device("GoodExecutionProvider", Discrete="1")
    monkeypatch.setattr(ort, "register_execution_provider_library", lambda *a: None)
    monkeypatch.setattr(ort, "get_ep_devices", lambda: [cpu, shared, device("OtherExecutionProvider"), discrete])
    used: list[Any] = []

    class Settings(ort.SessionOptions):
        def add_provider_for_devices(self, devices: list[Any], options: dict[str, str]) -> None:
            used.append((devices, options))

    monkeypatch.setattr(ort, "SessionOptions", Settings)
    session = open_session(GRID_SAMPLE, Settings(), "GoodExecutionProvider", {"power": "high"})
    assert used == [([discrete], {"power": "high"})]
    np.testing.assert_allclose(session.run(None, grid_sample_inputs())[0], EXPECTED)
    assert available_providers()[-1] == "GoodExecutionProvider"

    class Wrong:
        """Adds up six channels as WebGPU does: not."""

        def run(self, names: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            (right,) = session_of[0].run(names, inputs)
            return [right + ("w" in inputs and inputs["x"].shape[1] == 6)]

        def get_providers(self) -> list[str]:
            return ["GoodExecutionProvider", "WebGpuExecutionProvider"]

    session_of: list[Any] = []

    def opened(model: bytes, *rest: Any) -> Wrong:
        session_of[:] = [ort.InferenceSession(model, providers=["CPUExecutionProvider"])]
        return Wrong()

    monkeypatch.setattr(plugins_ort, "open_session", opened)
    problem = probe_providers(["GoodExecutionProvider"])["GoodExecutionProvider"]
    assert problem.startswith("Conv of 6 channels gives wrong pixels: expected [3.0, 3.0, -7.0")
    # Plans for WebGPU hold no such convolution: the same fault does not refuse it, but is told.
    monkeypatch.setattr(plugins_ort, "available_providers", lambda: ("WebGpuExecutionProvider",))
    assert probe_providers()["WebGpuExecutionProvider"] == ""
    assert spared_faults("WebGpuExecutionProvider").startswith("Conv of 6 channels gives wrong pixels")
    assert spared_faults("CPUExecutionProvider") == ""
