"""What ptxas says of a kernel, and the sizes at which the released network uses its kernels."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import triton.backends.nvidia

from bsst.plugins.modulated_deform_conv.geometry import Geometry as ConvolutionGeometry
from bsst.plugins.sparse_window_attention.geometry import Geometry as AttentionGeometry

CONVOLUTION = ConvolutionGeometry(
    channels=384,
    outputs=192,
    kernel_shape=(3, 3),
    strides=(1, 1),
    pads=(1, 1),
    dilations=(1, 1),
    groups=1,
    offset_groups=16,
)
ATTENTION = AttentionGeometry(heads=4, head_channels=128, window=8, pooled=64, group_frames=12, expandable_groups=1)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What ptxas reports about a kernel: compiled, not run."""

    registers: int
    spill_bytes: int


def assemble(ptx: str, capability: int) -> Resources:
    """Assemble PTX with the ptxas that Triton brings and read its resource report.

    Raises:
        ValueError: ptxas refuses the PTX.
    """
    target = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)
    name = target[1] if target else f"sm_{capability}"
    program = "ptxas-blackwell" if capability >= 100 else "ptxas"
    ptxas = Path(triton.backends.nvidia.__file__).parent / "bin" / program
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.ptx"
        file.write_text(ptx)
        command = [str(ptxas), "-v", "--gpu-name", name, str(file), "-o", os.devnull]
        report = subprocess.run(command, capture_output=True, text=True, check=False)
    registers = re.search(r"Used (\d+) registers", report.stderr)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report.stderr)
    if report.returncode or not registers or not spills:
        raise ValueError(f"expected PTX that assembles for {name}, got: {report.stderr.strip()}")
    return Resources(registers=int(registers[1]), spill_bytes=int(spills[1]) + int(spills[2]))
