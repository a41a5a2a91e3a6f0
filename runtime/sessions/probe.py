"""Which providers of ONNX Runtime really compute: the list of available ones only says how it was compiled.

Source: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html ("Preload DLLs").
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO

import numpy as np
from numpy.typing import NDArray

from bsst.runtime.sessions.probe_graphs import (
    CONV,
    DEFORM_CONV,
    EXPECTED,
    GRID_SAMPLE,
    conv_expected,
    conv_inputs,
    deform_conv_inputs,
    grid_sample_inputs,
)

__all__ = ["plugin_problems", "probe_providers", "spared_faults"]

_REMOTE = ("AzureExecutionProvider",)
"""Passes every probe, since it leaves all nodes to the CPU."""
_SPARED = {"WebGpuExecutionProvider": ("DeformConv", "Conv of 6 channels")}
"""Probes that a provider may fail, because plans for it do without: see `engines/prepare.py`."""


@dataclass(frozen=True, kw_only=True)
class _Probe:
    name: str
    model: bytes
    inputs: Mapping[str, NDArray[np.float32]]
    expected: NDArray[np.float32]


def probe_providers(wanted: Container[str] | None = None) -> dict[str, str]:
    """Run the probe graphs on every provider that is installed, built in or as a package of its own.

    Args:
        wanted: providers to try, besides the CPU; None for all.

    Returns:
        Provider -> what is wrong with it, "" where all pictures are right.
    """
    try:
        import onnxruntime as ort

        from bsst.runtime.sessions.plugins_ort import available_providers
    except ImportError as error:
        return {"CPUExecutionProvider": f"onnxruntime cannot be imported: {error}"}
    offered = [name for name in available_providers() if name not in _REMOTE]
    if "CUDAExecutionProvider" in offered:
        # The loader does not look where `pip install onnxruntime-gpu[cuda,cudnn]` puts CUDA; what it misses is printed.
        with redirect_stdout(StringIO()):
            ort.preload_dlls()
    results = plugin_problems()
    for provider in offered:
        if wanted is None or provider in wanted or provider == "CPUExecutionProvider":
            spared = _SPARED.get(provider, ())
            problems = (_problem(provider, probe) for probe in _probes() if probe.name not in spared)
            results[provider] = next(filter(None, problems), "")
    return results


def plugin_problems() -> dict[str, str]:
    """Providers of installed packages that do not load or find no device -> why."""
    try:
        from bsst.runtime.sessions.plugins_ort import register_plugins
    except ImportError:
        return {}
    return {name: problem for name, problem in register_plugins().items() if problem}


def spared_faults(provider: str) -> str:
    """What a provider computes wrongly that plans for it do without; "" for nothing, or where nothing is spared."""
    spared = _SPARED.get(provider, ())
    return "; ".join(filter(None, (_problem(provider, probe) for probe in _probes() if probe.name in spared)))


def _probes() -> Iterator[_Probe]:
    yield _Probe(name="DeformConv", model=DEFORM_CONV, inputs=deform_conv_inputs(), expected=EXPECTED)
    yield _Probe(name="GridSample", model=GRID_SAMPLE, inputs=grid_sample_inputs(), expected=EXPECTED)
    for channels in (6, 8):
        inputs = conv_inputs(channels)
        yield _Probe(name=f"Conv of {channels} channels", model=CONV, inputs=inputs, expected=conv_expected(inputs))


def _problem(provider: str, probe: _Probe) -> str:
    import onnxruntime as ort

    from bsst.runtime.sessions.plugins_ort import open_session

    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = open_session(probe.model, options, provider)
        (picture,) = session.run(None, dict(probe.inputs))
    except Exception as error:  # ONNX Runtime raises bare subclasses of Exception
        return f"{probe.name}: {(str(error).splitlines() or [type(error).__name__])[0]}"
    if provider not in session.get_providers():
        return "it does not start and falls back to the CPU"
    if not np.allclose(picture, probe.expected, atol=1e-3, rtol=1e-3):
        got, expected = (values.ravel()[:8].tolist() for values in (picture, probe.expected))
        return f"{probe.name} gives wrong pixels: expected {expected}, got {got}"
    return ""
