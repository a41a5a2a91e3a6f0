"""The execution seam: one stage of a plan that turns named arrays into named arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Session"]

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
