"""Video deblurring with BSSTNet: one plan file, any CPU, NVIDIA GPUs.

`bsst.deblur("holiday.mp4", "sharp.mp4")` deblurs a file with the packaged plan;
`bsst.deblur_frames(frames, bsst.load_network())` iterates over RGB frames.

Names are loaded when they are used: networks and operators need neither PyAV nor ONNX Runtime.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bsst.errors import BsstError

if TYPE_CHECKING:
    from bsst.runtime.job import Execution, Observer, Progress, Result, deblur
    from bsst.runtime.network.network import load_network
    from bsst.runtime.restore import Tiling, deblur_frames

__all__ = [
    "BsstError",
    "Execution",
    "Observer",
    "Progress",
    "Result",
    "Tiling",
    "deblur",
    "deblur_frames",
    "load_network",
]

_PLACES = {
    **dict.fromkeys(("Execution", "Observer", "Progress", "Result", "deblur"), "bsst.runtime.job"),
    **dict.fromkeys(("Tiling", "deblur_frames"), "bsst.runtime.restore"),
    "load_network": "bsst.runtime.network.network",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'bsst' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
