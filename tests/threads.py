"""Threads that a test left behind."""

from __future__ import annotations

import threading


def left_threads() -> list[str]:
    """Names of all threads but the main one and fsspec's, which runs from the first URL to the end of the process."""
    return [t.name for t in threading.enumerate() if t is not threading.main_thread() and t.name != "fsspecIO"]
