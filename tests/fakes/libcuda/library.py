"""Builds `libcuda.so.1` from `libcuda.c` and puts it into this process, before anybody looks for the driver's.

cuda-bindings, pycuda and ctypes find a library that is loaded already by its name, so no search path is changed.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

from .calls import answer

__all__ = ["header", "load_library"]

ANSWER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(ctypes.c_ulonglong))
_answer = ANSWER(answer)  # must outlive the library


def load_library() -> None:
    """Make the simulated GPU the one of this process; skips the test where that cannot be."""
    problem = _load()
    if problem:
        pytest.skip(problem)


def header() -> Path:
    """NVIDIA's cuda.h, which Triton brings; need not exist."""
    spec = importlib.util.find_spec("triton")
    return Path(spec.origin if spec and spec.origin else "none").parent / "backends/nvidia/include/cuda.h"


@cache
def _load() -> str:
    if shutil.which("nvidia-smi") and os.environ.get("BSST_SIMULATED_GPU") != "1":
        return "a real driver is here: BSST_SIMULATED_GPU=1 runs this test, and breaks those that need the GPU"
    if (compiler := shutil.which("cc")) is None or not header().exists():
        return "no C compiler, or no cuda.h (Triton brings one)"
    with tempfile.TemporaryDirectory(prefix="bsst-libcuda-") as folder:
        refused = Path(folder) / "refused.c"
        refused.write_text("".join(f"int {name}(void) {{ return 801; }}\n" for name in _linked_by_pycuda()))
        library = Path(folder) / "libcuda.so.1"
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-Wl,-soname,libcuda.so.1"]
            + ["-o", str(library), "-isystem", str(header().parent), str(SOURCE), str(refused)],
            check=True,
        )
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL).bsst_simulate(_answer)
    return ""


SOURCE = Path(__file__).parent / "libcuda.c"


def _linked_by_pycuda() -> list[str]:
    """Calls that pycuda's extension wants to find and that are not simulated: CUDA_ERROR_NOT_SUPPORTED."""
    spec = importlib.util.find_spec("pycuda")
    if spec is None or spec.origin is None:
        return []
    (extension,) = Path(spec.origin).parent.glob("_driver.*.so")
    symbols = subprocess.run(["nm", "-D", "-u", str(extension)], capture_output=True, text=True, check=True).stdout
    wanted = set(re.findall(r"\bU (cu[A-Z]\w+)$", symbols, re.MULTILINE))
    ours = set(re.findall(r"^(?:CALL\(|CUresult CUDAAPI )(\w+)", SOURCE.read_text(), re.MULTILINE))
    macros = dict(
        re.findall(r"^ *#define (cu\w+)\s+(?:__CUDA_API_\w+\()?(cu\w+_v\d)\)?\s*$", header().read_text(), re.MULTILINE)
    )
    return sorted(wanted - {macros.get(name, name) for name in ours})
