"""The exported model on a real Triton Inference Server: the one inside nvidia-pytriton (`make test-triton`)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import bsst
from bsst.runtime.one_clip import moving_texture
from bsst.triton_server.repository import write_model

CLIENT = """
import sys
import numpy as np
import tritonclient.http as http
from tritonclient.utils import InferenceServerException
client = http.InferenceServerClient(sys.argv[1], connection_timeout=600, network_timeout=600)
for source in sys.argv[2:]:
    clip = np.load(source)
    frames = http.InferInput("FRAMES", clip.shape, "UINT8")
    frames.set_data_from_numpy(clip)
    try:
        np.save(source, client.infer("bsst", [frames]).as_numpy("SHARP"))
    except InferenceServerException as error:
        print(error)
"""


@contextmanager
def server(models: Path, folder: Path) -> Iterator[str]:
    """An address; models run in the Python of this test, which the backend finds by PATH."""
    python = os.environ["BSST_TRITON_PYTHON"]
    found = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('platlib'))"], capture_output=True, text=True
    )
    packages = Path(found.stdout.strip())
    pytriton = packages / "pytriton" / "tritonserver"
    shutil.copytree(pytriton / "backends" / "python", folder / "python")
    stub = pytriton / "python_backend_stubs" / "{}.{}".format(*sys.version_info) / "triton_python_backend_stub"
    shutil.copy(stub, folder / "python")
    libraries = f"{packages / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [pytriton / "bin" / "tritonserver", f"--model-repository={models}", f"--backend-directory={folder}"]
    command += ["--http-address=127.0.0.1", "--http-port=18642", "--allow-grpc=false", "--allow-metrics=false"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env={**os.environ, "PATH": path, "LD_LIBRARY_PATH": libraries}, stdout=log, stderr=log
        )
        try:
            for _ in range(600):
                said = (folder / "log").read_text()
                if "Started HTTPService" in said:
                    break
                assert process.poll() is None, said
                time.sleep(0.2)
            assert "plan of target cpu runs on ONNX Runtime" in said
            yield "127.0.0.1:18642"
        finally:
            process.terminate()
            process.wait(60)


@pytest.mark.needs_triton
def test_a_live_server_answers_with_the_frames_of_deblur_frames_and_refuses_an_empty_clip(
    cpu_plan: Path, tmp_path: Path
) -> None:
    folder = write_model(cpu_plan, tmp_path / "models")
    (folder / "config.pbtxt").write_text((folder / "config.pbtxt").read_text().replace('"0"', '"1"'))
    codes = (moving_texture(9, 66, 98) * 255).round().astype(np.uint8)
    clip = np.ascontiguousarray(codes.transpose(0, 2, 3, 1))
    np.save(tmp_path / "clip.npy", clip)
    np.save(tmp_path / "empty.npy", clip[:0])
    with bsst.load_network(cpu_plan, threads=1) as network:
        expected = np.stack(list(bsst.deblur_frames(clip, network)))
    assert not np.array_equal(expected, clip)
    (tmp_path / "backends").mkdir()
    with server(tmp_path / "models", tmp_path / "backends") as address:
        command = [os.environ["BSST_TRITON_PYTHON"], "-c", CLIENT, address, "empty.npy", "clip.npy"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert "expected frames, got (0, 66, 98, 3); send at least one" in done.stdout, done
    np.testing.assert_array_equal(np.load(tmp_path / "clip.npy"), expected)
