"""Flow refinement network: a small recurrent encoder-decoder over one direction of flows (specification section 8)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bsst.plugins.modulated_deform_conv import modulated_deform_conv
from bsst.reference.layers import conv3x3
from bsst.reference.propagation import offset_head

__all__ = ["FlowRefinement", "refine_flows"]

CHANNELS = 64
GROUPS = 16


def refine_flows(network: FlowRefinement, backward: Tensor, forward: Tensor, blur: Tensor) -> tuple[Tensor, Tensor]:
    """Refine both directions with the same weights, as one batch.

    The released pairing is kept: backward flow t goes with the blur map of frame t + 1, forward flow t (which lives on
    frame t + 1) with that of frame t, and the forward sequence runs reversed in time.

    Args:
        network: refinement network.
        backward: (N, T-1, 2, H, W) pixels; H and W multiples of 16.
        forward: same shape.
        blur: blur map of these flows, (N, T, 1, H, W).

    Returns:
        Refined (backward, forward).
    """
    n = backward.shape[0]
    items = torch.cat(
        (
            torch.cat((blur[:, 1:], backward), 2),
            torch.cat((blur[:, :-1], forward), 2).flip(1),
        )
    )
    refined = network(items)
    return refined[:n], refined[n:].flip(1)


class FlowRefinement(nn.Module):
    """Adds a learned correction to a sequence of flows."""

    def __init__(self) -> None:
        super().__init__()
        self.downsample = nn.ModuleList([nn.Conv2d(3, 32, 5, 2, padding=2, padding_mode="replicate")])
        self.encoder1 = nn.Sequential(
            _SpaceTimeConvolution(32, 32, stride=1),
            nn.LeakyReLU(0.2),
            _SpaceTimeConvolution(32, CHANNELS, stride=2),
            nn.LeakyReLU(0.2),
        )
        self.mid_dilation = nn.Sequential(
            *(
                layer
                for dilation in (3, 2, 1)
                for layer in (
                    nn.Conv2d(CHANNELS, CHANNELS, 3, padding=dilation, dilation=dilation),
                    nn.LeakyReLU(0.2),
                )
            )
        )
        self.feat_prop_module = _SecondOrderPropagation()
        self.decoder1 = nn.Sequential(conv3x3(CHANNELS, CHANNELS), nn.LeakyReLU(0.2), _Upsample(CHANNELS, 32))
        self.upsample = nn.Sequential(conv3x3(32, 32), nn.LeakyReLU(0.2), _Upsample(32, 2))

    def forward(self, items: Tensor) -> Tensor:
        """Items (N, L, 3, H, W) = blur, flow x, flow y -> refined flows (N, L, 2, H, W)."""
        n, length = items.shape[:2]
        x = F.leaky_relu(self.downsample[0](items.flatten(0, 1)), 0.2)
        encoded = self.encoder1(x.unflatten(0, (n, length))).flatten(0, 1)
        middle = self.mid_dilation(encoded).unflatten(0, (n, length))
        x = self.feat_prop_module(middle).flatten(0, 1) + encoded
        x = F.leaky_relu(self.decoder1(x), 0.2)
        correction: Tensor = self.upsample(x)
        return correction.unflatten(0, (n, length)) + items[:, :, 1:]


class _SpaceTimeConvolution(nn.Module):
    """3x3 in space, then 3 taps two frames apart in time, on (N, L, C, H, W)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(conv3x3(inputs, outputs, stride=stride), nn.LeakyReLU(0.2))
        self.conv2 = nn.Sequential(nn.Conv2d(outputs, outputs, (3, 1), padding=(2, 0), dilation=(2, 1)))

    def forward(self, x: Tensor) -> Tensor:
        n, length = x.shape[:2]
        x = self.conv1(x.flatten(0, 1))
        h, w = x.shape[2:]
        x = x.unflatten(0, (n, length)).flatten(3).transpose(1, 2)  # (N, C, L, H*W)
        x = self.conv2(x)
        return x.transpose(1, 2).unflatten(3, (h, w))


class _Upsample(nn.Module):
    """Bilinear doubling with aligned corners, then a 3x3 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = conv3x3(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        doubled = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        result: Tensor = self.conv(doubled)
        return result


class _SecondOrderPropagation(nn.Module):
    """Backward then forward recurrence with deformable alignment but without flow (section 8.1)."""

    def __init__(self) -> None:
        super().__init__()
        self.deform_align = nn.ModuleDict({name: _PlainAlignment() for name in ("backward_", "forward_")})
        self.backbone = nn.ModuleDict(
            {
                name: nn.Sequential(
                    conv3x3(inputs * CHANNELS, CHANNELS), nn.LeakyReLU(0.1), conv3x3(CHANNELS, CHANNELS)
                )
                for name, inputs in (("backward_", 2), ("forward_", 3))
            }
        )
        self.fusion = nn.Conv2d(2 * CHANNELS, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        items = x.unbind(1)
        backward = self._branch("backward_", items[::-1], ())[::-1]
        forward = self._branch("forward_", items, backward)
        pairs = torch.stack([torch.cat(pair, 1) for pair in zip(backward, forward, strict=True)], 1)
        fused: Tensor = self.fusion(pairs.flatten(0, 1))
        return fused.unflatten(0, pairs.shape[:2]) + x

    def _branch(self, name: str, items: tuple[Tensor, ...], earlier: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        align, backbone = self.deform_align[name], self.backbone[name]
        outputs: list[Tensor] = []
        for i, item in enumerate(items):
            state1 = outputs[-1] if outputs else torch.zeros_like(item)
            state2 = outputs[-2] if i > 1 else torch.zeros_like(item)
            aligned = align(state1, state2, item) if i else state1
            known = (item, earlier[i], aligned) if earlier else (item, aligned)
            outputs.append(aligned + backbone(torch.cat(known, 1)))
        return tuple(outputs)


class _PlainAlignment(nn.Module):
    """Deformable convolution whose offsets come from the features alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(CHANNELS, 2 * CHANNELS, 3, 3))
        self.bias = nn.Parameter(torch.zeros(CHANNELS))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.conv_offset = offset_head(3 * CHANNELS, CHANNELS, GROUPS)

    def forward(self, state1: Tensor, state2: Tensor, reference: Tensor) -> Tensor:
        raw = self.conv_offset(torch.cat((state1, reference, state2), 1))
        offset = 5 * torch.tanh(raw[:, : 18 * GROUPS])
        mask = torch.sigmoid(raw[:, 18 * GROUPS :])
        states = torch.cat((state1, state2), 1)
        return modulated_deform_conv(states, offset, mask, self.weight, self.bias, offset_groups=GROUPS)
