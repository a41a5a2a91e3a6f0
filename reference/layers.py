"""Convolutional building blocks of BSSTNet (specification section 3), named as in the released checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "ChannelAttention",
    "ChannelAttentionBlock",
    "GatedBlock",
    "GatedFusionBlock",
    "LayerNorm2d",
    "conv3x3",
]


def conv3x3(inputs: int, outputs: int, *, stride: int = 1, groups: int = 1, bias: bool = True) -> nn.Conv2d:
    """3x3 convolution with zero padding 1."""
    return nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=bias)


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of each pixel of (N, C, H, W); eps 1e-6 inside the root."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W)."""
        normalised = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, 1e-6)
        return normalised.permute(0, 3, 1, 2)


class ChannelAttention(nn.Module):
    """Scale each channel by a sigmoid of the channel means of its own frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_du = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Scale (N, C, H, W)."""
        return x * torch.sigmoid(self.conv_du(x.mean((2, 3), keepdim=True)))


class ChannelAttentionBlock(nn.Module):
    """Two 3x3 convolutions and channel attention around a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.CA = ChannelAttention(channels)
        self.body = nn.Sequential(
            conv3x3(channels, channels, bias=False), nn.LeakyReLU(0.1), conv3x3(channels, channels, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return x + self.CA(self.body(x))


class _Reparameterised3(nn.Module):
    """x plus its depthwise 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_2 = conv3x3(channels, channels, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel(), padding=1, groups=x.shape[1])

    def kernel(self) -> Tensor:
        """The kernel that does both, (C, 1, 3, 3)."""
        return self.conv_2.weight + _delta(3, self.conv_2.weight)


class _ReparameterisedK(nn.Module):
    """x plus its depthwise KxK and 3x3 convolutions, merged into one kernel."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.conv_1 = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
        self.conv_2 = conv3x3(channels, channels, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.merged_kernel(), padding=self.kernel // 2, groups=x.shape[1])

    def merged_kernel(self) -> Tensor:
        """The kernel that does all three, (C, 1, K, K)."""
        margin = (self.kernel - 3) // 2
        wide = self.conv_1.weight
        return wide + F.pad(self.conv_2.weight, [margin] * 4) + _delta(self.kernel, wide)


def _delta(size: int, like: Tensor) -> Tensor:
    """Kernel (1, 1, size, size) of the identity."""
    centre = size // 2
    return F.pad(torch.ones(1, 1, 1, 1, dtype=like.dtype, device=like.device), [centre] * 4)


class _Gate(nn.Module):
    """First half of the channels times the second half, or its sigmoid."""

    def __init__(self, *, sigmoid: bool) -> None:
        super().__init__()
        self.sigmoid = sigmoid

    def forward(self, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, 1)
        return value * (torch.sigmoid(gate) if self.sigmoid else gate)


def _gated_body(inputs: int, channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, 2 * channels, 1, bias=False),
        _Reparameterised3(2 * channels),
        _Gate(sigmoid=False),
        _ReparameterisedK(channels, kernel),
        nn.Conv2d(channels, 2 * channels, 1, bias=False),
        _Gate(sigmoid=True),
        ChannelAttention(channels),
        nn.Conv2d(channels, channels, 1, bias=False),
    )


class GatedBlock(nn.Module):
    """Normalised gated block with a learned residual scale (CAB1 of the specification)."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.norm = LayerNorm2d(channels)
        self.body = _gated_body(channels, channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return x + self.beta * self.body(self.norm(x))


class GatedFusionBlock(nn.Module):
    """Gated block whose body also sees auxiliary channels (CAB2 of the specification)."""

    def __init__(self, channels: int, auxiliary: int, kernel: int) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.conv1 = conv3x3(auxiliary, auxiliary, groups=auxiliary, bias=False)
        self.norm = LayerNorm2d(channels + auxiliary)
        self.body = _gated_body(channels + auxiliary, channels, kernel)

    def forward(self, stream: Tensor, auxiliary: Tensor) -> Tensor:
        """Residual stream (N, C, H, W) and auxiliary features (N, A, H, W) -> (N, C, H, W)."""
        mixed = torch.cat((stream, self.conv1(auxiliary)), 1)
        return stream + self.beta * self.body(self.norm(mixed))
