"""Video deblurring with BSSTNet: one plan file, any CPU, NVIDIA GPUs.

`bsst.deblur("holiday.mp4", "sharp.mp4")` deblurs a file with the packaged plan;
`with bsst.load_network() as network: bsst.deblur_frames(frames, network)` iterates over RGB frames.

Names are loaded when they are used: networks and operators need neither PyAV nor ONNX Runtime. Next to nothing of
Python's own library is loaded either: until a program has got here Ctrl-C is a traceback.
"""

from __future__ import annotations

import bsst.checkout  # noqa: F401 - first of all
from bsst.errors import (
    BsstError,
    BuildError,
    CheckpointError,
    ExportError,
    InputError,
    MissingDependencyError,
    ModelError,
    OutOfMemoryError,
    OutputError,
    PlanError,
    UsageError,
    VerificationError,
)

TYPE_CHECKING = False  # type checkers know the name; `typing` takes longer to load than all else here
if TYPE_CHECKING:
    from typing import Any

    from bsst.runtime.job import deblur
    from bsst.runtime.jobs.options import Execution, OutputFormat
    from bsst.runtime.jobs.part import Part, Preview
    from bsst.runtime.jobs.report import Observer, Progress, Result
    from bsst.runtime.network.network import Network, load_network
    from bsst.runtime.restore import Tiling, deblur_frames

__all__ = [
    "BsstError",
    "BuildError",
    "CheckpointError",
    "Execution",
    "ExportError",
    "InputError",
    "MissingDependencyError",
    "ModelError",
    "Network",
    "Observer",
    "OutOfMemoryError",
    "OutputError",
    "OutputFormat",
    "Part",
    "PlanError",
    "Preview",
    "Progress",
    "Result",
    "Tiling",
    "UsageError",
    "VerificationError",
    "deblur",
    "deblur_frames",
    "load_network",
]

_PLACES = {
    "deblur": "bsst.runtime.job",
    **dict.fromkeys(("Execution", "OutputFormat"), "bsst.runtime.jobs.options"),
    **dict.fromkeys(("Part", "Preview"), "bsst.runtime.jobs.part"),
    **dict.fromkeys(("Observer", "Progress", "Result"), "bsst.runtime.jobs.report"),
    **dict.fromkeys(("Tiling", "deblur_frames"), "bsst.runtime.restore"),
    **dict.fromkeys(("Network", "load_network"), "bsst.runtime.network.network"),
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "__version__":
        return import_module("importlib.metadata").version("bsst")
    if name not in _PLACES:
        raise AttributeError(f"module 'bsst' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
