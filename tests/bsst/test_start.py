"""A program starts: Ctrl-C at any moment is one line, status 130, no traceback, and HOME stays as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.media import Clip

ROOT = Path(__file__).parents[2]

START = """
import os, signal, sys, weakref

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == module and how == "module":
            os.kill(os.getpid(), signal.SIGINT)
        elif name == module:  # the exception is dropped by Python, as in a callback of the import system
            class Dropped:
                def __del__(self):
                    os.kill(os.getpid(), signal.SIGINT)
                    for _ in range(1000):
                        pass
            Dropped()

module, how = sys.argv[1:3]
sys.meta_path.insert(0, Interrupts())
sys.argv[1:3] = []
from bsst.__main__ import run
run()
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Clip(size=(32, 32)).write(tmp_path_factory.mktemp("start") / "clip")


@pytest.mark.parametrize(
    ("module", "how"),
    [
        ("click", "module"),
        ("numpy._core._multiarray_umath", "module"),
        ("onnxruntime.capi.onnxruntime_pybind11_state", "module"),
        ("bsst.runtime.video.writer", "module"),
        ("av.filter", "dropped"),
    ],
)
def test_ctrl_c_while_a_module_is_imported_is_one_line(clip: Path, module: str, how: str) -> None:
    command = [sys.executable, "-c", START, module, how, str(clip)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "error: interrupted; nothing was written\n"
    assert [path.name for path in clip.parent.iterdir()] == ["clip.mp4"]


STARTING = """
import os, signal, sys
if "--multiprocessing-fork" in sys.orig_argv:
    os.kill(os.getppid(), signal.SIGINT)  # Ctrl-C reaches all processes of a terminal
    os.kill(os.getpid(), signal.SIGINT)
"""


def test_ctrl_c_while_workers_start_is_one_line(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(STARTING)
    command = [sys.executable, "-m", "bsst", "run", str(clip), "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 130, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert lines == ["error: interrupted; nothing was written"]
    assert "Traceback" not in done.stderr
    assert [path.name for path in clip.parent.iterdir()] == ["clip.mp4"]


def test_an_empty_home_stays_empty(clip: Path, cpu_plan: Path, tmp_path: Path) -> None:
    (home := tmp_path / "home").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_", "BSST_"))}
    command = [sys.executable, "-m", "bsst", "run", str(cpu_plan), str(clip), "-o", str(tmp_path / "out.mkv")]
    subprocess.run(command, check=True, capture_output=True, timeout=120, env={**environment, "HOME": str(home)})
    assert list(home.rglob("*")) == []


def test_next_to_nothing_is_loaded_before_ctrl_c_is_answered() -> None:
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import bsst.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", start], capture_output=True, text=True, check=True)
    assert {"bsst.__main__", "_signal"} <= set(done.stdout.split())
    unwanted = "click collections contextlib enum functools importlib pathlib re signal typing"
    assert set(done.stdout.split()).isdisjoint(unwanted.split())
