"""The execution seam: one stage of a plan that turns named tensors into named tensors, in the order of a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from bsst.errors import ModelError
from bsst.runtime.devices.base import Array, DeviceTensor, Stream
from bsst.runtime.devices.host import host_view

__all__ = ["HostSession", "Session"]


class Session(Protocol):
    """One loaded stage."""

    def enqueue(self, inputs: Mapping[str, DeviceTensor], outputs: Mapping[str, DeviceTensor], stream: Stream) -> None:
        """Append one run of the stage to a stream; the caller does not wait.

        Args:
            inputs: tensors of the shapes and dtypes in the manifest.
            outputs: tensors to fill, not overlapping the inputs.
            stream: of the device that holds the tensors.

        Raises:
            ModelError: the engine refuses the call; failures while it runs surface at the next synchronisation.
        """
        ...

    def close(self) -> None:
        """Free the engine; a second call does nothing."""
        ...


class HostSession(ABC):
    """A session on the host: subclasses say what it does with arrays."""

    name = "stage"
    """For traces and messages."""

    @abstractmethod
    def run(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Run the stage once, in the calling thread.

        Args:
            inputs: C-contiguous arrays of the shapes and dtypes in the manifest, read only.
            outputs: C-contiguous arrays to fill, not overlapping the inputs.

        Raises:
            ModelError: the engine failed.
        """

    def enqueue(self, inputs: Mapping[str, DeviceTensor], outputs: Mapping[str, DeviceTensor], stream: Stream) -> None:
        """Append one `run` to a stream of a `HostDevice`; see `Session.enqueue`."""
        sources = {name: host_view(tensor) for name, tensor in inputs.items()}
        targets = {name: host_view(tensor) for name, tensor in outputs.items()}
        stream.submit(
            self.name,
            lambda: self._run_or_spoil(sources, targets),
            reads=tuple(inputs.values()),
            writes=tuple(outputs.values()),
        )

    def close(self) -> None:  # noqa: B027 - what holds nothing but memory has nothing to do
        """Free the engine; a second call does nothing."""

    def _run_or_spoil(self, sources: Mapping[str, Array], targets: Mapping[str, Array]) -> None:
        """Run; what is not finite comes out as NaN where a stage that looks up places by it refuses the place."""
        try:
            self.run(sources, targets)
        except ModelError:
            if all(np.isfinite(source).all() for source in sources.values()):
                raise
            for target in targets.values():
                target[...] = np.nan if np.issubdtype(target.dtype, np.floating) else 0
