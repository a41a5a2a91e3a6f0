"""Run both kernels over all cases in Triton's interpreter; prints the errors as JSON. Needs TRITON_INTERPRET=1.

A process of its own, because Triton decides when it is imported whether kernels are compiled or interpreted.
"""

from __future__ import annotations

import json

import torch

from bsst.plugins.modulated_deform_conv.triton_kernel import launch as launch_convolution
from bsst.plugins.sparse_window_attention.triton_kernel import launch as launch_attention
from tests.plugins.cases import ATTENTION_CASES, CONVOLUTION_CASES, Case


def _convolution(case: Case, dtype: torch.dtype) -> torch.Tensor:
    x, offset, mask, weight, bias = case.inputs(dtype)
    out = torch.full_like(case.expected(dtype), torch.nan, dtype=dtype).permute(0, 2, 3, 1).contiguous()
    x, weight = x.permute(0, 2, 3, 1).contiguous(), weight.permute(2, 3, 1, 0).contiguous()
    launch_convolution(x, offset, mask, weight, bias, **case.attributes, out=out)
    return out.permute(0, 3, 1, 2)


def _attention(case: Case, dtype: torch.dtype) -> torch.Tensor:
    tensors = case.inputs(dtype)
    out = torch.full_like(tensors[0], torch.nan)
    launch_attention(*tensors, **case.attributes, out=out)
    return out


def _errors() -> dict[str, float]:
    pairs = [(case, _convolution) for case in CONVOLUTION_CASES] + [(case, _attention) for case in ATTENTION_CASES]
    return {
        f"{case.schema.name}-{case.label}-{dtype}": case.error(run(case, dtype), dtype)
        for case, run in pairs
        for dtype in (torch.float32, torch.float16)
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(_errors()))
