"""Ratios that speed is judged by, and what they were: a machine's own speed cancels out of a ratio, its noise does not.

`speed_ratios.json` holds what is known of the packaged plan: pixels computed are exact, ratios of speed are of two
cores of an AMD EPYC; what has no record is told and not compared. `benchmarks/cpu_clip.py --check` and
`benchmarks/edge_cost.py --check` (`make nightly`) fail where a ratio is worse than its record by more than `NOISE`,
twice what medians of three interleaved rounds were seen to move. On a quiet machine `--record` in place of `--check`
makes what is measured the record.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

__all__ = ["NOISE", "check", "judge", "peak_megabytes", "sgemm_gigaflops"]

RECORD = Path(__file__).with_name("speed_ratios.json")
NOISE = 0.2


def sgemm_gigaflops(*, side: int = 1536, repeats: int = 3, clock: Callable[[], float] = time.perf_counter) -> float:
    """What a product of float32 matrices reaches on all cores that numpy may use, in units of 10^9 operations a second.

    The median of a few: they run between the sides of a benchmark, which must not notice.
    """
    a, b = (np.random.default_rng(seed).random((side, side), dtype=np.float32) for seed in (0, 1))
    seconds = []
    for _ in range(repeats + 1):
        started = clock()
        a @ b
        seconds.append(clock() - started)
    return 2 * side**3 / statistics.median(seconds[1:]) / 1e9


def check(measured: dict[str, float]) -> list[str]:
    """A line for each ratio that is worse than its record; larger is better, but for names that begin with "pixels".

    Pixels computed are exact, and may not grow at all.
    """
    record: dict[str, float] = json.loads(RECORD.read_text())
    worse = []
    for name, value in measured.items():
        if name not in record:
            continue
        limit = record[name] * (1 + 1e-6 if name.startswith("pixels") else 1 - NOISE)
        if value > limit if name.startswith("pixels") else value < limit:
            worse.append(f"{name}: expected {limit:.3f} or better, got {value:.3f}")
    return worse


def judge(measured: dict[str, float], *, check_them: bool, record_them: bool) -> None:
    """Compare with the record, or become it; others in the record stay.

    Raises:
        SystemExit: a ratio is worse than its record.
    """
    if check_them and (worse := check(measured)):
        raise SystemExit("\n".join(worse))
    if record_them:
        record = json.loads(RECORD.read_text()) | {
            name: value if name.startswith("pixels") else round(value, 3) for name, value in measured.items()
        }
        RECORD.write_text(json.dumps(dict(sorted(record.items())), indent=2) + "\n")


def peak_megabytes() -> float:
    """The most memory that this process has had. Not getrusage: that starts from the size of whoever forked it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
