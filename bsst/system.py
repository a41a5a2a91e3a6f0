"""What differs between operating systems, in one place: cores, memory, processes, the name of NVIDIA's driver.

Run on Linux alone. What Windows and macOS lack (`resource`, process groups, `/proc`, the set of usable cores) is taken
away in `tests/bsst/test_system.py`, and the other way is tested there.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

__all__ = [
    "kill_tree",
    "memory_bytes",
    "nvidia_driver",
    "peak_bytes",
    "processor_name",
    "resident_bytes",
    "return_freed_frames",
    "usable_cores",
]

M_MMAP_THRESHOLD = -3
"""Of malloc.h."""


def usable_cores() -> int:
    """Cores that this process may use; all of them on macOS, which does not pin processes to cores."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):
        return len(process.cpu_affinity())
    return os.cpu_count() or 1


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 once it has ended."""
    with suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def peak_bytes() -> int:
    """Most memory that this process has had.

    Linux tells in `/proc`; its `getrusage` begins with what the parent had at the fork. Windows tells `peak_wset`.
    """
    with suppress(OSError, IndexError):
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    if peak := getattr(psutil.Process().memory_info(), "peak_wset", 0):
        return int(peak)
    import resource  # everywhere but on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def return_freed_frames() -> None:
    """Let glibc return blocks of 4 MB and more to the system when they are freed.

    By itself it does so only until the first few of a size were freed, up to 32 MB, and then keeps them in its heaps:
    the frames of a video, among whatever lives longer. Other libraries of C are left as they are.

    Source: https://man7.org/linux/man-pages/man3/mallopt.3.html, `M_MMAP_THRESHOLD`.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 4 << 20)


def memory_bytes() -> tuple[int, int]:
    """Bytes that are free for this process, and those that it could have at most, swap included.

    A container's limit (cgroup v2) is below the machine's as a rule.
    """
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    free, most = memory.available + swap.free, memory.total + swap.total
    with suppress(OSError, ValueError):  # ValueError: "max"
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        free, most = min(free, limit - used), min(most, limit)
    return free, most


def kill_tree(process: subprocess.Popen[str]) -> None:
    """End a process that was started with `start_new_session=True`, and all that it started, at once.

    Its process group also holds those whose parents have ended; Windows has none, and its processes are looked up by
    their parents.
    """
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(process.pid)
        for member in (*root.children(recursive=True), root):
            with suppress(psutil.NoSuchProcess):
                member.kill()


def nvidia_driver() -> str:
    """File name under which the system finds NVIDIA's driver library."""
    return "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def processor_name() -> str:
    """Model of the CPU, for reports."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return names[0] if names else platform.machine()
    return platform.processor() or platform.machine()
