"""Split gates compute what gated blocks compute, and leave the network as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bsst.export.split_gates import split_gates
from bsst.reference.layers import GatedBlock, GatedFusionBlock


class Blocks(nn.Module):
    """A gated block inside a container, and one that takes two tensors."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.chain = nn.Sequential(nn.Identity(), GatedBlock(channels, 5))
        self.fusion = GatedFusionBlock(channels, 6, 7)

    def forward(self, x: torch.Tensor, auxiliary: torch.Tensor) -> torch.Tensor:
        return self.fusion(self.chain(x), auxiliary)


@pytest.mark.parametrize("channels", [5, 32])
def test_split_gates_change_rounding_alone_and_are_taken_back(channels: int) -> None:
    torch.manual_seed(channels)
    blocks = Blocks(channels).eval()
    for parameter in blocks.parameters():  # scales are zero until trained
        nn.init.normal_(parameter, std=0.3)
    x, auxiliary = torch.randn(3, channels, 11, 9), torch.randn(3, 6, 11, 9)
    with torch.inference_mode():
        expected = blocks(x, auxiliary)
        with split_gates(blocks):
            assert not any(isinstance(module, GatedBlock | GatedFusionBlock) for module in blocks.modules())
            got = blocks(x, auxiliary)
        again = blocks(x, auxiliary)
    assert (got - expected).abs().max() < 2e-6 * expected.abs().max()
    assert (expected - x).abs().max() > 0.1
    assert torch.equal(again, expected)
    assert [type(module) for module in blocks.chain] == [nn.Identity, GatedBlock]
