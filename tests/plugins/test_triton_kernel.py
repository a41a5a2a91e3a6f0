"""The Triton kernels in the interpreter, against the references, on outputs poisoned with NaN."""

import json
import os
import subprocess
import sys

import pytest
import torch

from tests.plugins.cases import ATTENTION_CASES, CONVOLUTION_CASES

pytest.importorskip("triton")

CASES = CONVOLUTION_CASES + ATTENTION_CASES

pytestmark = pytest.mark.timeout(3600)  # an interpreter on a busy machine


@pytest.fixture(scope="module")
def errors() -> dict[str, float]:
    """Error of every case and dtype; one process, because Triton chooses the interpreter when it is imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.plugins.interpret"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("case", CASES, ids=[f"{case.schema.name}-{case.label}" for case in CASES])
def test_kernel_equals_the_reference_and_writes_everything(case, dtype, errors) -> None:
    assert errors[f"{case.schema.name}-{case.label}-{dtype}"] <= case.tolerance(dtype)
