"""Reconstruction features: grouped convolution and shifted-window attention (specification section 10)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bsst.config import NetworkConfig
from bsst.plugins.device_tables import device_table

__all__ = ["Reconstruction"]

WINDOW = (2, 8, 8)
CONVOLUTION_GROUPS = 3


class Reconstruction(nn.Module):
    """Fuse encoder and branch features of a clip."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        channels = config.channels
        inputs = (1 + len(config.branches)) * channels
        layers: dict[str, nn.Module] = {"1": nn.Conv2d(inputs, channels, 3, padding=1, groups=CONVOLUTION_GROUPS)}
        if config.reconstruction_groups:
            layers["3"] = nn.LayerNorm(channels)
            layers["5"] = nn.ModuleList(
                _ResidualGroup(channels, config.reconstruction_heads) for _ in range(config.reconstruction_groups)
            )
            layers["7"] = nn.LayerNorm(channels)
        self.main = nn.ModuleDict(layers)

    def forward(self, features: Tensor) -> Tensor:
        """Concatenated features (N, T, inputs, H, W) -> (N, T, C, H, W); H and W multiples of 8."""
        n = features.shape[0]
        x: Tensor = self.main["1"](features.flatten(0, 1)).unflatten(0, (n, -1))
        if "5" not in self.main:
            return x
        x = self.main["3"](x.permute(0, 1, 3, 4, 2))
        groups = self.main["5"]
        assert isinstance(groups, nn.ModuleList)
        for group in groups:
            x = group(x)
        x = self.main["7"](x)
        return x.permute(0, 1, 4, 2, 3)


class _ResidualGroup(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.residual_group = nn.Module()
        self.residual_group.blocks = nn.ModuleList(
            [_WindowBlock(channels, heads, shift=(0, 0, 0)), _WindowBlock(channels, heads, shift=(1, 4, 4))]
        )
        self.linear = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        blocks = self.residual_group.blocks
        assert isinstance(blocks, nn.ModuleList)
        for block in blocks:
            y = block(y)
        return x + self.linear(y)


class _WindowBlock(nn.Module):
    def __init__(self, channels: int, heads: int, *, shift: tuple[int, int, int]) -> None:
        super().__init__()
        self.shift = shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = _WindowAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(channels, 2 * channels), "fc2": nn.Linear(2 * channels, channels)})

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, H, W, C) -> same."""
        x = x + self._attend(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))

    def _attend(self, x: Tensor) -> Tensor:
        frames = x.shape[1]
        if frames % WINDOW[0]:  # a zero frame that takes part like any other and is dropped afterwards
            x = F.pad(x, (0, 0, 0, 0, 0, 0, 0, 1))
        shifted = any(self.shift)
        if shifted:
            x = torch.roll(x, [-s for s in self.shift], (1, 2, 3))
        mask = device_table(_shift_mask, tuple(x.shape[1:4]), self.shift, device=x.device) if shifted else None
        windows = _partition(x)
        x = _merge(self.attn(windows, mask), x.shape)
        if shifted:
            x = torch.roll(x, self.shift, (1, 2, 3))
        return x[:, :frames]


class _WindowAttention(nn.Module):
    """Self-attention inside windows of 2x8x8 tokens with a learned relative position bias."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        entries = (2 * WINDOW[0] - 1) * (2 * WINDOW[1] - 1) * (2 * WINDOW[2] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(entries, heads))
        self.qkv_self = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """Windows (B, 128, C), mask (windows per clip, 128, 128) or None -> (B, 128, C)."""
        b, tokens, channels = windows.shape
        depth = channels // self.heads
        qkv = self.qkv_self(windows).reshape(b, tokens, 3, self.heads, depth).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        bias = self.relative_position_bias_table[device_table(_relative_position_index, device=windows.device)]
        bias = bias.reshape(tokens, tokens, self.heads).permute(2, 0, 1)
        logits = (query * depth**-0.5) @ key.transpose(2, 3) + bias
        if mask is not None:
            logits = logits.unflatten(0, (-1, mask.shape[0])) + mask[:, None]
            logits = logits.flatten(0, 1)
        attended = logits.softmax(-1) @ value
        result: Tensor = self.proj(attended.transpose(1, 2).reshape(b, tokens, channels))
        return result


def _partition(x: Tensor) -> Tensor:
    n, t, h, w, c = x.shape
    dt, dy, dx = WINDOW
    x = x.reshape(n, t // dt, dt, h // dy, dy, w // dx, dx, c)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, dt * dy * dx, c)


def _merge(windows: Tensor, shape: torch.Size) -> Tensor:
    n, t, h, w, c = shape
    dt, dy, dx = WINDOW
    x = windows.reshape(n, t // dt, h // dy, w // dx, dt, dy, dx, c)
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(n, t, h, w, c)


def _relative_position_index() -> Tensor:
    """Row of the bias table for each (query, key) of a window, (128 * 128,) int64."""
    axes = torch.meshgrid(*(torch.arange(n) for n in WINDOW), indexing="ij")
    positions = torch.stack([axis.flatten() for axis in axes])
    difference = positions[:, :, None] - positions[:, None, :]
    index = torch.zeros_like(difference[0])
    for axis, size in enumerate(WINDOW):
        index = index * (2 * size - 1) + difference[axis] + size - 1
    return index.flatten()


def _shift_mask(grid: tuple[int, ...], shift: tuple[int, int, int]) -> Tensor:
    """-100 between tokens of a rolled window that were not neighbours before the roll, (windows, 128, 128)."""
    region = torch.zeros(1, *grid, 1)
    for axis, (size, window, moved) in enumerate(zip(grid, WINDOW, shift, strict=True)):
        position = torch.arange(size)
        part = (position >= size - window).long() + (position >= size - moved).long()
        region = region * 3 + part.reshape([-1 if i == axis + 1 else 1 for i in range(5)])
    tokens = _partition(region).squeeze(-1)
    return torch.where(tokens[:, :, None] == tokens[:, None, :], 0.0, -100.0)
