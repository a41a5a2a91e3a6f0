"""The execution seam: one stage of a plan that turns named arrays into named arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from bsst.runtime.devices.base import DeviceTensor, Stream

__all__ = ["Array", "Session", "StreamSession"]

Array = NDArray[np.generic]


class Session(Protocol):
    """One loaded stage."""

    def run(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Run the stage once.

        Args:
            inputs: C-contiguous arrays of the shapes and dtypes in the manifest, read only.
            outputs: C-contiguous arrays to fill, not overlapping the inputs.

        Raises:
            ModelError: the engine failed.
        """
        ...


class StreamSession(Protocol):
    """One loaded stage that runs in the order of a stream."""

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
