"""A plan runs where neither torch nor onnx nor any development package is installed."""

import re
import subprocess
import sys

import pytest

BLOCK = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "onnx", "onnxscript", "onnx_ir", "safetensors", "scipy", "skimage"}:
            raise ImportError(f"{name} imported")
sys.meta_path.insert(0, Refuse())
"""


@pytest.mark.parametrize(
    "code",
    [
        "import bsst, bsst.cli, bsst.runtime.job, bsst.runtime.network.network, bsst.runtime.sessions.ort",
        "from bsst.runtime.network.network import load_network; load_network()",
        "from bsst.cli import main; main(['run', '--help'], standalone_mode=False)",
        "from bsst.cli import main; main(['inspect'], standalone_mode=False)",
    ],
)
def test_runtime_needs_no_export_package(code: str) -> None:
    result = subprocess.run([sys.executable, "-c", BLOCK + code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_runtime_imports_nothing_of_reference_or_export() -> None:
    code = (
        "import sys, bsst.cli, bsst.runtime.job, bsst.runtime.network.network, bsst.runtime.sessions.ort\n"
        "print([m for m in sys.modules if m.startswith(('bsst.reference', 'bsst.export', 'bsst.plugins'))])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout.strip() == "[]", result.stderr


def test_exporting_without_torch_says_what_to_install(tmp_path) -> None:
    code = BLOCK + "from bsst.cli import export; export()"
    result = subprocess.run(
        [sys.executable, "-c", code, "-o", str(tmp_path / "x.plan")], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 5
    assert "pip install 'bsst[export]'" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "module", ["bsst.config", "bsst.plugins", "bsst.reference.checkpoint", "bsst.reference.bsstnet"]
)
def test_networks_and_operators_need_neither_video_nor_engines(module: str) -> None:
    refused = {"av", "click", "filelock", "onnx", "onnxruntime", "onnxscript", "onnx_ir", "platformdirs", "rich"}
    block = re.sub(r"in \{.*?\}", f"in {refused}", BLOCK)
    code = f"{block}import {module}, sys; print(sorted({refused} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


@pytest.mark.parametrize("module", ["bsst", "bsst.__main__"])
def test_a_first_import_takes_nothing_but_the_standard_library(module: str) -> None:
    code = f"""
import sys
before = set(sys.modules)
import {module}
print(sorted({{m.split(".")[0] for m in set(sys.modules) - before}} - set(sys.stdlib_module_names)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "['bsst']", result.stderr


@pytest.mark.parametrize("command", ["run", "export", "parity", "calibrate", "inspect", "doctor"])
def test_help_needs_neither_arrays_nor_video_nor_engines(command: str) -> None:
    block = BLOCK.replace('"torch", ', '"torch", "numpy", "av", "onnxruntime", "rich", "filelock", ')
    code = f"{block}from bsst.cli import main; main(['{command}', '--help'], standalone_mode=False)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_every_public_name_of_the_package_is_found_when_it_is_used() -> None:
    import bsst

    assert all(hasattr(bsst, name) for name in bsst.__all__)
    assert set(bsst.__all__) <= set(dir(bsst))
    with pytest.raises(AttributeError, match="module 'bsst' has no attribute 'nothing'"):
        bsst.nothing  # noqa: B018
