"""All that `docs/gpu.md` says about a GPU, measured on the one that is here: a section with its name and the date.

    python benchmarks/gpu.py                        # prints the section, keeps it in gpu.md
    python benchmarks/gpu.py --readme docs/gpu.md   # and puts it between the marks of that page
    TRITON_INTERPRET=1 python benchmarks/gpu.py --small --parts kernels reference    # what a CPU can do of it

Parts: `kernels` (right on every test case, by Triton's launcher and by the driver from the PTX that TensorRT gets, then
timed), `reference` (the released network against its golden tensors, then time and memory), `device` (copies and graphs
through every installed package), `targets` (what `bsst doctor --selftest` measures), `frames` (a clip through
`deblur_frames`, by every target that runs here). A part that fails says so in the section and does not stop the others;
the exit code is 1 then.

`docs/gpu.md` holds a run on an H200; the parts that a CPU can do are tested.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

BEGIN, END = "<!-- benchmarks/gpu.py -->", "<!-- end of benchmarks/gpu.py -->"
PACKAGES = ("bsst", "torch", "triton", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "cuda-bindings")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--small", action="store_true", help="small sizes, also on a CPU")
    parser.add_argument("--output", type=Path, default=Path("gpu.md"), help="where the section is kept")
    parser.add_argument("--readme", type=Path, help="page in which the section replaces what is between the marks")
    options = parser.parse_args(arguments)
    text, failed = section({name: PARTS[name] for name in options.parts}, machine(), small=options.small)
    print(text)
    options.output.write_text(text, encoding="utf-8")
    if options.readme is not None:
        options.readme.write_text(replaced(options.readme.read_text(encoding="utf-8"), text), encoding="utf-8")
    return int(failed)


def section(parts: dict[str, Callable[[bool], Iterable[str]]], title: str, *, small: bool) -> tuple[str, bool]:
    """Markdown of all parts, and whether any failed; lines appear on standard error as they come."""
    lines, failed = [f"Measured on {title}.", ""], False
    for name, part in parts.items():
        lines += [f"**{name}**", ""]
        try:
            for line in part(small):
                print(f"{name}: {line}", file=sys.stderr, flush=True)
                lines.append(line)
                failed = failed or "FAILED" in line
        except Exception as problem:  # one part must not take the others with it
            traceback.print_exc(limit=-4)
            lines.append(f"FAILED: {type(problem).__name__}: {' '.join(str(problem).split())[:300]}")
            failed = True
        lines.append("")
    return "\n".join(lines), failed


def replaced(document: str, text: str) -> str:
    """`document` with `text` between its marks, which are put at its end where there are none."""
    if BEGIN not in document:
        document = f"{document.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, _, rest = document.partition(BEGIN)
    return f"{before}{BEGIN}\n{text.strip()}\n{END}{rest.partition(END)[2]}"


def machine() -> str:
    """Card, driver, clocks, versions and the date."""
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    fields = "name,driver_version,memory.total,clocks.sm,clocks.mem,power.limit"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        card = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):  # a container may have the driver without its tools
        from bsst.runtime.devices.cuda_driver import find_gpus

        cards = [f"{gpu.name}, SM {gpu.compute_capability}, {gpu.memory_bytes >> 20} MiB" for gpu in find_gpus()]
        without = f"a machine without an NVIDIA GPU ({platform.machine()}, {os.cpu_count()} cores)"
        card = cards[0] if cards else without
    return f"{card}, Python {platform.python_version()}, {', '.join(versions)}, {datetime.date.today().isoformat()}"


def kernels(small: bool) -> Iterable[str]:
    """Correctness gate of every case and dtype, then times."""
    from gpu_kernels import compare, has_gpu, timings

    yield from compare(quick=small)
    if has_gpu():
        yield from ("", *timings(quick=small))


def reference(small: bool) -> Iterable[str]:
    """Golden tensors, then milliseconds per frame and memory."""
    from gpu_reference import golden, speed

    if not small:
        yield from golden()
    yield from ("", "| network | frames | precision | ms per frame | as a graph | flows | memory |", "|---" * 7 + "|")
    yield from speed(small)


def device(small: bool) -> Iterable[str]:
    """Ordered copies and a captured graph, through every package that is installed."""
    from bsst.runtime.devices.cuda_api import installed_apis

    for name in installed_apis():
        os.environ["BSST_CUDA_API"] = name
        yield _copies(4 if small else 64)
    os.environ.pop("BSST_CUDA_API", None)


def _copies(mebi_values: int) -> str:
    import numpy as np

    from bsst.runtime.devices.base import DeviceTensor
    from bsst.runtime.devices.cuda import CudaDevice
    from bsst.runtime.devices.cuda_graph import capture

    with CudaDevice() as gpu:
        shape = (mebi_values, 1024, 1024)
        source, target = gpu.host_array(shape, "float32"), gpu.host_array(shape, "float32")
        source[...] = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        place = DeviceTensor(gpu.allocate(source.nbytes), "float32", shape)
        first, second = gpu.stream("first"), gpu.stream("second")

        def arrives() -> bool:
            second.wait(first.record())
            second.download(place, target)
            second.synchronize()
            return bool(np.array_equal(source, target))

        first.upload(source, place)
        ordered = arrives()
        source += 1
        with gpu.current():
            graph = capture(gpu.api, first.handle, lambda: first.upload(source, place))
            graph.launch(first.handle)
        launched = arrives()
        with gpu.current():
            graph.close()
        verdict = "ok" if ordered and launched else "FAILED"
        return f"{verdict}: {gpu.api.name} on {gpu.name}, ordered copies {ordered}, graph {launched}"


def targets(small: bool) -> Iterable[str]:
    """Tables of the self-test."""
    from bsst.engines.doctor.report import targets_table
    from bsst.engines.doctor.selftest import selftest

    with tempfile.TemporaryDirectory() as folder:
        results = selftest(Path(folder), progress=lambda step: print(f"targets: {step}", file=sys.stderr, flush=True))
    yield from targets_table(results).splitlines()


def frames(small: bool) -> Iterable[str]:
    """Frames as a caller gets them: tiles, windows, flow and copies included, against the CPU."""
    import numpy as np

    from bsst.engines.doctor.measure import MINIMUM_PSNR
    from bsst.engines.doctor.selftest import CANDIDATES, build_plan, why_not
    from bsst.errors import BsstError
    from bsst.runtime.devices.cuda_driver import find_gpus
    from bsst.runtime.metrics import float_psnr
    from bsst.runtime.network.network import DEFAULT_PLAN, load_network
    from bsst.runtime.one_clip import moving_texture
    from bsst.runtime.restore import deblur_frames

    gpus = find_gpus()
    count, height, width = (4, 128, 160) if small else (24, 384, 640)
    clip = moving_texture(count, height, width)
    yield from (
        "",
        f"| {width}x{height}, {count} frames | by | PSNR against the CPU | ms per frame |",
        "|---" * 4 + "|",
    )
    expected = None
    with tempfile.TemporaryDirectory() as folder:
        for target, precision in CANDIDATES:
            if why_not(target, gpus):
                continue
            try:
                plan = build_plan(DEFAULT_PLAN, Path(folder), target, precision, gpus)
                with load_network(plan) as network:
                    if network.on_gpu:
                        list(deblur_frames(clip, network))  # clocks rise, libraries choose their kernels
                    started = time.perf_counter()
                    sharp = np.stack(list(deblur_frames(clip, network)))
                    milliseconds = 1000 * (time.perf_counter() - started) / count
                    line = network.line
            except BsstError as error:
                yield f"| {target} {precision} | FAILED: {error} | | |"
                continue
            expected = sharp if expected is None else expected
            figure = float_psnr(expected, sharp, 1.0)
            verdict = "" if figure >= MINIMUM_PSNR else "FAILED: "
            yield f"| {target} {precision} | {line} | {verdict}{figure:.1f} dB | {milliseconds:.2f} |"


PARTS: dict[str, Callable[[bool], Iterable[str]]] = {
    "kernels": kernels,
    "reference": reference,
    "device": device,
    "targets": targets,
    "frames": frames,
}

if __name__ == "__main__":
    sys.exit(main())
