"""A stage that runs on arrays, as a stage of a host stream."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bsst.errors import ModelError
from bsst.runtime.devices.base import DeviceTensor, Stream
from bsst.runtime.devices.host import host_view
from bsst.runtime.sessions.base import Array, Session

__all__ = ["HostSession"]


class HostSession:
    """A `StreamSession` over a `Session`.

    Args:
        name: stage name, for traces.
        session: what runs.
    """

    def __init__(self, name: str, session: Session) -> None:
        self._name, self._session = name, session

    def enqueue(self, inputs: Mapping[str, DeviceTensor], outputs: Mapping[str, DeviceTensor], stream: Stream) -> None:
        """Append one run; see `StreamSession.enqueue`."""
        sources = {name: host_view(tensor) for name, tensor in inputs.items()}
        targets = {name: host_view(tensor) for name, tensor in outputs.items()}
        stream.submit(
            self._name,
            lambda: self._run(sources, targets),
            reads=tuple(inputs.values()),
            writes=tuple(outputs.values()),
        )

    def _run(self, sources: Mapping[str, Array], targets: Mapping[str, Array]) -> None:
        """Run; what is not finite comes out as NaN where a stage that looks up places by it refuses the place."""
        try:
            self._session.run(sources, targets)
        except ModelError:
            if all(np.isfinite(source).all() for source in sources.values()):
                raise
            for target in targets.values():
                target[...] = np.nan if np.issubdtype(target.dtype, np.floating) else 0

    def close(self) -> None:
        """Nothing to free before the session itself goes."""
