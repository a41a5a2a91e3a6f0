"""Finds where PyTorch code makes the host wait for a GPU, without a GPU: on the device that has shapes and no data.

Whatever asks for data (`item`, `nonzero`, boolean masks), copies between host and device, or makes a tensor from
numbers of Python stops the host, and cannot be captured as a CUDA graph. Tables of `device_table` do not count, which
are made once; a list of Python as an index is not seen, because it is copied below the dispatcher.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["HostWaits"]

ROOT = Path(__file__).resolve().parents[1]
ASKS = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "unique_dim", "equal", "bincount"}
FREE = {"view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze"} | {
    "detach", "alias", "as_strided", "split", "split_with_sizes", "chunk", "unbind", "empty", "new_empty", "unflatten"
}  # fmt: skip
"""Operators that start no kernel."""


class HostWaits(TorchDispatchMode):
    """Context in which `found` collects "file:line: reason" and `kernels` counts what a GPU would have to start."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.kernels = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name.split("::")[1]
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        places = {tensor.device.type for tensor in tensors}
        asked = (kwargs or {}).get("device")
        if "meta" in places and name in ASKS:
            self._report(f"{name} asks for data")
        elif name == "index" and any(x.dtype == torch.bool for x in tree_leaves(args[1]) if isinstance(x, Tensor)):
            self._report("a boolean index asks for data")
        elif name in ("_to_copy", "copy_") and len(places | ({torch.device(asked).type} if asked else set())) > 1:
            self._report("copies between host and device")
        elif places == {"cpu", "meta"} and any(x.dim() for x in tensors if x.device.type == "cpu"):
            self._report("a tensor of the host meets one of the device")
        elif name == "lift_fresh" and tensors[0].device.type == "cpu":
            self._report("a tensor from numbers of Python")
        self.kernels += "meta" in places and name not in FREE
        return function(*args, **(kwargs or {}))

    def _report(self, reason: str) -> None:
        frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(str(ROOT))][:-2]
        if any(frame.filename.endswith("device_tables.py") for frame in frames):
            return
        self.found.add(f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno}: {reason}")
