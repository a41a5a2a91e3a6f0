"""Where the programs start, `python -m bsst COMMAND` too.

Ctrl-C is one line and status 130 from here on, while the commands are still being imported. Before that Python itself
starts, some hundredths of a second, and answers in its own words.
"""

import os
import signal
from functools import partial

__all__ = ["calibrate", "doctor", "export", "inspect", "main", "parity", "run"]

EXIT_INTERRUPTED = 130  # as in bsst.errors; nothing is imported before the handler is in place


def _start(command: str) -> None:
    signal.signal(signal.SIGINT, _quit)
    try:
        from bsst import cli

        program = "bsst" if command == "main" else f"bsst-{command}"
        getattr(cli, command)(prog_name=program)
    finally:
        signal.signal(signal.SIGINT, _leave)


def _quit(number: int, frame: object) -> None:
    os.write(2, b"error: interrupted; nothing was written\n")
    os._exit(EXIT_INTERRUPTED)


def _leave(number: int, frame: object) -> None:
    os._exit(EXIT_INTERRUPTED)  # what was to be said has been said


main, run, export, calibrate, inspect, parity, doctor = (
    partial(_start, name) for name in ("main", "run", "export", "calibrate", "inspect", "parity", "doctor")
)

if __name__ == "__main__":
    main()
