"""Resources and rooflines of the GPU kernels, and times of the CPU lowerings, at the sizes of the released network.

    python benchmarks/kernels.py          # GPU kernels: compiled, not run
    python benchmarks/kernels.py --cpu    # CPU lowerings: measured here, one thread

Nothing is printed unless every kernel and lowering first agrees with its reference. A roofline is the larger of
arithmetic / peak and bytes / bandwidth, with each tensor moved once: a bound that no run can beat, not a measurement.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import onnxruntime
import torch

from bsst.plugins import registry
from bsst.plugins.modulated_deform_conv import triton_kernel as convolution
from bsst.plugins.sparse_window_attention import triton_kernel as attention
from bsst.plugins.triton_compile import CompiledKernel

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.plugins.cases import ATTENTION_CASES, CASES, CONVOLUTION_CASES, Case
from tests.plugins.node_model import node_model
from tests.plugins.ptxas import ATTENTION, CONVOLUTION, assemble

FRAMES, TOKENS, POSITIONS = 48, 32 * 32, 64 * 64


@dataclass(frozen=True)
class Gpu:
    """Peaks of one product, dense, float32 accumulation, from its data sheet."""

    name: str
    fp16_tflops: float
    tf32_tflops: float
    gigabytes_per_second: float


GPUS = {
    80: Gpu("A100 40 GB", 312, 156, 1555),
    86: Gpu("RTX 3090", 71, 35.6, 936),
    87: Gpu("AGX Orin 64 GB", 42.5, 21.2, 205),
    89: Gpu("RTX 4090", 165.2, 82.6, 1008),
    90: Gpu("H100 SXM", 989, 494, 3350),
    120: Gpu("RTX 5090", 209.5, 104.8, 1792),
}


@dataclass(frozen=True)
class Work:
    """What one launch does."""

    flop: float
    """Multiplications and additions of the products, without padding."""
    tensor_bytes: float
    """Every input and output once."""
    gathered_bytes: float
    """What the kernel asks of the caches: samples or keys as often as they are read."""


def convolution_work(*, half: bool) -> Work:
    """One propagation step on one 256x256 tile."""
    size, g = 2 if half else 4, CONVOLUTION
    taps = g.kernel_shape[0] * g.kernel_shape[1]
    coordinates = 4 * 3 * g.offset_groups * taps * POSITIONS
    weight = size * g.outputs * g.channels * taps
    return Work(
        flop=2.0 * POSITIONS * g.outputs * g.channels * taps,
        tensor_bytes=size * POSITIONS * (g.channels + g.outputs) + coordinates + weight,
        gathered_bytes=4.0 * size * POSITIONS * g.channels * taps + coordinates + weight * POSITIONS / 32,
    )


def attention_work(*, half: bool, active_windows: int) -> Work:
    """One transformer block on a clip of 48 frames with 16 windows."""
    size, g = 2 if half else 4, ATTENTION
    own, wide = g.window**2, 4 * g.window**2 + g.pooled
    queries, windows = g.group_frames * own, TOKENS // own
    groups = windows * FRAMES // g.group_frames
    keys = g.group_frames * (groups * own + active_windows * (wide - own))
    channels = g.heads * g.head_channels
    blocks = -(-queries // g.constants(half=half)["BLOCK_QUERIES"])
    return Work(
        flop=4.0 * queries * keys * channels,
        tensor_bytes=size * FRAMES * channels * (2 * TOKENS + 2 * (TOKENS + g.pooled)),
        gathered_bytes=size * channels * (2.0 * FRAMES * TOKENS + 2.0 * keys * blocks),
    )


def gate() -> None:
    """Stop unless both kernels agree with their references in the interpreter."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "tests.plugins.interpret"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    errors = json.loads(done.stdout)
    for case in CONVOLUTION_CASES + ATTENTION_CASES:
        for dtype in (torch.float32, torch.float16):
            error = errors[f"{case.schema.name}-{case.label}-{dtype}"]
            if not error <= case.tolerance(dtype):
                sys.exit(f"{case.schema.name} {case.label} {dtype}: error {error}; no figures from a wrong kernel")


