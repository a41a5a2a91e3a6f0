"""Blur-aware sparse transformer: soft split, sparse window blocks, soft composition (specification section 12).

Splitting into overlapping 5x5 patches followed by a linear layer is a strided convolution, and a linear layer followed
by the overlapping sum is its transpose; both keep the released weights, only reshaped. GELU maps zero to zero and so
commutes with unfolding, which turns the feed-forward network into the same pair.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bsst.config import NetworkConfig
from bsst.plugins.sparse_window_attention import sparse_window_attention
from bsst.reference.layers import conv3x3
from bsst.reference.selection import WINDOW, Selection, expandable_groups

__all__ = ["Block", "SoftComposition", "SoftSplit", "SparseTransformer"]

PATCH = 5
POOL = 4


class SoftSplit(nn.Module):
    """Features at 1/4 scale -> overlapping patch tokens at 1/8 scale."""

    def __init__(self, channels: int, tokens: int) -> None:
        super().__init__()
        self.channels = channels
        self.embedding = nn.Linear(channels * PATCH**2, tokens)

    def forward(self, x: Tensor) -> Tensor:
        """(T, C, H, W) -> (T, H/2, W/2, tokens)."""
        kernel = self.embedding.weight.unflatten(1, (self.channels, PATCH, PATCH))
        return F.conv2d(x, kernel, self.embedding.bias, stride=2, padding=2).permute(0, 2, 3, 1)


class SoftComposition(nn.Module):
    """Tokens at 1/8 scale -> sum of their overlapping patches at 1/4 scale, then a 3x3 convolution."""

    def __init__(self, channels: int, tokens: int) -> None:
        super().__init__()
        self.channels = channels
        self.embedding = nn.Linear(tokens, channels * PATCH**2)
        self.bias_conv = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(T, H, W, tokens) -> (T, C, 2H, 2W)."""
        result: Tensor = self.bias_conv(_fold(x, self.embedding, self.channels))
        return result


class SparseTransformer(nn.Module):
    """Blocks that attend to the sharpest frames where the clip is blurred."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.transformer = nn.ModuleList(Block(config) for _ in range(config.transformer_blocks))

    def forward(self, x: Tensor, selection: Selection) -> Tensor:
        """Tokens of one clip (T, H, W, C) -> same shape; H and W multiples of 8."""
        for index, block in enumerate(self.transformer):
            x = block(
                x,
                selection.query_frames[index],
                selection.key_frames[index],
                selection.active[index],
                expandable_groups(x.shape[0], index),
            )
        return x


class Block(nn.Module):
    """Attention, then the feed-forward network, each added to its input."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.token_channels)
        self.attention = _SparseAttention(config.token_channels, config.token_heads)
        self.norm2 = nn.LayerNorm(config.token_channels)
        self.mlp = _OverlappingFeedForward(config.token_channels, config.ffn_channels)

    def forward(self, x: Tensor, query_frames: Tensor, key_frames: Tensor, active: Tensor, expandable: int) -> Tensor:
        """Tokens of one clip (T, H, W, C) -> same shape."""
        x = x + self.attention(self.norm1(x), query_frames, key_frames, active, expandable)
        return x + self.mlp(self.norm2(x))


class _SparseAttention(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.key = nn.Linear(channels, channels)
        self.query = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)
        self.pool_layer = nn.Conv2d(channels, channels, POOL, POOL, groups=channels)

    def forward(self, x: Tensor, query_frames: Tensor, key_frames: Tensor, active: Tensor, expandable: int) -> Tensor:
        pooled = self.pool_layer(x.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        tokens = torch.cat((x.flatten(1, 2), pooled), 1)
        attended = sparse_window_attention(
            self.query(x),
            self.key(tokens),
            self.value(tokens),
            query_frames,
            key_frames,
            active,
            heads=self.heads,
            window=WINDOW,
            expandable_groups=expandable,
        )
        result: Tensor = self.proj(attended)
        return result


class _OverlappingFeedForward(nn.Module):
    """Feed-forward network whose hidden layer is averaged over overlapping patches."""

    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.fc1 = nn.Sequential(nn.Linear(tokens, channels * PATCH**2))
        self.fc2 = nn.Sequential(nn.Identity(), nn.Linear(channels * PATCH**2, tokens))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.fc1[0], self.fc2[1]
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        hidden = F.gelu(_fold(x, first, self.channels) / _overlaps(x))
        kernel = second.weight.unflatten(1, (self.channels, PATCH, PATCH))
        return F.conv2d(hidden, kernel, second.bias, stride=2, padding=2).permute(0, 2, 3, 1)


def _fold(x: Tensor, embedding: nn.Linear, channels: int) -> Tensor:
    """Linear layer to 5x5 patches, patches summed where they overlap: (T, H, W, tokens) -> (T, C, 2H, 2W)."""
    kernel = embedding.weight.T.unflatten(1, (channels, PATCH, PATCH))
    bias = embedding.bias.reshape(1, channels, PATCH, PATCH)
    ones = torch.ones(1, 1, x.shape[1], x.shape[2], dtype=x.dtype, device=x.device)
    return _transposed(x.permute(0, 3, 1, 2), kernel) + _transposed(ones, bias)


def _overlaps(x: Tensor) -> Tensor:
    """Number of patches that cover each pixel, (1, 1, 2H, 2W)."""
    ones = torch.ones(1, 1, x.shape[1], x.shape[2], dtype=x.dtype, device=x.device)
    return _transposed(ones, torch.ones(1, 1, PATCH, PATCH, dtype=x.dtype, device=x.device))


def _transposed(x: Tensor, kernel: Tensor) -> Tensor:
    return F.conv_transpose2d(x, kernel, stride=2, padding=2, output_padding=1)
