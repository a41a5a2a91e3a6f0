"""Float32 fallback for windows whose flow holds NaN or infinity, where the restorer has the same network in float32.

Flow comes first, because it is an input of restoration: with its flow mended a window often needs nothing else.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from bsst.runtime.frames.restorer import Pair, Restorer
from bsst.runtime.frames.tiles import TiledFlow
from bsst.runtime.frames.windows import Window

__all__ = ["finite", "with_finite_flow"]


def finite(*arrays: np.ndarray) -> bool:
    """Whether no value is NaN or infinite."""
    return all(bool(np.isfinite(array).all()) for array in arrays)


def with_finite_flow(window: Window, restorer: Restorer) -> Window:
    """The window with flow estimated by the fallback between frames where it is not finite.

    Returns:
        The same object where all flow is finite, or nothing can be done.

    Raises:
        BsstError: the fallback cannot be opened, or failed.
    """
    wrong = [index for index, pair in enumerate(window.pairs) if not finite(*pair)]
    fallback = restorer.fallback() if wrong else None
    if fallback is None:
        return window
    _, height, width = window.frames[0].shape
    flows = TiledFlow(fallback, size=fallback.flow_size, frame=(height, width), overlap=fallback.tile_overlap)
    pairs = list(window.pairs)
    known: dict[tuple[int, int], Pair] = {}  # a short scene is walked back and forth
    for index in wrong:
        a, b = window.frames[index : index + 2]
        if (id(a), id(b)) not in known:
            backward, forward = flows.flow(flows.features(a), flows.features(b))
            known |= {(id(a), id(b)): (backward, forward), (id(b), id(a)): (forward, backward)}
        pairs[index] = known[id(a), id(b)]
    return dataclasses.replace(window, pairs=pairs)
