"""Which codecs of the GPU really work: FFmpeg lists them on machines without one."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

from bsst.runtime.video.colour import Encoding
from bsst.runtime.video.encoder import encode_trial, encoder_problem, nvenc_settings, software_settings
from bsst.runtime.video.facts import Tags, VideoInfo
from bsst.runtime.video.reader import VideoReader

__all__ = ["probe_video"]

SIZE = 256
"""Within the limits of every codec of every GPU."""
CONTAINER = "matroska"


def probe_video() -> dict[str, dict[str, str]]:
    """Decode and encode a few frames of H.264, and of HEVC with 10 bits, on the GPU, checked by the software codecs.

    Returns:
        "NVDEC" and "NVENC" -> codec -> what is wrong with it, or "".
    """
    decoders, encoders = {}, {}
    for name, software, options, bits in (
        ("H.264", "libx264", {}, 8),
        ("HEVC 10-bit", "libx265", {"x265-params": "log-level=none"}, 10),
    ):
        info = _info(bits)
        settings = software_settings(CONTAINER, info, lossless=False, crf=16)
        encoders[name] = encoder_problem(CONTAINER, info, nvenc_settings(CONTAINER, settings, crf=16))
        with TemporaryDirectory(prefix="bsst-") as folder:
            path = Path(folder) / "clip.mkv"
            encode_trial(path, CONTAINER, info, dataclasses.replace(settings, codec=software, options=options))
            with VideoReader(path) as reader:
                reader.accelerate("auto")
                for _ in reader:  # a GPU that fails later says so then
                    pass
                decoders[name] = reader.gpu_problem
    return {"NVDEC": decoders, "NVENC": encoders}


def _info(bits: int) -> VideoInfo:
    return VideoInfo(
        height=SIZE,
        width=SIZE,
        encoding=Encoding(matrix="bt709", full_range=False, bits=bits, subsampling=(2, 2)),
        tags=Tags(matrix=1, range=1, primaries=1, transfer=1),
        time_base=Fraction(1, 12800),
        rate=Fraction(25),
        frames=0,
        sample_aspect_ratio=None,
        display_matrix=None,
    )
