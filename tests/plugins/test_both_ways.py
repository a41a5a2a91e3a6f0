"""Attention computed both ways and then chosen, as on a GPU, against the reference that chooses first."""

import pytest
import torch
import torch.nn.functional as F

from bsst.plugins.device_tables import device_table
from bsst.plugins.sparse_window_attention.both_ways import both_ways
from bsst.plugins.sparse_window_attention.reference import own_table
from tests.plugins.cases import ATTENTION_CASES, Case


@pytest.mark.parametrize("case", ATTENTION_CASES, ids=lambda case: case.label)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_attention_both_ways_equals_the_reference(case: Case, dtype: torch.dtype) -> None:
    assert case.error(both_ways(*case.inputs(dtype), **case.attributes), dtype) <= case.tolerance(dtype)


def test_attention_that_autocast_halved_is_put_back_in_the_dtype_of_the_queries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Autocast of CUDA gives attention in bfloat16 and, unlike the CPU's, does not promote what it is copied into."""
    attention = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a: attention(*(x.bfloat16() for x in a)))
    case = ATTENTION_CASES[0]
    expected = case.reference(*case.tensors, **case.attributes)
    got = both_ways(*case.tensors, **case.attributes)
    assert got.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=1e-2, atol=1e-2)


def test_gradients_both_ways_are_those_of_the_reference() -> None:
    case = next(c for c in ATTENTION_CASES if c.attributes["expandable_groups"] and c.tensors[5].any())
    gradients = []
    for function in (both_ways, case.reference):
        tensors = [t.clone().requires_grad_() if t.is_floating_point() else t for t in case.tensors]
        function(*tensors, **case.attributes).square().sum().backward()
        gradients.append([t.grad for t in tensors if t.grad is not None])
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_a_table_is_kept_and_serves_training_after_inference() -> None:
    with torch.inference_mode():
        table = device_table(own_table, 16, 24, 8, device=torch.device("cpu"))
    assert device_table(own_table, 16, 24, 8, device=torch.device("cpu")) is table
    assert not table.is_inference()
