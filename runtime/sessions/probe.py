"""Which providers of ONNX Runtime really compute: the list of available ones only says how it was compiled.

Source: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html ("Preload DLLs").
"""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO

import numpy as np

from bsst.runtime.sessions.probe_graphs import (
    DEFORM_CONV,
    EXPECTED,
    GRID_SAMPLE,
    deform_conv_inputs,
    grid_sample_inputs,
)

__all__ = ["probe_providers"]

PROVIDERS = (
    "CPUExecutionProvider",
    "CUDAExecutionProvider",
    "TensorrtExecutionProvider",
    "NvTensorRTRTXExecutionProvider",
)
"""Those that a target of bsst uses."""


def probe_providers() -> dict[str, str]:
    """Run both probe graphs on every provider that this build offers.

    Returns:
        Provider -> what is wrong with it, "" where both pictures are right.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        return {PROVIDERS[0]: f"onnxruntime cannot be imported: {error}"}
    offered = ort.get_available_providers()
    if "CUDAExecutionProvider" in offered:
        # The loader does not look where `pip install onnxruntime-gpu[cuda,cudnn]` puts CUDA; what it misses is printed.
        with redirect_stdout(StringIO()):
            ort.preload_dlls()
    return {provider: _problem(provider) for provider in PROVIDERS if provider in offered}


def _problem(provider: str) -> str:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    for name, model, inputs in (
        ("DeformConv", DEFORM_CONV, deform_conv_inputs()),
        ("GridSample", GRID_SAMPLE, grid_sample_inputs()),
    ):
        try:
            # Without a fallback the library's reason comes here; with one it is printed, and the CPU takes over.
            session = ort.InferenceSession(model, options, providers=[provider], enable_fallback=0)
            (picture,) = session.run(None, inputs)
        except Exception as error:  # ONNX Runtime raises bare subclasses of Exception
            return f"{name}: {(str(error).splitlines() or [type(error).__name__])[0]}"
        if provider not in session.get_providers():
            return "it does not start and falls back to the CPU"
        if not np.allclose(picture, EXPECTED, atol=1e-3):
            return f"{name} gives wrong pixels: expected {EXPECTED.ravel().tolist()}, got {picture.ravel().tolist()}"
    return ""
