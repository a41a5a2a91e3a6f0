"""RAFT optical flow, split where deployment splits it: features once per frame, both flows once per pair.

Frames are (N, 3, h, w) float32 RGB in [0, 1], h and w multiples of 8, already halved in both dimensions.
Flows are (N, 2, h, w) float32 in pixels of that grid, channel 0 = x (to the right), channel 1 = y (down).
The flow from a to b lives on a's grid and points to b: a(p) ~ b(p + flow(p)).

State-dict names are those of the released checkpoint, with two differences that a loader settles: the norm of
a strided shortcut in `cnet` exists once, as `downsample.1` (the released file repeats it as `norm3`), and there
is no `num_batches_tracked`. `fnet` norms have no tensors.

Source: Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsst.config import RaftConfig

__all__ = ["RAFT", "Features", "halve", "quarter_flow"]

Features = tuple[Tensor, Tensor, Tensor]
"""Matching features, initial hidden state and context of one frame, each (N, C, h/8, w/8)."""
VOLUME_VALUES = 1 << 28
"""Correlations that `quarter_flow` holds at once, unless one pair has more: 1 GiB."""


class RAFT(nn.Module):
    """Optical flow in both directions between two frames.

    Args:
        config: widths, correlation window and number of updates.
    """

    def __init__(self, config: RaftConfig) -> None:
        super().__init__()
        self.config = config
        self.fnet = _Encoder(config, config.feature_channels, affine=False)
        self.cnet = _Encoder(config, config.hidden_channels + config.context_channels, affine=True)
        self.update_block = _UpdateBlock(config)

    def features(self, frame: Tensor) -> Features:
        """Everything that depends on one frame alone.

        Args:
            frame: (N, 3, h, w) in [0, 1].

        Returns:
            Matching features, hidden state (tanh) and context (rectified).
        """
        frame = 2 * frame - 1
        hidden, context = self.cnet(frame).split([self.config.hidden_channels, self.config.context_channels], dim=1)
        return self.fnet(frame), torch.tanh(hidden), torch.relu(context)

    def flow(self, a: Features, b: Features) -> tuple[Tensor, Tensor]:
        """Flow between two frames after the last update.

        Returns:
            Flow a -> b on a's grid and flow b -> a on b's grid, each (N, 2, h, w).
        """
        coarse, hidden = self.updates(a, b)[-1]
        return _directions(self.upsample(coarse, hidden))

    def updates(self, a: Features, b: Features) -> list[tuple[Tensor, Tensor]]:
        """Flow at 1/8 of the grid, (2N, 2, h/8, w/8), and hidden state after each update; a -> b comes first."""
        grid = a[0].shape[-2:]
        hidden, context = torch.cat([a[1], b[1]]), torch.cat([a[2], b[2]])
        volume = _correlation(a[0], b[0])
        pyramid = _pyramid(torch.cat([volume, volume.transpose(1, 2)]), grid, self.config)
        origin = _coordinates(grid, hidden)
        gates = self.update_block.gru.context_gates(context)
        flow = torch.zeros_like(origin).expand(len(hidden), -1, -1, -1)
        states = []
        for _ in range(self.config.iterations):
            flow = flow.detach()
            correlation = _lookup(pyramid, origin + flow, self.config.radius)
            hidden, step = self.update_block(hidden, gates, correlation, flow)
            flow = flow + step
            states.append((flow, hidden))
        return states

    def upsample(self, flow: Tensor, hidden: Tensor) -> Tensor:
        """Convex combination of the 3x3 coarse neighbours: (N, 2, h/8, w/8) -> (N, 2, h, w)."""
        n, _, h, w = flow.shape
        logits = (0.25 * self.update_block.mask(hidden)).view(n, 1, 9, 8, 8, h, w)
        # Softmax by hand: ONNX Runtime moves any but the last axis there and back, a fifth of the time of a flow.
        weights = (logits - logits.amax(2, keepdim=True)).exp()
        weights = weights / weights.sum(2, keepdim=True)
        padded = F.pad(8 * flow, (1, 1, 1, 1))
        neighbours = torch.stack([padded[:, :, y : y + h, x : x + w] for y in range(3) for x in range(3)], dim=2)
        fine = (weights * neighbours[:, :, :, None, None]).sum(dim=2)
        return fine.permute(0, 1, 4, 2, 5, 3).reshape(n, 2, 8 * h, 8 * w)


def halve(x: Tensor) -> Tensor:
    """Mean of each 2x2 block: (N, C, H, W) -> (N, C, H/2, W/2), H and W even."""
    return F.avg_pool2d(x, 2)


def quarter_flow(raft: RAFT, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Flows that the deblurring network takes, with features computed once per frame.

    All pairs go through the updates together, as far as their correlation volumes fit `VOLUME_VALUES`: a pair alone
    starts some 3,000 kernels, which take a GPU longer to start than to run.

    Args:
        raft: flow network.
        clip: (T, 3, H, W) in [0, 1], T >= 2, H and W multiples of 16.

    Returns:
        Forward flows (frame t+1 -> t, on frame t+1) and backward flows (frame t -> t+1, on frame t), each
        (T-1, 2, H/4, W/4) in pixels at 1/4 scale. They are named after the propagation that samples with them.
    """
    at_once = max(1, VOLUME_VALUES // _volume_values(clip.shape[-2] // 16, clip.shape[-1] // 16, raft.config))
    parts = [raft.features(halve(frames)) for frames in clip.split(at_once)]
    features: list[Tensor] = [torch.cat(same) for same in zip(*parts, strict=True)]
    flows = []
    for start in range(0, len(clip) - 1, at_once):
        end = min(start + at_once, len(clip) - 1)
        a, b = (_frames(features, first, first + end - start) for first in (start, start + 1))
        flows.append(raft.flow(a, b))
    backward, forward = (halve(torch.cat(same)) / 2 for same in zip(*flows, strict=True))
    return forward, backward


def _frames(features: list[Tensor], start: int, end: int) -> Features:
    matching, hidden, context = (part[start:end] for part in features)
    return matching, hidden, context


def _volume_values(height: int, width: int, config: RaftConfig) -> int:
    """Values in the correlation pyramids of one pair, both directions; height and width of the coarse grid."""
    margin = 2 * (2 * config.radius + 2)
    sizes = ((height >> level, width >> level) for level in range(config.levels))
    return 2 * height * width * sum((h + margin) * (w + margin) for h, w in sizes)


class _Encoder(nn.Module):
    """Residual encoder to 1/8; instance norm without tensors (`affine=False`) or batch norm with fixed statistics."""

    def __init__(self, config: RaftConfig, out_channels: int, *, affine: bool) -> None:
        super().__init__()
        widths = config.stage_channels
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3)
        self.norm1 = _norm(widths[0], affine)
        previous = widths[0]
        for number, width in enumerate(widths, start=1):
            blocks = [_ResidualBlock(previous, width, 1 if number == 1 else 2, affine)]
            blocks += [_ResidualBlock(width, width, 1, affine) for _ in range(config.blocks_per_stage - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            previous = width
        self.conv2 = nn.Conv2d(previous, out_channels, 1)

    def forward(self, frame: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(frame)))
        for number in (1, 2, 3):
            x = self.get_submodule(f"layer{number}")(x)
        return self.conv2(x)


class _ResidualBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1)
        self.norm1 = _norm(channels, affine)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.norm2 = _norm(channels, affine)
        self.downsample = (
            nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride), _norm(channels, affine))
            if stride != 1
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        y = torch.relu(self.norm2(self.conv2(y)))
        return torch.relu(self.downsample(x) + y)


