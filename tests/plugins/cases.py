"""Inputs on which every lowering of an operator is compared with its reference: ugly shapes, no default attribute."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bsst.plugins.flow_warp.reference import reference as warp_reference
from bsst.plugins.flow_warp.schema import SCHEMA as WARP
from bsst.plugins.modulated_deform_conv.reference import reference as convolution_reference
from bsst.plugins.modulated_deform_conv.schema import SCHEMA as CONVOLUTION
from bsst.plugins.operator_schema import OperatorSchema
from bsst.plugins.sparse_window_attention.reference import reference as attention_reference
from bsst.plugins.sparse_window_attention.schema import SCHEMA as ATTENTION

__all__ = ["ATTENTION_CASES", "CASES", "CONVOLUTION_CASES", "Case"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One set of inputs of one operator; features are float32 until `inputs` casts them."""

    label: str
    schema: OperatorSchema
    reference: Callable[..., Tensor]
    tensors: tuple[Tensor, ...]
    attributes: Mapping[str, int | Sequence[int]]

    def inputs(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Tensors with the features in `dtype`."""
        specs = zip(self.tensors, self.schema.inputs, strict=True)
        return tuple(tensor.to(dtype) if spec.dtype == "feature" else tensor for tensor, spec in specs)

    def expected(self, dtype: torch.dtype) -> Tensor:
        """Reference result for features rounded to `dtype`, computed and returned in float32."""
        return self.reference(
            *(t.float() if t.is_floating_point() else t for t in self.inputs(dtype)), **self.attributes
        )

    def error(self, result: Tensor, dtype: torch.dtype) -> float:
        """Largest deviation as a share of the largest reference value; NaN if any element was not written."""
        expected = self.expected(dtype)
        if result.shape != expected.shape or result.dtype != dtype:
            raise AssertionError(f"expected {expected.shape} {dtype}, got {result.shape} {result.dtype}")
        return ((result.float() - expected).abs().max() / expected.abs().max()).item()

    def tolerance(self, dtype: torch.dtype) -> float:
        """Tolerance of the schema for `dtype`."""
        return self.schema.tolerance.float16 if dtype == torch.float16 else self.schema.tolerance.float32


def _convolution(
    label: str,
    x: tuple[int, int, int, int],
    weight: tuple[int, int, int, int],
    *,
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (1, 1, 1, 1),
    dilations: tuple[int, int] = (1, 1),
    groups: int = 1,
    offset_groups: int = 1,
    offset: Callable[[Tensor], Tensor] = lambda noise: noise * 3,
) -> Case:
    generator = torch.Generator().manual_seed(len(label))
    out_h = (x[2] + pads[0] + pads[2] - dilations[0] * (weight[2] - 1) - 1) // strides[0] + 1
    out_w = (x[3] + pads[1] + pads[3] - dilations[1] * (weight[3] - 1) - 1) // strides[1] + 1
    taps = offset_groups * weight[2] * weight[3]
    return Case(
        label=label,
        schema=CONVOLUTION,
        reference=convolution_reference,
        tensors=(
            torch.randn(x, generator=generator),
            offset(torch.randn(x[0], taps * 2, out_h, out_w, generator=generator)),
            torch.rand(x[0], taps, out_h, out_w, generator=generator),
            torch.randn(weight, generator=generator),
            torch.randn(weight[0], generator=generator),
        ),
        attributes={
            "strides": list(strides),
            "pads": list(pads),
            "dilations": list(dilations),
            "groups": groups,
            "offset_groups": offset_groups,
        },
    )


def _borders(noise: Tensor) -> Tensor:
    """Offsets that put samples exactly on, just inside and just outside the border, or onto the next pixel."""
    return torch.tensor([-2.0, -1.0, -0.999, -0.5, 0.0, 0.5, 1.0, 7.0])[(noise * 100).long() % 8]


def _far(noise: Tensor) -> Tensor:
    """Offsets far beyond any map, some beyond what a 32-bit integer holds."""
    return noise * torch.tensor([0.5, 1e4, 1e9, -3e9])[(noise * 100).long() % 4]


CONVOLUTION_CASES = (
    _convolution(
        "all-attributes",
        (2, 8, 7, 5),
        (6, 4, 3, 2),
        strides=(2, 1),
        pads=(3, 2, 3, 2),
        dilations=(2, 3),
        groups=2,
        offset_groups=4,
    ),
    _convolution("one-pixel", (1, 3, 1, 1), (5, 3, 1, 1), pads=(0, 0, 0, 0)),
    _convolution("borders", (1, 6, 4, 7), (4, 6, 3, 3), offset_groups=2, offset=_borders),
    _convolution("far-offsets", (1, 4, 6, 5), (3, 4, 3, 3), offset=_far),
    _convolution("zero-offsets", (3, 5, 7, 3), (7, 5, 3, 3), offset=torch.zeros_like),
    _convolution("uneven-pads", (1, 4, 4, 5), (4, 4, 3, 3), pads=(0, 2, 1, 3), offset_groups=2),
    _convolution("more-offset-groups", (1, 12, 3, 5), (36, 12, 2, 2), pads=(1, 0, 1, 0), offset_groups=12),
    _convolution("more-groups", (1, 16, 5, 5), (12, 4, 3, 3), groups=4, offset_groups=2),
    _convolution("depthwise", (2, 5, 3, 4), (5, 1, 3, 3), groups=5, offset_groups=1),
    _convolution("many-outputs", (1, 4, 2, 2), (200, 4, 1, 1), pads=(0, 0, 0, 0), offset_groups=2),
    _convolution("wide-groups", (1, 80, 3, 6), (130, 80, 1, 2), pads=(0, 1, 0, 0)),
)


def _attention(
    label: str,
    query: tuple[int, int, int, int],
    *,
    heads: int,
    window: int,
    group_frames: int,
    pooled: int = 3,
    expandable_groups: int = 1,
    active: Callable[[int], Tensor],
    spread: float = 1.0,
) -> Case:
    generator = torch.Generator().manual_seed(len(label))
    frames, height, width, channels = query
    windows = (height // window) * (width // window)
    shuffled = torch.stack([torch.randperm(frames, generator=generator) for _ in range(windows)])
    query_frames = shuffled.reshape(-1, group_frames).int()
    tokens = height * width + pooled
    return Case(
        label=label,
        schema=ATTENTION,
        reference=attention_reference,
        tensors=(
            torch.randn(query, generator=generator) * spread,
            torch.randn(frames, tokens, channels, generator=generator) * spread,
            torch.randn(frames, tokens, channels, generator=generator),
            query_frames,
            torch.randint(0, frames, query_frames.shape, generator=generator, dtype=torch.int32),
            active(len(query_frames)).int(),
        ),
        attributes={"heads": heads, "window": window, "expandable_groups": expandable_groups},
    )


def _every(step: int) -> Callable[[int], Tensor]:
    return lambda groups: torch.arange(groups) % step == 0


def _unread(case: Case) -> Case:
    """Poison what a clip without active groups must not read: pooled tokens and the frames of other groups."""
    query, key, value, query_frames, key_frames, active = case.tensors
    grid = query.shape[1] * query.shape[2]
    key, value = (torch.cat([x[:, :grid], torch.full_like(x[:, grid:], torch.nan)], dim=1) for x in (key, value))
    return dataclasses.replace(case, tensors=(query, key, value, query_frames, key_frames, active))


ATTENTION_CASES = (
    _attention("one-active", (4, 4, 8, 12), heads=3, window=4, group_frames=2, active=lambda n: torch.arange(n) == 2),
    _attention("none-active", (6, 4, 8, 10), heads=2, window=4, group_frames=3, pooled=0, active=torch.zeros),
    _unread(_attention("nothing-else-read", (2, 4, 8, 8), heads=1, window=4, group_frames=2, active=torch.zeros)),
    _attention("all-active", (2, 8, 8, 6), heads=1, window=4, group_frames=1, expandable_groups=2, active=torch.ones),
    _attention("flags-beyond-expandable", (4, 4, 8, 8), heads=2, window=4, group_frames=1, active=torch.ones),
    _attention("one-window", (2, 4, 4, 20), heads=1, window=4, group_frames=2, pooled=4, active=torch.ones),
    _attention("whole-blocks", (2, 8, 8, 8), heads=1, window=8, group_frames=1, pooled=32, active=_every(2)),
    _attention("small-window", (3, 4, 6, 8), heads=2, window=2, group_frames=1, pooled=7, active=_every(5)),
    _attention("all-frames", (2, 12, 6, 4), heads=1, window=6, group_frames=2, active=_every(2)),
    _attention("sharp", (2, 8, 8, 16), heads=1, window=4, group_frames=2, pooled=1, active=_every(2), spread=2.0),
)


def _warp(label: str, x: tuple[int, int, int, int], flow: Callable[[Tensor], Tensor] = lambda noise: noise * 3) -> Case:
    generator = torch.Generator().manual_seed(len(label))
    return Case(
        label=label,
        schema=WARP,
        reference=warp_reference,
        tensors=(
            torch.randn(x, generator=generator),
            flow(torch.randn(x[0], 2, *x[2:], generator=generator)),
        ),
        attributes={"channels": x[1]},
    )


WARP_CASES = (
    _warp("odd-size", (2, 3, 11, 17)),
    _warp("one-pixel", (1, 5, 1, 1), lambda noise: noise / 4),
    _warp("one-row", (3, 2, 1, 9)),
    _warp("borders", (1, 1, 7, 5), _borders),
    _warp("far", (1, 4, 6, 5), _far),
)

CASES = CONVOLUTION_CASES + ATTENTION_CASES + WARP_CASES
