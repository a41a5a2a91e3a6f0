"""While a stage is traced, its gated blocks compute the two halves of a gate by convolutions of their own.

A gate multiplies one half of the channels with the other. As one convolution, a split and a product, ONNX Runtime on a
CPU writes both halves, reads them, and reorders its blocked layout around the split; two convolutions write what the
product reads. The learned scale of the residual goes into the last convolution. Each output is the same sum of the same
products, rounded in another order at most: 2e-7 of the largest value. TensorRT merges convolutions of one input itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bsst.reference.layers import GatedBlock, GatedFusionBlock

__all__ = ["split_gates"]


@contextmanager
def split_gates(module: nn.Module) -> Iterator[None]:
    """Put split forms in the place of all gated blocks inside `module`, and the blocks back at the end."""
    forms = {GatedBlock: _SplitBlock, GatedFusionBlock: _SplitFusionBlock}
    places = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if type(child) in forms
    ]
    try:
        for parent, name, child in places:
            parent.add_module(name, forms[type(child)](child).eval())
        yield
    finally:
        for parent, name, child in places:
            parent.add_module(name, child)


class _SplitBody(nn.Module):
    """The body of a gated block and its scale: normalised (N, inputs, H, W) -> (N, C, H, W)."""

    def __init__(self, block: GatedBlock | GatedFusionBlock) -> None:
        super().__init__()
        widen, spread, _, mix, widen_again, _, attention, project = cast(Any, tuple(block.body))
        first, kernels, second = (
            weight.detach().chunk(2) for weight in (widen.weight, spread.kernel(), widen_again.weight)
        )
        self.first, self.kernels, self.second = (
            nn.ParameterList(map(_copy, pair)) for pair in (first, kernels, second)
        )
        self.mixing = _copy(mix.merged_kernel())
        self.projection = _copy(project.weight * block.beta.reshape(-1, 1, 1, 1))
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        channels = self.mixing.shape[0]
        value, gate = (
            F.conv2d(F.conv2d(x, weight), kernel, padding=1, groups=channels)
            for weight, kernel in zip(self.first, self.kernels, strict=True)
        )
        x = F.conv2d(value * gate, self.mixing, padding=self.mixing.shape[-1] // 2, groups=channels)
        value, gate = (F.conv2d(x, weight) for weight in self.second)
        return F.conv2d(self.attention(value * torch.sigmoid(gate)), self.projection)


class _SplitBlock(nn.Module):
    def __init__(self, block: GatedBlock) -> None:
        super().__init__()
        self.norm, self.body = block.norm, _SplitBody(block)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, x + self.body(self.norm(x)))


class _SplitFusionBlock(nn.Module):
    def __init__(self, block: GatedFusionBlock) -> None:
        super().__init__()
        self.conv1, self.norm, self.body = block.conv1, block.norm, _SplitBody(block)

    def forward(self, stream: Tensor, auxiliary: Tensor) -> Tensor:
        mixed = torch.cat((stream, self.conv1(auxiliary)), 1)
        return cast(Tensor, stream + self.body(self.norm(mixed)))


def _copy(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone(), requires_grad=False)
