"""Our two kernels: right on every test case, by Triton's launcher and by the driver alone, then timed; see `gpu.py`."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import triton
from torch import Tensor

from bsst.plugins.modulated_deform_conv import trt_plugin as convolution_plugin
from bsst.plugins.modulated_deform_conv.geometry import Geometry as ConvolutionGeometry
from bsst.plugins.modulated_deform_conv.triton_kernel import launch as launch_convolution
from bsst.plugins.sparse_window_attention import trt_plugin as attention_plugin
from bsst.plugins.sparse_window_attention.geometry import Geometry as AttentionGeometry
from bsst.plugins.sparse_window_attention.triton_kernel import launch as launch_attention
from tests.plugins.cases import ATTENTION_CASES, CONVOLUTION_CASES, Case

Run = Callable[[Case, torch.dtype], Tensor]


def has_gpu() -> bool:
    """Whether kernels run on a GPU and not in Triton's interpreter."""
    return torch.cuda.is_available()


def compare(*, quick: bool) -> Iterator[str]:
    """One line a launcher; outputs are poisoned with NaN, so an element that is not written is wrong.

    `quick`: one case of each kernel in the interpreter; `tests/plugins/test_triton_kernel.py` interprets all.
    """
    cases = CONVOLUTION_CASES + ATTENTION_CASES
    if quick and not has_gpu():
        cases = CONVOLUTION_CASES[:1] + ATTENTION_CASES[-1:]
    ways: list[tuple[str, Run]] = [("Triton's launcher" if has_gpu() else "Triton's interpreter", by_triton)]
    if has_gpu():
        major, minor = torch.cuda.get_device_capability()
        ways.append(
            ("the driver, from the PTX of TensorRT's plugin", partial(by_driver, capability=10 * major + minor))
        )
    for name, run in ways:
        worst, wrong, count = 0.0, [], 0
        for case in cases:
            for dtype in (torch.float32, torch.float16):
                count += 1
                label = f"{case.schema.name} {case.label} {str(dtype)[6:]}"
                try:
                    share = case.error(run(case, dtype).cpu(), dtype) / case.tolerance(dtype)
                except Exception as problem:  # the others are still of interest
                    wrong.append(f"{label} ({type(problem).__name__}: {' '.join(str(problem).split())[:200]})")
                    continue
                worst = max(worst, share)
                if not share <= 1:
                    wrong.append(f"{label} ({share:.3g} of its tolerance)")
        verdict = f"FAILED: {', '.join(wrong)}; " if wrong else ""
        yield f"{verdict}{count - len(wrong)} of {count} right by {name}, worst {worst:.2f} of its tolerance"


def by_triton(case: Case, dtype: torch.dtype) -> Tensor:
    """By Triton's own launcher."""
    tensors, out = _arguments(case, dtype)
    launch = launch_convolution if case in CONVOLUTION_CASES else launch_attention
    launch(*tensors, **case.attributes, out=out)
    return _as_reference(case, out)


