"""Ahead-of-time compilation of a Triton kernel to PTX that TensorRT can launch, without a GPU.

TensorRT passes exactly inputs, integers and outputs, so the two scratch pointers that Triton appends are removed (and
the build fails if one is used). The PTX carries no file names or line numbers, so equal sources give equal bytes, and
states the oldest ISA version that the driver must know: 8.2 (CUDA 12.2), and 8.7 (CUDA 12.8) for SM 100 and later.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bsst.errors import ExportError

__all__ = ["SHARED_LIMIT_BYTES", "CompiledKernel", "compile_kernel"]

SHARED_LIMIT_BYTES = 48 * 1024
"""What every GPU gives a block without opting in, which TensorRT's launcher is not known to do."""
_POINTER_ALIGNMENT = 16


@dataclass(frozen=True, kw_only=True)
class CompiledKernel:
    """A kernel in the form that an engine carries."""

    entry: str
    """Name of the entry point."""
    ptx: str
    threads: int
    """Threads of a block, along x."""
    shared_bytes: int
    """Dynamic shared memory of a block."""


def compile_kernel(
    function: Any,
    *,
    arguments: Mapping[str, str],
    constants: Mapping[str, Any],
    capability: int,
    warps: int,
    stages: int,
) -> CompiledKernel:
    """Compile one kernel for one compute capability.

    Args:
        function: the `triton.jit` function.
        arguments: Triton types of the runtime arguments, in order; pointers are promised to be 16-byte aligned.
        constants: compile-time arguments.
        capability: compute capability times ten, as in 89.
        warps: warps of a block.
        stages: steps of a loop in flight.

    Raises:
        ExportError: the kernel needs scratch memory, more shared memory than every GPU has, or other arguments.
    """
    signature = {**arguments, **dict.fromkeys(constants, "constexpr")}
    pointers = [index for index, kind in enumerate(arguments.values()) if kind.startswith("*")]
    source = ASTSource(
        fn=function,
        signature=signature,
        constexprs=dict(constants),
        # Without this promise Triton loads element by element and copies nothing asynchronously.
        attrs={(index,): [["tt.divisibility", _POINTER_ALIGNMENT]] for index in pointers},
    )
    options = {
        "num_warps": warps,
        "num_stages": stages,
        "ptx_version": 87 if capability >= 100 else 82,
        "enable_fp_fusion": True,
    }
    with triton.knobs.compilation.scope():
        triton.knobs.compilation.disable_line_info = True
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    metadata = compiled.metadata
    if metadata.shared >= SHARED_LIMIT_BYTES:
        raise ExportError(
            f"expected {metadata.name} to use less than {SHARED_LIMIT_BYTES} bytes of shared memory, "
            f"got {metadata.shared} for SM {capability}; lower the block sizes or the stages of its geometry"
        )
    if metadata.global_scratch_size or metadata.profile_scratch_size:
        raise ExportError(f"expected {metadata.name} to need no scratch memory, which TensorRT does not provide")
    return CompiledKernel(
        entry=metadata.name,
        ptx=_without_scratch(compiled.asm["ptx"], metadata.name, len(arguments)),
        threads=warps * 32,
        shared_bytes=metadata.shared,
    )


def _without_scratch(ptx: str, entry: str, arguments: int) -> str:
    """Remove the last two parameters of the entry point, which nothing may read."""
    parameters = re.findall(rf"^\s*\.param [^\n]*\b{entry}_param_\d+,?$", ptx, re.MULTILINE)
    scratch = [f"{entry}_param_{index}" for index in (arguments, arguments + 1)]
    if len(parameters) != arguments + 2 or any(len(re.findall(rf"\b{name}\b", ptx)) != 1 for name in scratch):
        raise ExportError(
            f"expected {entry} with {arguments} parameters and two unused scratch pointers, got {len(parameters)}; "
            "this version of Triton passes other arguments: use one from 3.8 to 3.9"
        )
    kept, removed = parameters[:arguments], parameters[arguments:]
    for line in removed:
        ptx = ptx.replace(line + "\n", "")
    return ptx.replace(kept[-1], kept[-1].rstrip(","))
