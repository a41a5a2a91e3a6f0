"""The README's example does what it says."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.media import Clip, decode

README = Path(__file__).parents[2] / "README.md"


def test_the_example_runs_and_closes_what_it_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    Clip(size=(48, 64), times=(0, 512)).write(tmp_path / "holiday")
    monkeypatch.chdir(tmp_path)
    taken: list[int] = []

    def frames() -> Iterator[np.ndarray]:
        for index in range(2):
            taken.append(index)
            yield np.full((3, 48, 64), 0.5, np.float32)

    exec(code, {"frames": frames()})
    assert len(decode(tmp_path / "sharp.mp4").seconds) == 2
    assert taken == [0, 1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bsst ")]
