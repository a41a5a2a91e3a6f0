"""The references against independent statements of the same operators."""

import pytest
import torch
import torch.nn.functional as F

from bsst.errors import UsageError
from bsst.plugins.flow_warp import flow_warp
from bsst.plugins.modulated_deform_conv import modulated_deform_conv
from bsst.plugins.sparse_window_attention import sparse_window_attention
from tests.plugins.cases import ATTENTION_CASES, CONVOLUTION_CASES, Case


def _label(case: Case) -> str:
    return case.label


@pytest.mark.parametrize("case", CONVOLUTION_CASES, ids=_label)
def test_convolution_is_the_sum_over_taps_of_bilinear_samples(case) -> None:
    x, offset, mask, weight, bias = (tensor.double() for tensor in case.tensors)
    a = case.attributes
    batch, channels, height, width = x.shape
    outputs, group_channels, kernel_h, kernel_w = weight.shape
    expected = bias[:, None, None].repeat(batch, 1, *offset.shape[2:]).reshape(batch, outputs, *offset.shape[2:])
    rows = torch.arange(height).double()
    columns = torch.arange(width).double()
    for c in range(channels):
        group = c // (channels // a["offset_groups"])
        for k in range(kernel_h * kernel_w):
            tap = group * kernel_h * kernel_w + k
            y = torch.arange(offset.shape[2]) * a["strides"][0] - a["pads"][0] + k // kernel_w * a["dilations"][0]
            z = torch.arange(offset.shape[3]) * a["strides"][1] - a["pads"][1] + k % kernel_w * a["dilations"][1]
            # Coordinates are rounded to float32, as the contract says; all else is exact here.
            y = (y[:, None].float() + offset[:, 2 * tap].float()).double()
            z = (z[None, :].float() + offset[:, 2 * tap + 1].float()).double()
            hat_y = (1 - (y[..., None] - rows).abs()).clamp(min=0)
            hat_x = (1 - (z[..., None] - columns).abs()).clamp(min=0)
            sample = torch.einsum("nijh,nhw,nijw->nij", hat_y, x[:, c], hat_x) * mask[:, tap]
            first = c // group_channels * (outputs // a["groups"])
            for o in range(first, first + outputs // a["groups"]):
                expected[:, o] += weight[o, c % group_channels].flatten()[k] * sample
    error = (case.expected(torch.float32) - expected).abs().max() / expected.abs().max()
    assert error < 1e-5


@pytest.mark.parametrize("case", ATTENTION_CASES, ids=_label)
def test_attention_is_softmax_over_the_tokens_of_each_group(case) -> None:
    query, key, value = (tensor.double() for tensor in case.tensors[:3])
    query_frames, key_frames, active = case.tensors[3:]
    heads, window = case.attributes["heads"], case.attributes["window"]
    _, height, width, channels = query.shape
    groups = len(query_frames) // ((height // window) * (width // window))
    expected = torch.full_like(query, torch.nan)
    for g in range(len(query_frames)):
        top, left = g // groups // (width // window) * window, g // groups % (width // window) * window
        wide = bool(active[g]) and g % groups < case.attributes["expandable_groups"]
        margin = window // 2 if wide else 0
        keys, values = [], []
        for frame in (key_frames if wide else query_frames)[g].tolist():
            for tokens, chosen in ((key, keys), (value, values)):
                grid = F.pad(tokens[frame, : height * width].reshape(height, width, channels), (0, 0, *[window] * 4))
                top_edge, left_edge = top + window - margin, left + window - margin
                side = window + 2 * margin
                chosen += [grid[top_edge : top_edge + side, left_edge : left_edge + side].reshape(-1, channels)]
                chosen += [tokens[frame, height * width :]] if wide else []
        keys, values = (torch.cat(chosen).unflatten(-1, (heads, -1)) for chosen in (keys, values))
        for frame in query_frames[g].tolist():
            own = query[frame, top : top + window, left : left + window].unflatten(-1, (heads, -1))
            logits = torch.einsum("yxhd,khd->yxhk", own, keys) / (channels // heads) ** 0.5
            result = torch.einsum("yxhk,khd->yxhd", logits.softmax(-1), values).flatten(-2)
            expected[frame, top : top + window, left : left + window] = result
    error = (case.expected(torch.float32) - expected).abs().max() / expected.abs().max()
    assert error < 1e-6


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (45, 80)])
def test_warp_by_nothing_is_the_identity_to_the_bit(size) -> None:
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    assert torch.equal(flow_warp(x, torch.zeros(2, 2, *size)), x)


def test_warp_equals_grid_sample_with_aligned_corners() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, 3, 9, 14, generator=generator)
    flow = torch.randn(1, 2, 9, 14, generator=generator) * 5
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(14.0), indexing="ij")
    grid = torch.stack(((columns + flow[:, 0]) * 2 / 13 - 1, (rows + flow[:, 1]) * 2 / 8 - 1), dim=-1)
    torch.testing.assert_close(flow_warp(x, flow), F.grid_sample(x, grid, align_corners=True), rtol=0, atol=1e-5)


def test_gradients_reach_every_differentiable_input() -> None:
    generator = torch.Generator().manual_seed(3)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).requires_grad_()

    inputs = [tensor(1, 2, 4, 4), tensor(1, 2, 4, 4), tensor(1, 18, 4, 4), tensor(1, 9, 4, 4), tensor(2, 2, 3, 3)]
    bias, tokens = tensor(2), tensor(2, 16, 4)
    table = torch.tensor([[0], [1]] * 4, dtype=torch.int32)
    y = modulated_deform_conv(flow_warp(*inputs[:2]), *inputs[2:], bias)
    z = sparse_window_attention(
        tokens.unflatten(1, (4, 4)), tokens, tokens, table, table.flip(0), table[:, 0] * 0 + 1, heads=2, window=2
    )
    (y.square().sum() + z.square().sum()).backward()
    assert all(leaf.grad is not None and leaf.grad.abs().max() > 0 for leaf in (*inputs, bias, tokens))


def test_a_wrong_offset_shape_names_the_tensor_and_both_shapes() -> None:
    with pytest.raises(UsageError, match=r"expected offset of shape \(1, 18, 4, 4\), got \(1, 16, 4, 4\)"):
        modulated_deform_conv(
            torch.zeros(1, 2, 4, 4),
            torch.zeros(1, 16, 4, 4),
            torch.zeros(1, 9, 4, 4),
            torch.zeros(2, 2, 3, 3),
            torch.zeros(2),
        )


def test_a_window_that_does_not_divide_the_grid_is_refused() -> None:
    tokens, table = torch.zeros(1, 36, 4), torch.zeros(1, 1, dtype=torch.int32)
    with pytest.raises(UsageError, match="window = 4"):
        sparse_window_attention(tokens.unflatten(1, (6, 6)), tokens, tokens, table, table, table[0], heads=2, window=4)
