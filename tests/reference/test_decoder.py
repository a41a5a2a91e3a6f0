"""The decoder's shift of channels in space, whose gradient is stated and not derived."""

import pytest
import torch

from bsst.reference.decoder import _moved, _shift


@pytest.mark.parametrize("channels", [6, 16, 32, 48])
def test_the_stated_gradient_of_a_shift_is_the_derived_one(channels: int) -> None:
    generator = torch.Generator().manual_seed(channels)
    x = torch.randn(2, channels, 11, 9, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(x.shape, dtype=torch.float64, generator=generator)
    (stated,) = torch.autograd.grad((_shift(x) * weight).sum(), x)
    (derived,) = torch.autograd.grad((_moved(x, 1) * weight).sum(), x)
    assert torch.equal(_shift(x), _moved(x.detach(), 1))
    assert torch.equal(stated, derived)


def test_a_shift_can_be_differentiated_twice() -> None:
    x = torch.randn(1, 32, 9, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: _shift(x).square(), (x[:, ::8, :4, :4],))
