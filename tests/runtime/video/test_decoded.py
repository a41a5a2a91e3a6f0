"""The same pictures from every PyAV: `make test-newest` runs this with the newest, `make test` with Python 3.11's."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bsst.runtime.video.reader import VideoReader

CLIPS = Path(__file__).parents[2] / "data"
MD5 = {
    "city_blurry.mp4": "13e750dab74f44240c2146d2e5371271",
    "city_sharp.mp4": "6249a7145572373092a097dd08953714",
}
"""Of the time and `Frame.digest` of every frame: what framemd5 is for FFmpeg."""


def test_decoded_frames_and_times_are_the_same_with_every_pyav() -> None:
    found = {}
    for name in MD5:
        digest = hashlib.md5(usedforsecurity=False)
        with VideoReader(CLIPS / name) as reader:
            for frame in reader:
                digest.update(f"{frame.pts * reader.info.time_base} {frame.digest}\n".encode())
        found[name] = digest.hexdigest()
    assert found == MD5
