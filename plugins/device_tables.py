"""Fixed index tables, made once and kept on the device: to copy a table from the host stops the host every time."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["device_table"]


def device_table(make: Callable[..., Tensor], *arguments: Any, device: torch.device) -> Tensor:
    """`make(*arguments)`, on `device`; the same tensor every time, so it must not be changed.

    While a graph is traced the table is made anew: a tensor of the tracer must not outlive it.

    Args:
        make: a function of a module, of nothing but its arguments.
        *arguments: hashable.
        device: where the table is needed.
    """
    if torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return make(*arguments).to(device)
    return _kept(make, arguments, device)


@lru_cache(maxsize=64)
def _kept(make: Callable[..., Tensor], arguments: tuple[Any, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what is made in inference mode can never take part in training
        return make(*arguments).to(device)
