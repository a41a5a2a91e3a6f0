"""A network that was opened before a fork says so in the child, and ends with it, instead of waiting for ever."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHILD = """
import os, sys
import numpy as np
from bsst.errors import UsageError
from bsst.runtime.network.network import host_network
from bsst.runtime.restore import deblur_frames
from tests.runtime.fake_stages import fake_manifest, fake_stages

manifest = fake_manifest(3, ("backward_1", "forward_1"))
network = host_network(manifest, fake_stages(manifest), in_flight=2, lanes=2)
frames = np.random.default_rng(0).random((4, 3, 8, 12), dtype=np.float32)
assert len(list(deblur_frames(frames, network))) == 4  # its threads run
child = os.fork()
if child == 0:
    try:
        list(deblur_frames(frames, network))
    except UsageError as error:
        print(error, flush=True)
    network.cancel()
    network.close()
    sys.exit(7)  # with all that the interpreter does at its end
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
assert len(list(deblur_frames(frames, network))) == 4
network.close()
"""


def test_a_network_opened_before_a_fork_says_so_in_the_child_and_goes_on_in_the_parent() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD],
        cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    message, status = done.stdout.splitlines()
    assert "its parent; open it after the fork" in message
    assert status == "7"
