"""Kernels compiled ahead of time for every GPU of the contract: compiled and assembled, not run."""

import dataclasses
import hashlib
import os
import re
import subprocess
import sys
import types

import pytest

from bsst.errors import ExportError
from bsst.plugins.operator_schema import CAPABILITIES
from bsst.plugins.sparse_window_attention.geometry import Geometry as AttentionGeometry

pytest.importorskip("triton")

from bsst.plugins.modulated_deform_conv.triton_kernel import compile_for as compile_convolution
from bsst.plugins.sparse_window_attention.triton_kernel import compile_for as compile_attention
from bsst.plugins.triton_compile import SHARED_LIMIT_BYTES, _without_scratch
from tests.plugins.ptxas import ATTENTION, CONVOLUTION, assemble

KERNELS = {"convolution": (compile_convolution, CONVOLUTION, 11), "attention": (compile_attention, ATTENTION, 10)}
EDGE = {
    "convolution": (compile_convolution, dataclasses.replace(CONVOLUTION, channels=72, outputs=36, offset_groups=4)),
    "attention": (compile_attention, dataclasses.replace(ATTENTION, heads=2, head_channels=32, group_frames=3)),
}
UGLY = {
    "convolution-uneven": (
        compile_convolution,
        dataclasses.replace(CONVOLUTION, channels=30, outputs=42, kernel_shape=(3, 2), groups=6, offset_groups=5),
    ),
    "convolution-many-outputs": (compile_convolution, dataclasses.replace(CONVOLUTION, outputs=400)),
    "attention-uneven": (
        compile_attention,
        AttentionGeometry(heads=3, head_channels=20, window=6, pooled=5, group_frames=2, expandable_groups=2),
    ),
    "attention-one-token-groups": (
        compile_attention,
        AttentionGeometry(heads=1, head_channels=4, window=2, pooled=0, group_frames=1, expandable_groups=1),
    ),
}


@pytest.mark.parametrize("half", [True, False], ids=["float16", "float32"])
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("name", KERNELS)
def test_released_sizes_fit_every_gpu_without_spills(name, capability, half) -> None:
    compile_for, geometry, arguments = KERNELS[name]
    kernel = compile_for(geometry, half=half, capability=capability)
    assert kernel.shared_bytes < SHARED_LIMIT_BYTES
    assert assemble(kernel.ptx, capability).spill_bytes == 0
    assert len(re.findall(rf"\.param [^\n]*{kernel.entry}_param_\d+", kernel.ptx)) == arguments
    assert f"{kernel.entry}_param_{arguments}" not in kernel.ptx
    assert f".reqntid {kernel.threads}" in kernel.ptx
    suffix = "a" if capability in (90, 120) else ""
    assert f".target sm_{capability}{suffix}\n" in kernel.ptx
    assert f".version {'8.7' if capability >= 100 else '8.2'}\n" in kernel.ptx
    assert re.search(r"mma\.sync\.aligned|wgmma\.mma_async", kernel.ptx)


@pytest.mark.parametrize("half", [True, False], ids=["float16", "float32"])
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("name", EDGE)
def test_packaged_sizes_fit_every_gpu_without_spills(name, capability, half) -> None:
    compile_for, geometry = EDGE[name]
    kernel = compile_for(geometry, half=half, capability=capability)
    assert kernel.shared_bytes < SHARED_LIMIT_BYTES
    assert assemble(kernel.ptx, capability).spill_bytes == 0


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_gathers_take_16_bytes_at_a_time(capability) -> None:
    biases = {"convolution": 2, "attention": 0}  # at most one load for each tile of outputs
    for name, (compile_for, geometry, _) in KERNELS.items():
        ptx = compile_for(geometry, half=True, capability=capability).ptx
        copies = re.findall(r"cp\.async\.c[ga]\.shared\.global \[[^]]*\], \[[^]]*\], (0x\w+)", ptx)
        if (name, capability) == ("attention", 90):  # one step in flight: loaded into registers, not copied ahead
            assert not copies
            assert len(re.findall(r"ld\.global\S*\.v4\.b32", ptx)) >= 16
        else:
            assert copies.count("0x10") >= 16
        # Only offsets, masks and table entries are loaded one by one.
        assert set(copies) <= {"0x10", "0x4"}
        assert len(re.findall(r"ld\.global\S*\.b16", ptx)) <= biases[name]


@pytest.mark.parametrize("half", [True, False], ids=["float16", "float32"])
@pytest.mark.parametrize("name", UGLY)
def test_general_sizes_compile_and_assemble(name, half) -> None:
    compile_for, geometry = UGLY[name]
    kernel = compile_for(geometry, half=half, capability=86)
    assert assemble(kernel.ptx, 86).registers > 0


@pytest.mark.parametrize("half", [True, False], ids=["float16", "float32"])
def test_a_kernel_that_needs_more_shared_memory_than_every_gpu_has_is_refused(half) -> None:
    with pytest.raises(ExportError, match="shared memory"):
        compile_attention(dataclasses.replace(ATTENTION, head_channels=129), half=half, capability=80)


PTX = """
.visible .entry scale(
	.param .u64 .ptr .global .align 16 scale_param_0,
	.param .u32 scale_param_1,
	.param .u64 .ptr .global .align 1 scale_param_2,
	.param .u64 .ptr .global .align 1 scale_param_3
)
.reqntid 128
{
	ld.param.b64 	%rd1, [scale_param_0];
	ret;
}
"""


def test_scratch_pointers_that_nothing_reads_are_removed() -> None:
    cleaned = _without_scratch(PTX, "scale", 2)
    assert re.findall(r"scale_param_\d", cleaned) == ["scale_param_0", "scale_param_1", "scale_param_0"]
    assert "scale_param_1\n)" in cleaned


@pytest.mark.parametrize(
    ("ptx", "arguments"),
    [(PTX.replace("[scale_param_0]", "[scale_param_3]"), 2), (PTX, 1), (PTX, 3), (PTX.replace("scale_", "other_"), 2)],
    ids=["read", "more parameters", "fewer parameters", "another entry"],
)
def test_an_entry_with_other_parameters_is_refused(ptx, arguments) -> None:
    with pytest.raises(ExportError, match="two unused scratch pointers"):
        _without_scratch(ptx, "scale", arguments)


def test_a_kernel_that_needs_scratch_memory_is_refused(monkeypatch) -> None:
    compile_for, geometry = EDGE["attention"]

    def compiled(*_, **__):
        metadata = types.SimpleNamespace(name="k", shared=0, global_scratch_size=0, profile_scratch_size=16)
        return types.SimpleNamespace(metadata=metadata, asm={"ptx": PTX})

    monkeypatch.setattr("triton.compile", compiled)
    with pytest.raises(ExportError, match="no scratch memory"):
        compile_for(geometry, half=True, capability=80)


def test_equal_sources_give_equal_bytes_in_another_process(tmp_path) -> None:
    program = (
        "import hashlib; from tests.plugins.test_triton_compile import *;"
        "kernels = [compile(g, half=True, capability=89) for compile, g in EDGE.values()];"
        "print(*[hashlib.sha256(kernel.ptx.encode()).hexdigest() for kernel in kernels])"
    )
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONHASHSEED": "7"}
    other = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    here = [compile_for(geometry, half=True, capability=89).ptx for compile_for, geometry in EDGE.values()]
    assert other == [hashlib.sha256(ptx.encode()).hexdigest() for ptx in here]
    assert not any(re.search(r"\.loc|\.file|/", ptx.replace("//", "")) for ptx in here)