def by_driver(case: Case, dtype: torch.dtype, *, capability: int) -> Tensor:
    """What TensorRT's launcher gets: PTX, entry, grid, block, shared memory, inputs then sizes then output."""
    from cuda.bindings import driver

    tensors, out = _arguments(case, dtype)
    half, plugin = dtype == torch.float16, _plugin(case)
    numbers = _numbers(case, tensors)
    kernel = plugin.compile_for(numbers, half, capability)
    grid = plugin.grid(numbers, tuple(out.shape), half, lambda n, d: -(-n // d))
    sizes = plugin.sizes([tuple(t.shape) for t in tensors], tuple(out.shape))

    def check(result: Any) -> Any:
        if int(result[0]):
            raise RuntimeError(f"{case.label}: the driver says {result[0]}")
        return result[1] if len(result) == 2 else None

    module = check(driver.cuModuleLoadData(kernel.ptx.encode() + b"\0"))
    function = check(driver.cuModuleGetFunction(module, kernel.entry.encode()))
    values = (*(t.data_ptr() for t in tensors), *sizes, out.data_ptr())
    kinds = (*[ctypes.c_void_p] * len(tensors), *[ctypes.c_int] * len(sizes), ctypes.c_void_p)
    stream = driver.CUstream(torch.cuda.current_stream().cuda_stream)
    check(driver.cuLaunchKernel(function, *grid, kernel.threads, 1, 1, kernel.shared_bytes, stream, (values, kinds), 0))
    torch.cuda.synchronize()
    check(driver.cuModuleUnload(module))
    return _as_reference(case, out)


def timings(*, quick: bool) -> Iterator[str]:
    """Table of medians at the sizes of the released network, beside what PyTorch offers."""
    bench = partial(triton.testing.do_bench, warmup=20, rep=60 if quick else 150, return_mode="median")
    source, target = (torch.empty(2**29, device="cuda") for _ in range(2))
    copy = 2 * source.nbytes / bench(partial(target.copy_, source)) / 1e6
    del source, target
    yield f"A copy moves {copy:.0f} GB/s; the share is of that, each tensor counted once."
    yield ""
    yield "| kernel | ms | GB/s | share of a copy | TFLOP/s | other, ms |"
    yield "|---|---|---|---|---|---|"
    for label, ours, other, nbytes, flop in (*_convolutions(bench), *_attentions(bench)):
        speed = nbytes / ours / 1e6
        yield f"| {label} | {ours:.4f} | {speed:.0f} | {speed / copy:.2f} | {flop / ours / 1e9:.1f} | {other} |"


def _convolutions(bench: Callable[..., float]) -> Iterator[tuple[str, float, str, int, float]]:
    from torchvision.ops import deform_conv2d

    for label, n, c, o, groups in (
        ("release", 1, 384, 192, 16),
        ("release x8", 8, 384, 192, 16),
        ("edge", 1, 72, 36, 4),
    ):
        for dtype in (torch.float16, torch.float32):
            x = torch.randn(n, c, 64, 64, device="cuda", dtype=dtype)
            offset = 3 * torch.randn(n, groups * 18, 64, 64, device="cuda")
            mask = torch.rand(n, groups * 9, 64, 64, device="cuda")
            weight = torch.randn(o, c, 3, 3, device="cuda", dtype=dtype)
            bias = torch.randn(o, device="cuda", dtype=dtype)
            tensors = (x.permute(0, 2, 3, 1).contiguous(), offset, mask, weight.permute(2, 3, 1, 0).contiguous(), bias)
            out = torch.empty(n, 64, 64, o, device="cuda", dtype=dtype)
            given = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "groups": 1, "offset_groups": groups}
            ours = bench(partial(launch_convolution, *tensors, **given, out=out))
            single = (x.float(), offset, weight.float(), bias.float())
            other = bench(partial(deform_conv2d, *single, padding=1, mask=mask))
            nbytes = sum(t.nbytes for t in (*tensors, out))
            name = f"modulated_deform_conv, {label}, {str(dtype)[6:]}"
            yield name, ours, f"{other:.4f} (torchvision, float32)", nbytes, 2 * n * 64**2 * o * c * 9


def _attentions(bench: Callable[..., float]) -> Iterator[tuple[str, float, str, int, float]]:
    attention = torch.nn.functional.scaled_dot_product_attention
    heads, channels, grid = 4, 512, 32
    for frames, share in ((48, 0.0), (48, 0.25), (48, 1.0), (12, 1.0)):
        for dtype in (torch.float16, torch.float32):
            m, places = frames // 4, torch.arange(64, device="cuda")
            q = torch.randn(frames, grid, grid, channels, device="cuda", dtype=dtype)
            k, v = (torch.randn(frames, grid**2 + 64, channels, device="cuda", dtype=dtype) for _ in range(2))
            own = torch.stack([torch.randperm(frames, device="cuda") for _ in range(16)]).reshape(64, m).int()
            keys = torch.randint(0, frames, own.shape, device="cuda", dtype=torch.int32)
            active = ((places % 4 == 0) & (places // 4 < 16 * share)).int()
            out, n = torch.empty_like(q), int(active.sum())
            given = {"heads": heads, "window": 8, "expandable_groups": 1}
            ours = bench(partial(launch_attention, q, k, v, own, keys, active, **given, out=out))
            flop = 4 * m * 64 * channels * ((64 - n) * m * 64 + n * m * 320)
            # What attention alone would cost on gathered inputs: own windows of all groups, wide sets of active ones.
            near, wide = (
                torch.randn(max(groups, 1), heads, m * tokens, channels // heads, device="cuda", dtype=dtype)
                for groups, tokens in ((64, 64), (n, 320))
            )
            other = bench(partial(attention, near, near, near))
            other += bench(partial(attention, near[: len(wide)], wide, wide)) if n else 0.0
            name = f"sparse_window_attention, T = {frames}, {n} of 64 active, {str(dtype)[6:]}"
            yield name, ours, f"{other:.4f} (SDPA, gathered)", 2 * q.nbytes + 2 * k.nbytes, flop


def _arguments(case: Case, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """Kernel inputs and a poisoned output, in the layout of the kernels."""
    place = torch.device("cuda" if has_gpu() else "cpu")
    tensors = [t.to(place) for t in case.inputs(dtype)]
    shape = case.expected(dtype).shape
    if case in CONVOLUTION_CASES:
        tensors[0], tensors[3] = tensors[0].permute(0, 2, 3, 1), tensors[3].permute(2, 3, 1, 0)
        shape = torch.Size([shape[axis] for axis in (0, 2, 3, 1)])
    return [t.contiguous() for t in tensors], torch.full(shape, torch.nan, dtype=dtype, device=place)


def _as_reference(case: Case, out: Tensor) -> Tensor:
    return out.permute(0, 3, 1, 2) if case in CONVOLUTION_CASES else out


def _plugin(case: Case) -> Any:
    return convolution_plugin.PLUGIN if case in CONVOLUTION_CASES else attention_plugin.PLUGIN


def _numbers(case: Case, tensors: list[Tensor]) -> tuple[int, ...]:
    a: Any = case.attributes
    if case in CONVOLUTION_CASES:
        x, weight = tensors[0].shape, tensors[3].shape
        return ConvolutionGeometry(
            channels=x[3],
            outputs=weight[3],
            kernel_shape=(weight[0], weight[1]),
            strides=tuple(a["strides"]),
            pads=tuple(a["pads"][:2]),
            dilations=tuple(a["dilations"]),
            groups=a["groups"],
            offset_groups=a["offset_groups"],
        ).numbers
    query, key, frames = (tensors[i].shape for i in (0, 1, 3))
    return AttentionGeometry(
        heads=a["heads"],
        head_channels=query[3] // a["heads"],
        window=a["window"],
        pooled=key[1] - query[1] * query[2],
        group_frames=frames[1],
        expandable_groups=a["expandable_groups"],
    ).numbers