class FixedBatchNorm(nn.Module):
    """Batch norm with fixed statistics, in training too: (N, C, h, w) -> same."""

    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=1e-5)


def _norm(channels: int, affine: bool) -> nn.Module:
    return FixedBatchNorm(channels) if affine else nn.InstanceNorm2d(channels)


class _UpdateBlock(nn.Module):
    def __init__(self, config: RaftConfig) -> None:
        super().__init__()
        self.encoder = _MotionEncoder(config)
        self.gru = _SeparableGRU(config)
        self.flow_head = _FlowHead(config)
        self.mask = nn.Sequential(
            nn.Conv2d(config.hidden_channels, config.head_channels, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(config.head_channels, 9 * 64, 1),
        )

    def forward(self, hidden: Tensor, gates: list[Tensor], correlation: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.gru(hidden, self.encoder(correlation, flow), gates)
        return hidden, self.flow_head(hidden)


class _MotionEncoder(nn.Module):
    def __init__(self, config: RaftConfig) -> None:
        super().__init__()
        c1, c2 = config.correlation_channels
        f1, f2 = config.flow_channels
        self.convc1 = nn.Conv2d(config.levels * (2 * config.radius + 1) ** 2, c1, 1)
        self.convc2 = nn.Conv2d(c1, c2, 3, 1, 1)
        self.convf1 = nn.Conv2d(2, f1, 7, 1, 3)
        self.convf2 = nn.Conv2d(f1, f2, 3, 1, 1)
        self.conv = nn.Conv2d(c2 + f2, config.motion_channels - 2, 3, 1, 1)

    def forward(self, correlation: Tensor, flow: Tensor) -> Tensor:
        c = torch.relu(self.convc2(torch.relu(self.convc1(correlation))))
        f = torch.relu(self.convf2(torch.relu(self.convf1(flow))))
        return torch.cat([torch.relu(self.conv(torch.cat([c, f], dim=1))), flow], dim=1)


class _SeparableGRU(nn.Module):
    """Gated update along rows, then along columns; input channels are hidden | context | motion."""

    def __init__(self, config: RaftConfig) -> None:
        super().__init__()
        self.hidden, self.context = config.hidden_channels, config.context_channels
        total = self.hidden + self.context + config.motion_channels
        for axis, kernel, padding in ((1, (1, 5), (0, 2)), (2, (5, 1), (2, 0))):
            for gate in "zrq":
                self.add_module(f"conv{gate}{axis}", nn.Conv2d(total, self.hidden, kernel, padding=padding))

    def context_gates(self, context: Tensor) -> list[Tensor]:
        """Share of the context in the gates z | r | q of both passes, biases included: it never changes."""
        gates = []
        for axis in (1, 2):
            convs = [self._conv(gate, axis) for gate in "zrq"]
            weight = torch.cat([c.weight[:, self.hidden : self.hidden + self.context] for c in convs])
            bias = torch.cat([c.bias for c in convs if c.bias is not None])
            gates.append(F.conv2d(context, weight, bias, padding=_padding(axis)))
        return gates

    def forward(self, h: Tensor, motion: Tensor, gates: list[Tensor]) -> Tensor:
        for axis, gate in zip((1, 2), gates, strict=True):
            padding = _padding(axis)
            zr = torch.cat([self._varying(self._conv(g, axis).weight) for g in "zr"])
            z_context, r_context, q_context = gate.chunk(3, dim=1)
            zr_varying = F.conv2d(torch.cat([h, motion], dim=1), zr, padding=padding)
            z = torch.sigmoid(zr_varying[:, : self.hidden] + z_context)
            r = torch.sigmoid(zr_varying[:, self.hidden :] + r_context)
            q_weight = self._varying(self._conv("q", axis).weight)
            q = torch.tanh(F.conv2d(torch.cat([r * h, motion], dim=1), q_weight, padding=padding) + q_context)
            h = (1 - z) * h + z * q
        return h

    def _conv(self, gate: str, axis: int) -> nn.Conv2d:
        conv = self.get_submodule(f"conv{gate}{axis}")
        assert isinstance(conv, nn.Conv2d)
        return conv

    def _varying(self, weight: Tensor) -> Tensor:
        return torch.cat([weight[:, : self.hidden], weight[:, self.hidden + self.context :]], dim=1)


class _FlowHead(nn.Module):
    def __init__(self, config: RaftConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(config.hidden_channels, config.head_channels, 3, 1, 1)
        self.conv2 = nn.Conv2d(config.head_channels, 2, 3, 1, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.as_tensor(self.conv2(torch.relu(self.conv1(hidden))))


def _padding(axis: int) -> tuple[int, int]:
    return (0, 2) if axis == 1 else (2, 0)


def _directions(x: Tensor) -> tuple[Tensor, Tensor]:
    a, b = x.chunk(2)
    return a, b


def _coordinates(grid: torch.Size, like: Tensor) -> Tensor:
    """Integer positions (1, 2, h, w), x first."""
    y = torch.arange(grid[0], dtype=like.dtype, device=like.device)
    x = torch.arange(grid[1], dtype=like.dtype, device=like.device)
    return torch.stack([x[None, :].expand(grid), y[:, None].expand(grid)])[None]


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Scaled products of all pairs of positions, (N, positions of a, positions of b)."""
    return a.flatten(2).transpose(1, 2) @ b.flatten(2) / math.sqrt(a.shape[1])


def _pyramid(volume: Tensor, grid: torch.Size, config: RaftConfig) -> list[Tensor]:
    """Levels pooled over the second frame, zero-padded so that a patch wholly outside reads only zeros."""
    n, positions, _ = volume.shape
    margin = 2 * config.radius + 2
    level = volume.reshape(n, positions, *grid)
    levels = []
    for number in range(config.levels):
        level = F.avg_pool2d(level, 2) if number else level
        levels.append(F.pad(level, (margin, margin, margin, margin)))
    return levels


def _lookup(pyramid: list[Tensor], coordinates: Tensor, radius: int) -> Tensor:
    """Correlation around the current match, (N, levels * (2 radius + 1)^2, h, w).

    All taps of a window share one fractional offset, so one integer patch of (2 radius + 2)^2 values is gathered
    and interpolated by two lerps. The slow window index moves x, the fast one y, as the released weights expect.
    """
    n, _, h, w = coordinates.shape
    size = 2 * radius + 2
    step = torch.arange(size, device=coordinates.device)
    windows = []
    for number, level in enumerate(pyramid):
        rows, columns = level.shape[-2:]
        x, y = (coordinates / 2**number).flatten(2).unsqueeze(-1).unbind(dim=1)
        left, top = x.floor(), y.floor()
        fx, fy = (x - left)[..., None], (y - top)[..., None]
        left = (left + (size - radius)).clamp(0, columns - size).long()
        top = (top + (size - radius)).clamp(0, rows - size).long()
        index = ((top + step) * columns)[..., :, None] + (left + step)[..., None, :]
        patch = level.flatten(2).gather(2, index.flatten(2)).view(n, h * w, size, size)
        patch = patch[..., :-1] + fx * (patch[..., 1:] - patch[..., :-1])
        patch = patch[..., :-1, :] + fy * (patch[..., 1:, :] - patch[..., :-1, :])
        windows.append(patch.transpose(2, 3).flatten(2))
    return torch.cat(windows, dim=2).transpose(1, 2).reshape(n, -1, h, w)
