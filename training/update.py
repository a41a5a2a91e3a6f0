"""The optimiser's step, which never makes the host wait: what it would ask for stays on the device until a check."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["Update"]

CLIP_NORM = 10.0


class Update:
    """AdamW with clipped gradients; a step whose gradient is not finite is refused, on the device.

    `optimiser` is the AdamW, with the learning rate in its groups.
    """

    def __init__(self, parameters: list[nn.Parameter], learning_rate: float) -> None:
        self.parameters = parameters
        # The fused one refuses a step by a flag on the device; any other needs the host to look at the gradient first.
        self.optimiser = torch.optim.AdamW(
            parameters, lr=learning_rate, betas=(0.9, 0.999), weight_decay=0.0, fused=True
        )
        self._history: list[Tensor] = []

    def __call__(self, total: Tensor, reported: Tensor) -> None:
        """Go down the gradient of `total`, a scalar; `reported` is a scalar to be told with the gradient's norm."""
        self.optimiser.zero_grad()
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        self.optimiser.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
        self.optimiser.step()
        self._history.append(torch.stack((reported.detach().float(), norm.detach())))

    def load(self, state: dict[str, Any]) -> None:
        """Take up the optimiser's state, also one of the optimiser that was not fused."""
        groups = [{**group, "fused": True} for group in state["param_groups"]]
        self.optimiser.load_state_dict({**state, "param_groups": groups})

    def history(self) -> NDArray[np.float32]:
        """(steps, 2) since the last call: what was reported, and the norm before clipping. Waits for the device."""
        history, self._history = torch.stack(self._history).cpu().numpy(), []
        return history
