"""Execution providers that are packages of their own beside ONNX Runtime: TensorRT-RTX, WebGPU, OpenVINO, MLX, ...

Such a package is called `onnxruntime_ep_<name>` and tells `get_library_path()` and `get_ep_names()`; nothing else is
asked of it, so those that do not exist yet are found too. A provider is used on a device that it offers itself.
Run here: registration of the packages of OpenVINO 1.8 and WebGPU 0.4, which then offer no device, for want of one, and
of TensorRT-RTX 0.5, which does not load without a driver. WebGPU itself is run as built into `onnxruntime-webgpu`.
Source: https://onnxruntime.ai/docs/execution-providers/plugin-ep-libraries/usage.html
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import, see `ort.py`
import onnxruntime as ort  # noqa: E402

__all__ = ["available_providers", "open_session", "register_plugins"]

_PREFIX = "onnxruntime_ep_"


@cache
def register_plugins() -> dict[str, str]:
    """Make every installed package of a provider known to ONNX Runtime, once in this process.

    Returns:
        Provider -> why it cannot be used here, "" if it can; a package that does not even tell names stands for them.
    """
    found: dict[str, str] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules() if m.name.startswith(_PREFIX)):
        names = [module]
        try:
            package = importlib.import_module(module)
            names = list(package.get_ep_names())
            ort.register_execution_provider_library(names[0], package.get_library_path())
        except Exception as error:  # whatever the package or the library raises, it is theirs
            found |= dict.fromkeys(names, (str(error).splitlines() or [type(error).__name__])[0])
        else:
            offered = {device.ep_name for device in ort.get_ep_devices()}
            found |= {name: "" if name in offered else "finds no device that it can use" for name in names}
    return found


def available_providers() -> tuple[str, ...]:
    """Providers that may compute here: those built in, then those of packages that found a device."""
    plugins = [name for name, problem in register_plugins().items() if not problem]
    return tuple(dict.fromkeys([*ort.get_available_providers(), *plugins]))


def open_session(
    model: bytes, settings: ort.SessionOptions, provider: str, options: Mapping[str, str] | None = None
) -> ort.InferenceSession:
    """A session on one provider; nodes that it does not take run on the CPU.

    Args:
        model: serialized ONNX graph.
        settings: of the session; gets the device of a plug-in.
        provider: built in or of a package.
        options: of the provider.

    Raises:
        Exception: ONNX Runtime's own, which are bare subclasses; also where the provider does not start.
    """
    if provider != "CPUExecutionProvider" and register_plugins().get(provider) == "":
        settings.add_provider_for_devices([_best_device(provider)], dict(options or {}))
        return ort.InferenceSession(model, settings)
    # With a fallback a provider that fails is replaced, with a line on standard output, by the CPU.
    return ort.InferenceSession(model, settings, providers=[(provider, dict(options or {}))], enable_fallback=0)


def _best_device(provider: str) -> Any:
    """A GPU before others, and one with memory of its own before one that shares the CPU's."""
    devices = [device for device in ort.get_ep_devices() if device.ep_name == provider]

    def rank(device: Any) -> tuple[bool, bool]:
        hardware = device.device
        return hardware.type == ort.OrtHardwareDeviceType.GPU, dict(hardware.metadata).get("Discrete") == "1"

    return max(devices, key=rank)
