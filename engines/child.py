"""A compiler run in a process of its own, so that its crash, hang or greed ends in one error here.

The memory limit is on resident memory, which is watched; limits on address space would refuse compilers that reserve
far more than they use.
"""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from bsst.system import kill_tree, resident_bytes

__all__ = ["ChildResult", "run_limited"]

_POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class ChildResult:
    """How a child process ended."""

    failure: str | None
    """None after exit 0; otherwise the reason in words: exit status, signal, time or memory limit."""
    lines: tuple[str, ...]
    """Standard output and error, in order."""
    seconds: float
    """Wall clock time."""
    peak_bytes: int
    """Largest resident memory seen."""


def run_limited(
    command: Sequence[str],
    *,
    time_limit_seconds: float,
    memory_limit_bytes: int,
    on_line: Callable[[str], None] | None = None,
) -> ChildResult:
    """Run `command` to its end or to its limit; it and its children are killed beyond that, or when we are interrupted.

    Args:
        command: program and arguments; the environment is inherited.
        time_limit_seconds: wall clock limit.
        memory_limit_bytes: limit on the resident memory of the process itself.
        on_line: called from another thread with every line as it is printed.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    lines: list[str] = []
    reader = threading.Thread(target=_read, args=(process, lines, on_line), daemon=True)
    reader.start()
    limit: str | None = None
    peak = 0
    try:
        while process.poll() is None and limit is None:
            peak = max(peak, resident_bytes(process.pid))
            if time.monotonic() - started > time_limit_seconds:
                limit = f"stopped at its time limit of {time_limit_seconds:g} s"
            elif peak > memory_limit_bytes:
                limit = f"stopped at its memory limit of {memory_limit_bytes / 1e6:.0f} MB"
            with suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SECONDS)
    finally:
        if process.poll() is None:
            kill_tree(process)
            process.wait()
        reader.join()
        if process.stdout is not None:
            process.stdout.close()
    return ChildResult(
        failure=limit or _failure(process.returncode),
        lines=tuple(lines),
        seconds=time.monotonic() - started,
        peak_bytes=peak,
    )


def _read(process: subprocess.Popen[str], lines: list[str], on_line: Callable[[str], None] | None) -> None:
    for line in process.stdout or ():
        lines.append(line.rstrip("\n"))
        if on_line is not None:
            on_line(lines[-1])


def _failure(returncode: int) -> str | None:
    if returncode == 0:
        return None
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"exit status {returncode}"
