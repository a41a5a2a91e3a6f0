"""Video deblurring with BSSTNet: one plan file, any CPU, NVIDIA GPUs.

`bsst.deblur("holiday.mp4", "sharp.mp4")` deblurs a file with the packaged plan;
`bsst.deblur_frames(frames, bsst.load_network())` iterates over RGB frames.
"""

from bsst.errors import BsstError
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
