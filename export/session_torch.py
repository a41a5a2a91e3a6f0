"""Sessions over the PyTorch modules of the stages: the same wiring, run on the reference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from bsst.export.stage import Stage
from bsst.runtime.devices.base import Array
from bsst.runtime.devices.host import HostSession

__all__ = ["TorchSession"]


class TorchSession(HostSession):
    """One stage run eagerly; keeps the tensors of its last call for comparisons.

    Args:
        stage: stage to run.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage, self.name = stage, stage.name
        self.last_inputs: dict[str, Array] = {}
        self.last_outputs: dict[str, Array] = {}

    def run(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Run the stage once; see `HostSession.run`."""
        with torch.no_grad():
            # Clones, because the wiring reuses its buffers and torch refuses read-only ones.
            result = self._stage.module(*(torch.tensor(inputs[name]) for name in self._stage.inputs))
        tensors = result if isinstance(result, tuple) else (result,)
        for name, tensor in zip(self._stage.outputs, tensors, strict=True):
            np.copyto(outputs[name], tensor.numpy())
        self.last_inputs = {name: array.copy() for name, array in inputs.items()}
        self.last_outputs = {name: array.copy() for name, array in outputs.items()}
