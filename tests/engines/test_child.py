from __future__ import annotations

import sys
import time

from bsst.engines.child import ChildResult, run_limited


def run(script: str, **limits: float) -> ChildResult:
    chosen = {"time_limit_seconds": 60.0, "memory_limit_bytes": 4 << 30} | limits
    return run_limited(
        [sys.executable, "-c", script],
        time_limit_seconds=chosen["time_limit_seconds"],
        memory_limit_bytes=int(chosen["memory_limit_bytes"]),
    )


def test_success_gives_both_streams_in_order_and_the_peak() -> None:
    result = run(
        "import sys, time; print('a', flush=True); print('b', file=sys.stderr); x = bytearray(90 << 20); time.sleep(.5)"
    )
    assert (result.failure, result.lines) == (None, ("a", "b"))
    assert 0.5 <= result.seconds < 30
    assert 90 << 20 < result.peak_bytes < 500 << 20


def test_each_kind_of_end_is_told_apart() -> None:
    assert run("raise SystemExit(3)").failure == "exit status 3"
    assert run("import os; os.abort()").failure == "killed by SIGABRT"
    assert run("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)").failure == "killed by SIGSEGV"


def test_a_hang_ends_at_the_time_limit() -> None:
    started = time.monotonic()
    result = run("import time; print('x', flush=True); time.sleep(600)", time_limit_seconds=1.0)
    assert result.failure == "stopped at its time limit of 1 s"
    assert result.lines == ("x",)
    assert time.monotonic() - started < 30


def test_greed_ends_at_the_memory_limit() -> None:
    script = "import time\nx = []\nwhile True: x.append(bytearray(20 << 20)); time.sleep(0.05)"
    result = run(script, memory_limit_bytes=200_000_000)
    assert result.failure == "stopped at its memory limit of 200 MB"
    assert result.peak_bytes < 1 << 30


def test_bytes_that_are_no_text_do_not_stop_the_reader() -> None:
    assert run(r"import sys; sys.stdout.buffer.write(b'\xff\n')").lines == ("�",)