def report(name: str, kernel: CompiledKernel, capability: int, work: Work, *, half: bool) -> None:
    resources, gpu = assemble(kernel.ptx, capability), GPUS[capability]
    peak = gpu.fp16_tflops if half else gpu.tf32_tflops / 3  # float32 from three TF32 products
    bound = max(work.flop / (peak * 1e12), work.tensor_bytes / (gpu.gigabytes_per_second * 1e9))
    print(
        f"{name:24} {'fp16' if half else 'fp32'} {capability:4} {resources.registers:5} {resources.spill_bytes:6} "
        f"{kernel.shared_bytes:7} {len(re.findall(r'cp.async.c[ga]', kernel.ptx)):9} {work.flop / 1e9:7.2f} "
        f"{work.tensor_bytes / 1e6:7.1f} {work.gathered_bytes / 1e6:9.1f} {bound * 1e6:9.1f}  {gpu.name}"
    )


def gpu_kernels() -> None:
    gate()
    print("compiled, not run; roofline: data-sheet peaks, every tensor moved once")
    print(f"{'kernel':24} type   SM  regs spills  shared  cp.async    GFLOP     MB gathered MB  bound us  GPU")
    for half in (True, False):
        for capability in GPUS:
            kernel = convolution.compile_for(CONVOLUTION, half=half, capability=capability)
            report("modulated_deform_conv", kernel, capability, convolution_work(half=half), half=half)
        for active in (0, 16):
            for capability in GPUS:
                kernel = attention.compile_for(ATTENTION, half=half, capability=capability)
                work = attention_work(half=half, active_windows=active)
                report(f"attention, {active:2} of 16", kernel, capability, work, half=half)


def cpu_lowerings(repeats: int) -> None:
    print(
        f"processor time on this CPU, one thread, median of {repeats}; error as a share of the largest reference value"
    )
    for case in release_cases():
        start = time.process_time()
        case.expected(torch.float32)
        print(f"{case.schema.name:24} {'reference':14} {(time.process_time() - start) * 1e3:8.1f} ms")
        for bodies in get_args(registry.Bodies):
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            model = registry.lower(node_model(case, torch.float32), bodies=bodies).SerializeToString()
            session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            feed = {spec.name: t.numpy() for spec, t in zip(case.schema.inputs, case.tensors, strict=True)}
            error = case.error(torch.from_numpy(session.run(None, feed)[0]), torch.float32)
            if not error <= 1e-5:
                sys.exit(f"{case.schema.name}, {bodies} body: error {error}; no figures from a wrong lowering")
            times = []
            for _ in range(repeats):
                start = time.process_time()
                session.run(None, feed)
                times.append(time.process_time() - start)
            median = sorted(times)[repeats // 2]
            print(f"{case.schema.name:24} {f'{bodies} body':14} {median * 1e3:8.1f} ms, error {error:.1e}")


def release_cases() -> list[Case]:
    """The released sizes on one 256x256 tile; attention on 12 frames with half of the windows active."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    by_name = {case.schema.name: case for case in CASES}
    g, a, frames = CONVOLUTION, ATTENTION, 12
    taps = g.offset_groups * 9
    x = noise(1, g.channels, 64, 64)
    table = torch.arange(frames, dtype=torch.int32).reshape(1, 4, 3).repeat(16, 1, 1).reshape(64, 3)
    active = (torch.arange(64) % 8 == 0).int()
    tokens = noise(frames, TOKENS + a.pooled, a.heads * a.head_channels)
    tensors = {
        "modulated_deform_conv": (
            x,
            noise(1, taps * 2, 64, 64),
            noise(1, taps, 64, 64).sigmoid(),
            noise(g.outputs, g.channels, 3, 3),
            noise(g.outputs),
        ),
        "sparse_window_attention": (
            noise(frames, 32, 32, a.heads * a.head_channels),
            tokens,
            tokens.flip(0),
            table,
            table.flip(1),
            active,
        ),
        "flow_warp": (x[:, :192], noise(1, 2, 64, 64) * 4),
    }
    attributes = {
        "modulated_deform_conv": {
            "strides": [1, 1],
            "pads": [1, 1, 1, 1],
            "dilations": [1, 1],
            "groups": 1,
            "offset_groups": 16,
        },
        "sparse_window_attention": {"heads": 4, "window": 8, "expandable_groups": 1},
        "flow_warp": {"channels": 192},
    }
    return [
        Case(
            label="released",
            schema=by_name[name].schema,
            reference=by_name[name].reference,
            tensors=values,
            attributes=attributes[name],
        )
        for name, values in tensors.items()
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="measure the CPU lowerings instead")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each CPU lowering")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cpu_lowerings(options.repeats) if options.cpu else gpu_kernels()
